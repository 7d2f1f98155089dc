"""Values that are slow to parse: `python -m tests.campaigns.shapes [--bytes N]`.

Values of the worst shapes, each given to every parser of received values, with N and 4 N bytes:
nanoseconds per byte, and the growth of the time. A growth of 4 is linear; values above 8 are listed
again at the end, and the exit status is 1. The values are hostile only by their length.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from engine.registration import digest
from engine.telemetry.masking import cleaner
from rules.contact import read_contact
from rules.model import DocumentError
from sip import bodies, grammar, headers, privacy, relayed_fields, replaces, session_expires
from sip.framing import Frames
from sip.message import Message
from sip.names import place_of

Shape = Callable[[int], bytes]
Reader = Callable[[bytes], Any]


def _many(piece: bytes, start: bytes = b"", end: bytes = b"") -> Shape:
    return lambda size: start + piece * (size // len(piece)) + end


SHAPES: dict[str, Shape] = {
    "letters": _many(b"a"),
    "digits": _many(b"1"),
    "blanks": _many(b" ", b"a", b"b"),
    "tabs and blanks": _many(b" \t", b"a", b"b"),
    "commas": _many(b","),
    "semicolons": _many(b";"),
    "semicolons with blanks": _many(b"; "),
    "parameters": _many(b";a=b", b"<sip:a@b>"),
    "parameters without end": _many(b" ", b"<sip:a@b>;a"),
    "quotes": _many(b'"'),
    "quote that never ends": _many(b"a", b'"'),
    "escaped quotes": _many(b'\\"', b'"'),
    "backslashes": _many(b"\\", b'"'),
    "quotes in quotes": _many(b'"a" ', b"", b"<sip:a@b>"),
    "opening brackets": _many(b"<"),
    "closing brackets": _many(b">"),
    "brackets": _many(b"<>"),
    "bracket that never closes": _many(b"a", b"<sip:"),
    "addresses": _many(b"<sip:a@b>,"),
    "addresses with headers": _many(b"<sip:a?b=c>,"),
    "question marks": _many(b"?", b"sip:a"),
    "headers of a URI": _many(b"&a=b", b"<sip:a@b?a=b", b">"),
    "URIs in URIs": _many(b"sip:a:"),
    "at signs": _many(b"@", b"sip:"),
    "colons": _many(b":", b"sip:a@b"),
    "dots": _many(b"a.", b"sip:x@"),
    "square brackets": _many(b"[", b"sip:x@"),
    "percent signs": _many(b"%41", b"sip:"),
    "half escapes": _many(b"%", b"sip:"),
    "slashes": _many(b"/", b"SIP"),
    "equals signs": _many(b"=", b";a"),
    "names with equals": _many(b"a =", b"Digest "),
    "letters and blanks": _many(b"a "),
    "comments": _many(b"("),
    "causes": _many(b"; ", b"<sip:a?x", b">"),
    "tags": _many(b";to-tag=a", b"x"),
    "Reason": _many(b"Q.850 ;cause=1,"),
    "anonymous": _many(b"anonymous.invalid", b"<sip:", b">"),
    "numbers": _many(b"<tel:+33123456789>,"),
    "UTF-8": _many("é".encode()),
    "secrets": _many(b"password=a basic b "),
    "passwords": _many(b"sip:a:", b"@"),
    "a header of a URI, and letters": _many(b"a", b"sip:a?b=c;"),
    "a header of a URI, and escaped quotes": _many(b'\\"', b'<sip:a?b=c>;d="'),
}
# The same within the head, as lines.
HEADS: dict[str, Shape] = {
    "folds": _many(b"\r\n a", b"Subject: a"),
    "folds of blanks": _many(b" \r\n ", b"Subject: a"),
    "blanks that fold nothing": _many(b" ", b"Subject: a", b"\nb: c"),
    "carriage returns": _many(b"\r", b"Subject: a", b"x: y"),
    "line feeds after blanks": _many(b" \n", b"a: b"),
    "bare line ends": _many(b"\nx:y", b"a: b"),
    "empty fields": _many(b"\r\nx:", b"a:"),
    "lines without a colon": _many(b"\r\nx", b"a: b"),
    "unknown fields without blanks": _many(b"\r\nq:", b"a:"),
    "blanks before a colon": _many(b" ", b"Subject", b": x"),
    "Vias": _many(b"\r\nVia: SIP/2.0/UDP a", b"a: b"),
    "Record-Routes": _many(b"\r\nRecord-Route: <sip:a;lr>", b"a: b"),
    "one Record-Route": _many(b"<sip:a;lr>,", b"Record-Route: "),
    "lengths": _many(b"\r\nl:\t", b"a: b"),
    "identities": _many(b"\r\nP-Asserted-Identity: <tel:+33123456789>", b"Privacy: id"),
    "identities in a list": _many(b"<tel:+33123456789>,", b"Privacy: id\r\nP-Asserted-Identity: "),
    "histories": _many(b"<sip:a?Privacy=history>;index=1,", b"History-Info: "),
}
FIELDS = (
    b"Via", b"From", b"To", b"Call-ID", b"CSeq", b"Contact", b"Max-Forwards", b"Record-Route",
    b"Subject", b"Replaces", b"Refer-To", b"Diversion", b"History-Info", b"Privacy", b"Reason",
    b"P-Asserted-Identity", b"Remote-Party-ID", b"Require", b"Session-Expires", b"Content-Type",
)  # fmt: skip
PLAIN = {
    b"Via": b"SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx", b"From": b"<sip:a@b>;tag=1",
    b"To": b"<sip:b@b>", b"Call-ID": b"x", b"CSeq": b"1 INVITE", b"Contact": b"<sip:a@192.0.2.1>",
}  # fmt: skip
LINEAR = 8.0  # a growth of 4, and room for noise
_clean = cleaner("masked")


def message_of(fields: dict[bytes, bytes], more: bytes = b"") -> bytes:
    """An INVITE with these fields."""
    lines = [name + b": " + value for name, value in fields.items()]
    lines += [more] if more else []
    return b"\r\n".join([b"INVITE sip:b@example.com SIP/2.0", *lines, b"", b""])


def read_whole(raw: bytes) -> None:
    """Read everything that is read of a relayed INVITE."""
    message: Any = Message(raw)
    if message.bad:
        return
    message.response_head(b"192.0.2.9", 5060)
    message.untrusted = True
    block = relayed_fields.invite_block(
        message, trusted=False, diverted=[], target="sip:x@y", host="z", reliable=True
    )
    replaces.Dialogs(Nobody()).pass_on(block, replaces.End(uri="sip:x"))
    relayed_fields.relayed(message)
    privacy.kept(privacy.Wish(True), message)
    headers.q850_cause(message)
    headers.diversions(message)
    headers.rseq(message)
    headers.rack(message)
    session_expires.seconds_of(message)
    message.record_routes  # noqa: B018
    message.identity  # noqa: B018


class Nobody:
    def leg_named(self, call_id: bytes, local: bytes, remote: bytes) -> Any:
        return None


def _in_frames(value: bytes) -> None:
    frames = Frames(1 << 19, 1 << 19)
    for start in range(0, len(value), 1400):
        frames.feed(b"INVITE a SIP/2.0\r\nA: " + value[start : start + 1400])


def _contact(value: bytes) -> None:
    try:
        read_contact(b"<sip:a@b>" + value, 0.0)
    except DocumentError:
        return


def _in_field(name: bytes, value: bytes) -> None:
    read_whole(message_of(PLAIN | {name: PLAIN.get(name, b"") + value}))


def _multipart(value: bytes) -> None:
    fields = PLAIN | {b"Privacy": b"id", b"Content-Type": b"multipart/mixed;boundary=a"}
    body = b"--a\r\n" + value + b"\r\n--a--\r\n"
    message: Any = Message(message_of(fields, b"Content-Length: %d" % len(body)) + body)
    bodies.passing_body(message, to_trusted=False)


READERS: dict[str, Reader] = {
    "grammar.name_addr": grammar.name_addr,
    "grammar.split": grammar.split,
    "grammar.via": lambda v: grammar.via(b"SIP/2.0/UDP a" + v),
    "grammar.is_sip_uri": grammar.is_sip_uri,
    "grammar.param": lambda v: grammar.param(v, 0, b"nothing"),
    "grammar.same_uri": lambda v: grammar.same_uri(b"sip:a@b" + v, b"sip:b@b" + v),
    "grammar.parameters": grammar.parameters,
    "grammar.user_of": grammar.user_of,
    "grammar.comparable": grammar.comparable,
    "grammar.uri_headers": grammar.uri_headers,
    "names.place_of": lambda v: place_of(v.decode("latin-1")),
    "digest.read_answer": lambda v: digest.read_answer("Digest " + v.decode("latin-1")),
    "contact": _contact,
    "log": lambda v: _clean({"detail": v.decode("latin-1")}),
    "stream": _in_frames,
    "multipart": _multipart,
    "request-URI": lambda v: read_whole(
        b"INVITE sip:" + v + b" SIP/2.0\r\n" + message_of(PLAIN).partition(b"\r\n")[2]
    ),
}
for _name in FIELDS:
    READERS[f"field {_name.decode()}"] = partial(_in_field, _name)


def took_ns(do: Reader, value: bytes, times: int = 2) -> int:
    best = 1 << 62
    for _ in range(times):
        began = time.thread_time_ns()
        do(value)
        best = min(best, time.thread_time_ns() - began)
        if best > 300_000_000:
            break
    return best


def pairs() -> list[tuple[str, str, Shape, Reader]]:
    """Each shape with each reader of it."""
    values = [(s, r, shape, read) for s, shape in SHAPES.items() for r, read in READERS.items()]
    heads = [
        (name, "head", shape, lambda v: read_whole(message_of(PLAIN, v)))
        for name, shape in HEADS.items()
    ]
    return values + heads


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=16_384)
    options = parser.parse_args()
    small, slow = options.bytes, []
    worst = 0.0
    for shape_name, reader_name, shape, read in pairs():
        value = shape(4 * small)
        large_ns = took_ns(read, value)
        if large_ns < 2_000_000:  # 30 ns a byte at most: fast enough
            worst = max(worst, large_ns / len(value))
            continue
        growth = large_ns / max(1, took_ns(read, shape(small)))
        if growth > LINEAR:  # a value's first times include page faults
            large_ns = took_ns(read, value, 10)
            growth = large_ns / max(1, took_ns(read, shape(small), 10))
        text = (f"{shape_name} in {reader_name}: {large_ns / len(value):.0f} ns a byte of "
                f"{len(value)}, {growth:.1f} times the time of a quarter")  # fmt: skip
        print(text, flush=True)
        if growth > LINEAR:
            slow.append(text)
    print(f"all others: at most {worst:.0f} ns a byte")
    print("\n".join(["", "not linear:", *slow]) if slow else "all linear")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
