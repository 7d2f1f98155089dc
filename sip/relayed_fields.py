"""The header fields that cross the B2BUA, and those that describe a diversion. Pure functions on
bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sip import privacy
from sip.grammar import parameter
from sip.headers import names_100rel, requires_100rel
from sip.message import Message
from sip.privacy import HISTORY

# Belongs to the hop, to the dialog or to the transaction (RFC 3261 8.1.1, 12.2, 22): made anew for
# each leg. Everything else passes, known or not. Challenges and credentials belong to the hop
# (22.3).
HOP = frozenset(
    b"via from to call-id cseq contact max-forwards route record-route path service-route "
    b"content-length content-type timestamp rseq rack "
    b"authorization proxy-authorization www-authenticate proxy-authenticate "
    b"authentication-info proxy-authentication-info proxy-require".split()
)
_NONE: frozenset[bytes] = frozenset()
# Reliability is negotiated on each leg (reliable.py).
_OPTIONS = re.compile(rb"^(supported|k|require)[ \t]*:(.*)$", re.IGNORECASE | re.MULTILINE)
_INDEX = re.compile(rb"[0-9.]{1,256}")


@dataclass(frozen=True, slots=True)
class Diverted:
    """One forward of this call, for the headers of the next leg.

    `line` is the forwarding line's number in E.164; `reason` and `cause` as in forwarding-rules.md
    2. `mark` is the display name in messages to servers, by which an engine recognises the forward;
    "" = none.
    """

    line: str
    reason: str
    cause: int
    mark: str = ""


def relayed(
    message: Message,
    *,
    to_trusted: bool = True,
    also_not: frozenset[bytes] = _NONE,
    keep_100rel: bool = False,
) -> bytes:
    """The header fields of `message` that cross to the other side, as text.

    `to_trusted`: the other side is a node of the trust domain, not a phone. Fields that the sender
    wants hidden from phones, and fields that a phone may not assert, are left out (privacy.py).
    """
    hop = privacy.union(HOP, also_not) if also_not else HOP
    if to_trusted and not message.untrusted:
        text = message.passing(hop)
    else:
        text = privacy.passing(message, hop, to_trusted=to_trusted)
    return text if keep_100rel or not names_100rel(text) else _without_100rel(text)


def _without_100rel(text: bytes) -> bytes:
    def rewrite(line: re.Match[bytes]) -> bytes:
        words = [word.strip() for word in line[2].split(b",")]
        kept = [word for word in words if word.lower() != b"100rel"]
        return line[1] + b": " + b", ".join(kept) if kept else b""

    lines = _OPTIONS.sub(rewrite, text.replace(b"\r\n", b"\n")).split(b"\n")
    return b"\r\n".join(line for line in lines if line)


def invite_block(
    message: Message,
    *,
    trusted: bool,
    diverted: list[Diverted],
    target: str,
    host: str,
    branch: int = 1,
    reliable: bool = False,
    extra: bytes = b"",
) -> bytes:
    """The header text of a new leg's INVITE: the fields that pass, and the forwards so far.

    `target` is the new leg's Request-URI, `host` the domain of the forwarding line's address. An
    untrusted leg (a phone) does not get a withheld identity. `branch` is the leg's place among
    those that the last forward leads to, from 1. `reliable` offers 100rel: the engine
    provides it if the caller requires it, so it is only offered. `extra` holds header fields of the
    engine's own.
    """
    parts: list[bytes] = []
    for done in reversed(diverted):
        mark = f'"{done.mark}" ' if trusted and done.mark else ""
        own = f"{mark}<sip:{done.line}@{host}>;reason={done.reason};counter=1;privacy=off"
        parts.append(b"Diversion: " + own.encode())
    if diverted or message.has_any(HISTORY):
        before = privacy.history_entries(message, b"diversion", to_trusted=trusted)
        parts += [b"Diversion: " + entry for entry in before]
        if trusted or not privacy.wish_of(message).history:
            before = privacy.history_entries(message, b"history-info", to_trusted=trusted)
            before = history(before, diverted, target, host, branch)
            parts += [b"History-Info: " + entry for entry in before]
    required = reliable and requires_100rel(message)
    passing = relayed(
        message, to_trusted=trusted, also_not=HISTORY, keep_100rel=reliable and not required
    )
    if passing:
        parts.append(passing)
    if required:
        parts.append(b"Supported: 100rel")
    if extra:
        parts.append(extra)
    return b"\r\n".join(parts)


def history(
    received: list[bytes], diverted: list[Diverted], target: str, host: str, branch: int = 1
) -> list[bytes]:
    """The History-Info entries of a new leg (RFC 7044 9, 10.3): those received, one for each line
    that forwarded, and the new target with the `cause` of the last forward (RFC 4458 as RFC 7544
    uses it). A leg without a forward passes what was received. `branch` counts the targets of one
    forward (RFC 7044 10.3)."""
    if not diverted:
        return received
    given = [parameter(entry, b"index") or b"" for entry in received]
    indexes = [index.rstrip(b".") for index in given if _INDEX.fullmatch(index)]
    result = list(received)
    index = indexes[-1] if indexes else b""
    for hop_number, done in enumerate(diverted):
        if hop_number == 0 and index:
            # The last received entry is the address by which the call came to this line.
            continue
        index = index + b".1" if index else b"1"
        cause = f";cause={diverted[hop_number - 1].cause}" if hop_number else ""
        result.append(f"<sip:{done.line}@{host}{cause}>;index=".encode() + index)
    last = diverted[-1]
    uri = target if ";cause=" in target else f"{target};cause={last.cause}"
    result.append(f"<{uri}>;index=".encode() + index + b".%d" % branch)
    return result
