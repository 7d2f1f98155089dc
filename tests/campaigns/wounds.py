"""Structured damage to a valid message: unclosed quotes and brackets, fields hidden behind them,
false line ends, empty hosts. All randomness comes from the generator that is passed in."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.campaigns.packet import Packet

Wound = Callable[[Random, Packet], None]

NAMES = (
    b"Via", b"From", b"To", b"Call-ID", b"CSeq", b"Contact", b"Max-Forwards", b"Route",
    b"Record-Route", b"Allow", b"Accept", b"Supported", b"Require", b"Unsupported", b"Expires",
    b"Min-Expires", b"Retry-After", b"Content-Type", b"Content-Length", b"Event", b"Replaces",
    b"Session-Expires", b"Min-SE", b"Subscription-State", b"Authorization", b"Proxy-Authorization",
    b"WWW-Authenticate", b"Proxy-Authenticate", b"Subject", b"User-Agent", b"Reason", b"Diversion",
    b"History-Info", b"Privacy", b"P-Asserted-Identity", b"Refer-To", b"Path", b"RSeq", b"RAck",
    b"X-Unknown", b"Date", b"Warning",
)  # fmt: skip
SHORT = {
    b"Via": b"v", b"From": b"f", b"To": b"t", b"Call-ID": b"i", b"Contact": b"m",
    b"Content-Length": b"l", b"Content-Type": b"c", b"Supported": b"k", b"Event": b"o",
    b"Subject": b"s", b"Refer-To": b"r", b"Session-Expires": b"x",
}  # fmt: skip
ADDRESSES = (
    b"Route", b"Record-Route", b"Contact", b"Refer-To", b"Path", b"P-Asserted-Identity",
)  # fmt: skip
OPENINGS = (b"[", b"(", b'"', b"<", b"<sip:x@[", b'"a\\', b"<sip:[", b"((", b'"<', b"[::1", b'<"')
CLOSINGS = (b"]", b")", b'"', b">", b"]>", b'">', b"]:5060>", b"", b"))", b'"]', b"]>;tag=x")
ENDS = (
    b"\r\n\r\n", b"\r\r", b"\n\n", b"\r", b"\n", b"\r\n", b"\r\n ", b"\r\n\t\r\n\r\n", b"\n\r",
    b"\r\n \r\n", b"\0", b"\r\n\r\n\r\n", b"\r\r\n", b"\n \n\n", b" \r\n", b"\x0b", b"\x0c",
)  # fmt: skip
HOSTS = (
    b"[]", b"[ ]", b"[\t]", b"", b"[", b"]", b"[::1", b"::1]", b"[]:9", b"[x]", b"[[::1]]",
    b"[\r\n]", b"@", b";", b"[%]", b"h;lr", b"[::]", b"-", b"[:]", b"[::1]x",
)  # fmt: skip
SCHEMES = (
    b"sip:", b"sips:", b"SIP:", b"tel:", b"urn:", b"http://", b"", b"x:", b"sip:x@", b"<sip:",
)  # fmt: skip
HIDES = (
    b";hide", b";HIDE", b";%68ide", b"; hide", b";hide=1", b";lr;hide", b";hide;lr", b";h%69de=",
    b";x;hide", b";hid", b"?hide", b";hide\r\n ", b";\"hide\"", b";=hide", b"%3Bhide",
)  # fmt: skip
LENGTHS = (
    b"-1", b"", b"x", b"99999", b"4294967296", b"9" * 40, b"0x1", b"+1", b"1 1", b"1,1", b"0;x",
    b"\r\n 0", b"\r\n\t7\r\n ", b"0\r\nl: 9", b"00", b"1.0", b"&", b"0&X: y", b"3999", b"65536",
)  # fmt: skip
BYTES = (b"\xc3", b"\xe2\x82", b"\xf0\x9f", b"\xff\xfe", b"\x80", b"\xed\xa0\x80", b"\0", b"\x7f")
ESCAPES = (b"%", b"%0", b"%00", b"%0d%0a", b"%zz", b"%25", b"%5B%5D", b"%40", b"%", b"%3")


def uri_of(chance: Random) -> bytes:
    """An unusual URI."""
    tail = chance.choice(
        (
            b"",
            b";lr",
            b";transport=tcp",
            b";maddr=[]",
            b";maddr=",
            b"?a=b&c=d",
            b":0",
            b":99999",
            chance.choice(HIDES),
            b";x=[",
            b';x="',
            b";ttl=999",
        )
    )
    return chance.choice(SCHEMES) + chance.choice(HOSTS) + tail


def hidden_field(chance: Random) -> bytes:
    """A header field that would crash a stack that acts on it."""
    value = chance.choice((
        b"<sip:127.0.0.1%s>" % chance.choice(HIDES), b"<sip:%s;lr>" % chance.choice(HOSTS),
        b"<%s>" % uri_of(chance), uri_of(chance), b"<sip:127.0.0.1:9;lr>", b"*",
        b"SIP/2.0/UDP %s;branch=z9hG4bKh" % chance.choice(HOSTS),
    ))  # fmt: skip
    name = chance.choice(
        (
            b"Record-Route",
            b"Record-Route",
            b"Route",
            b"Contact",
            b"To",
            b"From",
            b"Via",
            b"CSeq",
            b"Content-Length",
        )
    )
    return name + b": " + value


def _at(chance: Random, value: bytes, inserted: bytes) -> bytes:
    place = chance.choice((0, len(value), chance.randrange(len(value) + 1)))
    return value[:place] + inserted + value[place:]


def _name(chance: Random, packet: Packet) -> bytes:
    """Mostly a field that the message has, otherwise a new one."""
    if packet.fields and chance.random() < 0.75:
        return chance.choice(packet.fields)[0]
    name = chance.choice(NAMES)
    if not any(known == name for known, _ in packet.fields):
        packet.fields.insert(chance.randrange(len(packet.fields) + 1), (name, _value(chance, name)))
    return name


def _value(chance: Random, name: bytes) -> bytes:
    if name in ADDRESSES:
        return chance.choice(
            (b"<sip:127.0.0.1:9;lr>", b"<sip:[::1]:9;lr>", b"sip:x@h", b'"n" <sip:x@127.0.0.1:9>')
        )
    return chance.choice((b"1", b"a, b", b'x;y="z"', b"5 (c)", b'Digest realm="x"', b"a/b;c=d"))


def _change(packet: Packet, name: bytes, change: Callable[[bytes], bytes]) -> None:
    place = next(i for i, (known, _) in enumerate(packet.fields) if known == name)
    packet.fields[place] = (name, change(packet.fields[place][1]))


def _open(chance: Random, packet: Packet) -> None:
    """Open a quote or bracket, and close it after a line end or never; maybe with fields after
    it."""
    text = chance.choice(OPENINGS)
    if chance.random() < 0.8:
        text += chance.choice(ENDS)
    if chance.random() < 0.7:
        text += chance.choice(CLOSINGS)
    for _ in range(chance.choice((0, 1, 1, 2))):
        text += b"\r\n" + hidden_field(chance)
    _change(packet, _name(chance, packet), lambda value: _at(chance, value, text))


def _ampersand(chance: Random, packet: Packet) -> None:
    text = b"&" + chance.choice((b"", b" ", hidden_field(chance), b"\r\n", b"X: y"))
    _change(packet, _name(chance, packet), lambda value: value + text)


def _line_end(chance: Random, packet: Packet) -> None:
    end = chance.choice(ENDS)
    _change(packet, _name(chance, packet), lambda value: _at(chance, value, end))


def _fold(chance: Random, packet: Packet) -> None:
    """Folding (RFC 3261 7.3.1), mostly where it is allowed."""
    fold = chance.choice((b"\r\n ", b"\r\n\t", b"\r\n    ", b"\n ", b"\r "))
    _change(packet, _name(chance, packet), lambda value: chance.choice((
        fold + value, value + fold, value.replace(b";", fold + b";", 1),
        value.replace(b" ", fold, 1), _at(chance, value, fold),
    )))  # fmt: skip


def _uri(chance: Random, packet: Packet) -> None:
    name = chance.choice((b"To", b"From", b"Contact", b"Route", b"Record-Route"))
    old = packet.get(name)
    uri = uri_of(chance)
    value = chance.choice((b"<%s>" % uri, uri, b'"n" <%s>' % uri, b"<%s>, <%s>" % (uri, uri)))
    if b";tag=" in old:
        value += b";tag=" + old.rpartition(b";tag=")[2]
    packet.set(name, value)


def _hide(chance: Random, packet: Packet) -> None:
    name = chance.choice((b"Route", b"Record-Route", b"Record-Route", b"Contact"))
    packet.set(name, *[b"<sip:127.0.0.1:9%s>" % chance.choice(HIDES)] * chance.choice((1, 1, 2)))


def _via(chance: Random, packet: Packet) -> None:
    branch = packet.get(b"Via").rpartition(b"branch=")[2]
    head = chance.choice((b"SIP/2.0/UDP ", b"SIP / 2.0 / UDP ", b"SIP/2.0/TCP ", b"SIP/2.0/ "))
    tail = chance.choice(
        (
            b"",
            b" (c)",
            b" (",
            b" (\r\n)",
            b";maddr=[]",
            b";received=[",
            b", ",
            b";",
            b';rport="',
            b";maddr=127.0.0.1",
            b" (a(b)c)",
        )
    )
    value = head + chance.choice((*HOSTS, b"127.0.0.1:9")) + b";branch=" + branch + tail
    packet.set(b"Via", value)


def _start(chance: Random, packet: Packet) -> None:
    text = chance.choice((
        chance.choice(OPENINGS), chance.choice(ENDS), b" ", b"\t", chance.choice(ESCAPES),
        chance.choice(BYTES), b"\r\n " + hidden_field(chance), b"&", b"?x=y&z", b";hide",
    ))  # fmt: skip
    packet.start = _at(chance, packet.start, text)
    if chance.random() < 0.3 and packet.start.count(b" ") >= 2:
        method, _, rest = packet.start.partition(b" ")
        packet.start = method + b" " + uri_of(chance) + b" " + rest.rpartition(b" ")[2]


def _length(chance: Random, packet: Packet) -> None:
    name = chance.choice((b"Content-Length", b"l", b"L", b"CONTENT-LENGTH", b"Content-Length "))
    packet.fields = [field for field in packet.fields if field[0] != b"Content-Length"]
    place = chance.randrange(len(packet.fields) + 1)
    value = chance.choice((*LENGTHS, b"%d" % (len(packet.body) + chance.choice((-1, 0, 0, 1, 9)))))
    packet.fields.insert(place, (name, value))


def _again(chance: Random, packet: Packet) -> None:
    """Repeat a field, with another spelling of its name and perhaps another value."""
    if not packet.fields:
        return
    name, value = chance.choice(packet.fields)
    spelled = chance.choice((name.lower(), name.upper(), SHORT.get(name, name), name + b" "))
    other = chance.choice((value, value + b"x", b"", b"1", b"<sip:y@h>;tag=z", b"2 INVITE"))
    packet.fields.insert(chance.randrange(len(packet.fields) + 1), (spelled, other))


def _spelling(chance: Random, packet: Packet) -> None:
    if not packet.fields:
        return
    place = chance.randrange(len(packet.fields))
    name, value = packet.fields[place]
    spelled = chance.choice((
        SHORT.get(name, name), name.upper(), name.lower(), name + b" ", name + b"\t",
        name + b"\r\n ", b" " + name, name + chance.choice(BYTES), b"", name[:1] + b"(" + name[1:],
    ))  # fmt: skip
    packet.fields[place] = (spelled, value)


def _bodily(chance: Random, packet: Packet) -> None:
    """Header fields in the body, and an unclosed value before it whose end may be sought there."""
    name = chance.choice(NAMES)
    packet.fields.append((name, chance.choice((b"x", b"x@y", b"<", b"", b"1", b"a,", b"x;y="))))
    opening = chance.choice((b";", b";a=b", b",", b">", b"", b"@h", b"&", b'"', b" ", b"=", b":"))
    packet.body = opening + b"\r\n" + hidden_field(chance) + b"\r\n\r\n"


def _bytes(chance: Random, packet: Packet) -> None:
    text = chance.choice((*BYTES, *ESCAPES))
    _change(packet, _name(chance, packet), lambda value: _at(chance, value, text))


def _parameter(chance: Random, packet: Packet) -> None:
    text = chance.choice(
        (
            b";",
            b";=",
            b';x="',
            b';x="\\',
            b";x=[",
            b";tag=[",
            b";q=",
            b";q=9.9.9",
            b";expires=-1",
            b";x=(",
            b",",
            b",,",
            b';tag="a"',
            b"=",
            b";lr=x",
        )
    )
    _change(packet, _name(chance, packet), lambda value: value + text)


def _body(chance: Random, packet: Packet) -> None:
    kind = chance.choice(
        (
            b"multipart/mixed;boundary=b",
            b"multipart/mixed",
            b"message/sip",
            b'multipart/mixed;boundary="',
            b"application/sdp;x=[",
            b"x(/y",
        )
    )
    part = b"--b\r\n" + hidden_field(chance) + chance.choice(ENDS) + chance.choice(OPENINGS)
    packet.set(b"Content-Type", kind)
    end = chance.choice((b"--b--", b"--b", b"", b"\r\n--b-"))
    packet.body = part * chance.choice((1, 2, 5)) + end


WOUNDS: tuple[Wound, ...] = (
    _open, _open, _open, _open, _ampersand, _line_end, _line_end, _fold, _uri, _uri, _hide, _via,
    _start, _length, _length, _again, _spelling, _bytes, _parameter, _body, _bodily,
)  # fmt: skip


def wound(chance: Random, packet: Packet) -> bytes:
    """A damaged copy of the message, as bytes."""
    changed = Packet(packet.start, list(packet.fields), packet.body)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choice(WOUNDS)(chance, changed)
    raw = changed.render()
    draw = chance.random()
    if draw < 0.03:
        return raw[: chance.randrange(len(raw))]
    if draw < 0.06:
        return raw.replace(b"\r\n", chance.choice((b"\n", b"\r", b"\r\n ")))
    return raw
