"""SIP messages as lists of bytes, which may be arbitrarily wrong."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass, field

from tests.scenarios.message import Message

Address = tuple[str, int]
Fields = list[tuple[bytes, bytes]]
SDP = (
    b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=audio 40000 RTP/AVP 8 0\r\n"
)
_numbers = itertools.count(1)


@dataclass
class Packet:
    """A message to be sent: start line, header fields in order, body."""

    start: bytes
    fields: Fields = field(default_factory=list)
    body: bytes = b""

    def render(self) -> bytes:
        """The bytes. Content-Length is added unless the fields hold one already."""
        fields = self.fields
        if not any(name.lower() in (b"content-length", b"l") for name, _ in fields):
            fields = [*fields, (b"Content-Length", b"%d" % len(self.body))]
        lines = [self.start, *(name + b": " + value for name, value in fields), b"", b""]
        return b"\r\n".join(lines) + self.body

    def get(self, name: bytes) -> bytes:
        """The first value of that name, empty when there is none."""
        return next((value for known, value in self.fields if known == name), b"")

    def set(self, name: bytes, *values: bytes) -> Packet:
        """Replace every field of that name, at the position of the first; returns itself."""
        places = [i for i, (known, _) in enumerate(self.fields) if known == name]
        place = places[0] if places else len(self.fields)
        kept = [item for item in self.fields if item[0] != name]
        self.fields = kept[:place] + [(name, value) for value in values] + kept[place:]
        return self

    def drop(self, name: bytes) -> Packet:
        """Remove every field of that name; returns itself."""
        return self.set(name)


def new_via(own: Address, branch: bytes = b"") -> bytes:
    """A Via with a new branch unless one is given."""
    branch = branch or b"z9hG4bK" + secrets.token_hex(8).encode()
    return b"SIP/2.0/UDP %s:%d;rport;branch=%s" % (own[0].encode(), own[1], branch)


def contact_of(own: Address, user: bytes = b"ua") -> bytes:
    """A Contact that reaches this address."""
    return b"<sip:%s@%s:%d>" % (user, own[0].encode(), own[1])


def request(
    own: Address, peer: Address, called: bytes, method: bytes = b"INVITE", body: bytes = SDP
) -> Packet:
    """A well-formed request outside any dialog."""
    target = b"sip:%s@%s:%d" % (called, peer[0].encode(), peer[1])
    fields = [
        (b"Via", new_via(own)),
        (b"Max-Forwards", b"70"),
        (b"From", b"<sip:+33140000001@caller.example>;tag=" + secrets.token_hex(6).encode()),
        (b"To", b"<sip:%s@office.example>" % called),
        (b"Call-ID", secrets.token_hex(10).encode() + b"@campaign.example"),
        (b"CSeq", b"%d %s" % (next(_numbers), method)),
        (b"Contact", contact_of(own)),
    ]
    if body:
        fields.append((b"Content-Type", b"application/sdp"))
    return Packet(method + b" " + target + b" SIP/2.0", fields, body)


def response(own: Address, asked: Message, code: int, tag: bytes, body: bytes = b"") -> Packet:
    """A well-formed response to a request that was received."""
    fields = [(b"Via", _raw(via)) for via in asked.every("Via")]
    fields += [(b"Record-Route", _raw(route)) for route in asked.every("Record-Route")]
    to = _raw(asked.one("To"))
    if tag and b";tag=" not in to.lower():
        to += b";tag=" + tag
    fields += [
        (b"From", _raw(asked.one("From"))),
        (b"To", to),
        (b"Call-ID", _raw(asked.one("Call-ID"))),
        (b"CSeq", _raw(asked.one("CSeq"))),
    ]
    if asked.method in ("INVITE", "UPDATE") and 101 <= code < 300:
        fields.append((b"Contact", contact_of(own)))
    if body:
        fields.append((b"Content-Type", b"application/sdp"))
    return Packet(b"SIP/2.0 %d Because" % code, fields, body)


def acknowledgement(sent: Packet, answer: Message, own: Address, target: bytes) -> Packet:
    """The ACK of a 2xx, to `target`, the Contact of the answer."""
    number = sent.get(b"CSeq").split(b" ")[0]
    return Packet(
        b"ACK " + target + b" SIP/2.0",
        [
            (b"Via", new_via(own)),
            (b"Max-Forwards", b"70"),
            (b"From", sent.get(b"From")),
            (b"To", _raw(answer.one("To"))),
            (b"Call-ID", sent.get(b"Call-ID")),
            (b"CSeq", number + b" ACK"),
        ],
    )


def refusal_ack(sent: Packet, answer: Message) -> Packet:
    """The ACK of a refusal: the transaction's own (RFC 3261 17.1.1.3)."""
    number = sent.get(b"CSeq").split(b" ")[0]
    uri = sent.start.split(b" ")[1]
    fields = [
        (b"Via", sent.get(b"Via")),
        (b"From", sent.get(b"From")),
        (b"To", _raw(answer.one("To"))),
        (b"Call-ID", sent.get(b"Call-ID")),
        (b"CSeq", number + b" ACK"),
    ]
    return Packet(b"ACK " + uri + b" SIP/2.0", fields)


def cancel(sent: Packet) -> Packet:
    """The CANCEL of an INVITE that was sent (RFC 3261 9.1)."""
    number = sent.get(b"CSeq").split(b" ")[0]
    uri = sent.start.split(b" ")[1]
    names = (b"Via", b"From", b"To", b"Call-ID")
    fields = [(name, sent.get(name)) for name in names]
    fields += [(b"CSeq", number + b" CANCEL"), (b"Max-Forwards", b"70")]
    return Packet(b"CANCEL " + uri + b" SIP/2.0", fields)


def within(
    own: Address,
    method: bytes,
    *,
    local: bytes,
    remote: bytes,
    call_id: bytes,
    cseq: int,
    target: bytes,
    body: bytes = b"",
) -> Packet:
    """A request inside a dialog; `local` and `remote` with their tags."""
    fields = [
        (b"Via", new_via(own)),
        (b"Max-Forwards", b"70"),
        (b"From", local),
        (b"To", remote),
        (b"Call-ID", call_id),
        (b"CSeq", b"%d %s" % (cseq, method)),
    ]
    if method in (b"INVITE", b"UPDATE"):
        fields.append((b"Contact", contact_of(own)))
    if body:
        fields.append((b"Content-Type", b"application/sdp"))
    return Packet(method + b" " + target + b" SIP/2.0", fields, body)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
