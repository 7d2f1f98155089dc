"""Random changes to a valid message. All randomness comes from the generator that is passed in."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.campaigns.packet import Fields, Packet

Mutation = Callable[[Random, Packet], None]

# URIs for Contact, From, To, Route, Record-Route and the start line. The campaign's name server
# never answers.
URIS = [
    b"sip:x@[]", b"sip:[]", b"sip:x@", b"sip:@127.0.0.1", b"sip:", b"sip", b"", b"*", b":",
    b"sip:x@127.0.0.1:0", b"sip:x@127.0.0.1:65536", b"sip:x@127.0.0.1:-1", b"sip:x@[::1]:9",
    b"sip:x@[", b"sip:x@]", b"sip:[x", b"sip:a:b:c@127.0.0.1", b"sip:x@127.0.0.1;lr",
    b"sip:x@127.0.0.1;transport=tcp", b"sip:x@127.0.0.1;transport=", b"sips:x@127.0.0.1",
    b"sip:x@127.0.0.1;maddr=[]", b"sip:x@127.0.0.1;maddr=", b"sip:x@127.0.0.1;ttl=999999999999",
    b"sip:x@127.0.0.1;lr;lr;lr;method=INVITE;user=phone", b"sip:x@127.0.0.1?a=b&c", b"tel:+33",
    b"tel:", b"tel:+33;phone-context=", b"urn:a:b", b"sip:%00@127.0.0.1", b"sip:%zz@127.0.0.1",
    b"sip:\xc3\xa9@127.0.0.1", b"sip:x@127.0.0.1;=;;=x", b"sip:x@255.255.255.255:9",
    b"sip:x@0.0.0.0", b"sip:x@127.0.0.1:9;" + b"p;" * 300, b"sip:" + b"u" * 3000 + b"@127.0.0.1",
    b"sip:x@" + b"1." * 900 + b"1", b"sip:" + b"%41" * 400 + b"@127.0.0.1", b"sip:x@127.0.0.1 y",
    b"sip:x@nowhere.invalid", b"sip:x@nowhere.invalid:9;transport=tcp", b"sip:x@a..b.invalid",
    b"sip:x@" + b"l" * 70 + b".invalid", b"sip:x@xn--.invalid", b"sip:x@-", b"sip:x@single",
    b"sip:x@[::1]:9;transport=tcp", b"sip:x@" + b"l." * 150 + b"invalid",
    b"sip:" + b"#" * 200 + b"@127.0.0.1", b"sip:" + b"^" * 700 + b"@127.0.0.1",
]  # fmt: skip
ADDRESSES = (b"From", b"To", b"Contact", b"Record-Route", b"Route", b"Via", b"Refer-To", b"Path")
SINGLE = (b"Call-ID", b"CSeq", b"From", b"To", b"Via", b"Max-Forwards", b"Contact", b"Content-Type")
METHODS = (
    b"INVITE", b"ACK", b"BYE", b"CANCEL", b"OPTIONS", b"REGISTER", b"UPDATE", b"INFO", b"PRACK",
    b"REFER", b"NOTIFY", b"MESSAGE", b"SUBSCRIBE", b"PUBLISH", b"FOO", b"invite", b"",
)  # fmt: skip
INSERTED = (b"\r", b"\n", b"\0", b"\r\n", b"\r\n ", b"\xff", b"<", b'"')
NUMBERS = (
    b"0", b"-1", b"1", b"2147483647", b"2147483648", b"4294967295", b"4294967296", b"9" * 30, b"x",
    b"", b"0x10", b"1.5", b" 7", b"+7",
)  # fmt: skip
SIZES = (1, 50, 255, 256, 257, 500, 1000, 1900, 2500, 3000, 3300, 3600)
EXTRA: Fields = [
    (b"Require", b"100rel"), (b"Require", b"x"), (b"Supported", b"100rel, timer, replaces"),
    (b"RSeq", b"1"), (b"RSeq", b"-1"), (b"RAck", b"1 1 INVITE"), (b"Session-Expires", b"0"),
    (b"Session-Expires", b"90;refresher=uas"), (b"Min-SE", b"99999999999"), (b"Allow", b""),
    (b"Reason", b"Q.850;cause=17"), (b"Reason", b"SIP;cause=,,"), (b"Expires", b"-1"),
    (b"WWW-Authenticate", b"Digest realm=\"x\",nonce=\"y\",qop=\"auth,auth-int\",algorithm=Z"),
    (b"Proxy-Authenticate", b"Digest"), (b"WWW-Authenticate", b"Basic"), (b"Retry-After", b"x"),
    (b"Authorization", b"Digest username=\"\",,,"), (b"Diversion", b"<sip:x@y>;counter=99"),
    (b"History-Info", b"<sip:x@y?Reason=SIP%3Bcause%3D302>;index=1.1"), (b"Subject", b"\0"),
    (b"Privacy", b"id"), (b"P-Asserted-Identity", b"<sip:[]>, <tel:>"), (b"Route", b"<sip:[];lr>"),
    (b"Record-Route", b"<sip:127.0.0.1:9>"), (b"Replaces", b"x;to-tag=1;from-tag=2"),
    (b"Accept", b"x/y;q=2"), (b"Event", b"refer"), (b"Subscription-State", b""),
    (b"Content-Encoding", b"gzip"), (b"Content-Disposition", b""), (b"Unsupported", b"a" * 600),
]  # fmt: skip


def _address(chance: Random, packet: Packet) -> None:
    name = chance.choice(ADDRESSES)
    uri = chance.choice(URIS)
    value = chance.choice((b"<" + uri + b">", uri, b'"n" <' + uri + b">", b"<" + uri))
    if name in (b"Record-Route", b"Route") and chance.random() < 0.5:
        value = value.replace(b">", b";lr>")
    old = packet.get(name)
    if b";tag=" in old and chance.random() < 0.8:
        value += b";tag=" + old.rpartition(b";tag=")[2]
    if name == b"Via" and chance.random() < 0.7:
        host = uri.rpartition(b"@")[2].partition(b"?")[0]
        value = b"SIP/2.0/UDP " + host + b";branch=" + old.rpartition(b"branch=")[2]
    if name in (b"Record-Route", b"Route"):
        packet.set(name, *[value] * chance.choice((1, 1, 1, 2, 20)))
    else:
        packet.set(name, value)


def _start(chance: Random, packet: Packet) -> None:
    parts = packet.start.split(b" ", 2)
    if len(parts) < 3:
        return
    place = chance.randrange(3)
    if parts[0] == b"SIP/2.0":
        wrong: tuple[bytes, ...] = (b"SIP/7.0", b"SIP", b"sip/2.0", b"")
        if place == 1:
            wrong = tuple(b"%d" % code for code in range(98, 720, 7)) + NUMBERS
        elif place == 2:
            wrong = (b"", b"x" * 3000, b"\xff\0", b"OK\rX: y")
    else:
        wrong = (METHODS, tuple(URIS), (b"SIP/7.0", b"SIP/2.0 ", b"", b"HTTP/1.1"))[place]
    parts[place] = chance.choice(wrong)
    packet.start = b" ".join(parts)


def _drop(chance: Random, packet: Packet) -> None:
    if packet.fields:
        packet.fields.pop(chance.randrange(len(packet.fields)))


def _double(chance: Random, packet: Packet) -> None:
    if packet.fields:
        field = chance.choice(packet.fields)
        place = chance.randrange(len(packet.fields) + 1)
        packet.fields[place:place] = [field] * chance.choice((1, 1, 2, 30))


def _shuffle(chance: Random, packet: Packet) -> None:
    chance.shuffle(packet.fields)


def _number(chance: Random, packet: Packet) -> None:
    name = chance.choice((b"CSeq", b"Max-Forwards", b"Content-Length", b"Expires"))
    value = chance.choice(NUMBERS)
    if name == b"CSeq":
        old = packet.get(b"CSeq").split(b" ", 1)
        method = old[1] if len(old) == 2 and chance.random() < 0.6 else chance.choice(METHODS)
        value = (value if chance.random() < 0.6 else old[0]) + b" " + method
    packet.set(name, value)


def _huge(chance: Random, packet: Packet) -> None:
    size = chance.choice(SIZES) + chance.randrange(-3, 4)
    filling = chance.choice((b"x", b"\xc3\xa9", b"%41", b"a,", b";a", b" ", b'\\"', b"<", b"a."))
    text = (filling * size)[: max(1, size)]
    name = chance.choice((*SINGLE, b"Subject", b"Record-Route", b"User-Agent", b"Allow"))
    value = packet.get(name)
    form = chance.randrange(4)
    if form == 0:
        packet.set(name, value + text)
    elif form == 1:
        packet.set(name, text + value)
    elif form == 2 and b"tag=" in value:
        packet.set(name, value.rpartition(b"tag=")[0] + b"tag=" + text)
    elif name in (b"Record-Route", b"Contact", b"From", b"To"):
        tag = b";tag=" + value.rpartition(b"tag=")[2] if b"tag=" in value else b""
        packet.set(name, b"<sip:" + text + b"@127.0.0.1:9;lr>" + tag)
    else:
        packet.set(name, text)


def _fill(chance: Random, packet: Packet) -> None:
    """Grow to a size near a limit."""
    size = chance.choice((3300, 3400, 3500, 3700, 3800, 3900, 3990, 4000, 4010, 5000))
    room = size + chance.randrange(-20, 21) - len(packet.render()) - 12
    if room > 0:
        packet.fields.append((chance.choice((b"Subject", b"X", b"Via", b"Allow")), b"y" * room))


def _tag(chance: Random, packet: Packet) -> None:
    name = chance.choice((b"From", b"To"))
    base = packet.get(name).partition(b";tag=")[0]
    tags = (b"", b";tag=", b";tag=x", b";tag=x;tag=y", b";tag=%s" % (b"t" * 300), b";tag=\xff")
    packet.set(name, base + chance.choice(tags))


def _branch(chance: Random, packet: Packet) -> None:
    base = packet.get(b"Via").partition(b";branch=")[0]
    branches = (
        b"",
        b";branch=",
        b";branch=z9hG4bK",
        b";branch=z9hG4bKsame",
        b";branch=1",
        b";branch=z9hG4bK" + b"b" * 600,
    )
    packet.set(b"Via", base + chance.choice(branches))


def _extra(chance: Random, packet: Packet) -> None:
    packet.fields += chance.sample(EXTRA, chance.randrange(1, 4))


def _body(chance: Random, packet: Packet) -> None:
    packet.body = chance.choice(
        (b"", b"\0" * 50, b"x" * 2500, b"x" * 3500, b"--b\r\n\r\n--b--", bytes(range(256)))
    )
    if chance.random() < 0.5:
        packet.set(
            b"Content-Type",
            chance.choice(
                (
                    b"multipart/mixed;boundary=b",
                    b"multipart/mixed",
                    b"message/sipfrag",
                    b"x",
                    b'a/b;c="',
                    b'multipart/mixed;boundary=""',
                    b"application/sdp",
                )
            ),
        )


FIELDWISE: tuple[Mutation, ...] = (
    _address, _address, _address, _start, _drop, _double, _shuffle, _number, _huge, _huge, _fill,
    _tag, _branch, _extra, _extra, _body,
)  # fmt: skip


def _bytewise(chance: Random, raw: bytes) -> bytes:
    data = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if not data:
            break
        at = chance.randrange(len(data))
        form = chance.randrange(6)
        if form == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif form == 1:
            del data[at : at + chance.choice((1, 2, 20, 200))]
        elif form == 2:
            data[at:at] = chance.choice(INSERTED)
        elif form == 3:
            data[at:at] = data[at : at + chance.choice((4, 40, 400))]
        elif form == 4:
            data[at] = chance.randrange(256)
        else:
            del data[at:]
    return bytes(data)


def mutate(chance: Random, packet: Packet) -> bytes:
    """A changed copy of the message, as bytes."""
    changed = Packet(packet.start, list(packet.fields), packet.body)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choice(FIELDWISE)(chance, changed)
    raw = changed.render()
    return _bytewise(chance, raw) if chance.random() < 0.2 else raw
