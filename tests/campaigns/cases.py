"""Message sequences that broke an earlier engine, or similar ones: one function each.

Each plays its sequence against a running engine and returns. Afterwards its caller checks that the
engine still runs, still answers, and has removed the call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.campaigns import packet
from tests.campaigns.packet import Packet, acknowledgement, cancel, request, response
from tests.campaigns.peer import Peer
from tests.scenarios.message import Message, address_of

Case = Callable[["Ground"], None]
CASES: dict[str, Case] = {}


@dataclass(frozen=True)
class Ground:
    """The endpoints: a caller, and the phone that is registered for the line `number`."""

    caller: Peer
    phone: Peer
    number: bytes

    def invite(self) -> Packet:
        """A well-formed INVITE to the line, not sent yet."""
        return request(self.caller.own, self.caller.engine, self.number)

    def ring(self, invite: Packet | None = None) -> tuple[Packet, Message]:
        """Call the line; returns the INVITE as sent, and as the phone got it."""
        sent = invite or self.invite()
        self.caller.send(sent)
        call_id = sent.get(b"Call-ID").decode()
        arrived = self.phone.receive("INVITE")
        assert arrived is not None, f"the phone got no INVITE for {call_id}"
        return sent, arrived

    def reply(self, arrived: Message, code: int, tag: bytes = b"p1", body: bytes = b"") -> Packet:
        """The phone's response, not sent yet."""
        return response(self.phone.own, arrived, code, tag, body)

    def talk(
        self, invite: Packet | None = None, answer: Callable[[Packet], Packet] | None = None
    ) -> Talk:
        """A call up to the ACK. `answer` changes the phone's 200 before it is sent."""
        sent, arrived = self.ring(invite)
        ok = self.reply(arrived, 200, body=packet.SDP)
        self.phone.send(answer(ok) if answer else ok)
        accepted = self.caller.receive(200)
        assert accepted is not None, "the caller got no 200"
        target = address_of(accepted.one("Contact")).encode()
        self.caller.send(acknowledgement(sent, accepted, self.caller.own, target))
        return Talk(self, sent, arrived, accepted, target)


@dataclass
class Talk:
    """An answered call, with the state of each side."""

    ground: Ground
    sent: Packet
    arrived: Message
    accepted: Message
    target: bytes
    cseq: int = 1000

    def from_caller(self, method: bytes, body: bytes = b"") -> Packet:
        """A request of the caller's inside the dialog, not sent yet."""
        self.cseq += 1
        caller = self.ground.caller
        return packet.within(
            caller.own,
            method,
            local=self.sent.get(b"From"),
            remote=self.accepted.one("To").encode(),
            call_id=self.sent.get(b"Call-ID"),
            cseq=self.cseq + int(self.sent.get(b"CSeq").split()[0]),
            target=self.target,
            body=body,
        )

    def from_phone(self, method: bytes, body: bytes = b"", tag: bytes = b"p1") -> Packet:
        """A request of the phone's inside the dialog, not sent yet."""
        self.cseq += 1
        phone = self.ground.phone
        return packet.within(
            phone.own,
            method,
            local=self.arrived.one("To").encode() + b";tag=" + tag,
            remote=self.arrived.one("From").encode(),
            call_id=self.arrived.one("Call-ID").encode(),
            cseq=self.cseq,
            target=address_of(self.arrived.one("Contact")).encode(),
            body=body,
        )

    def hang_up(self) -> None:
        """Send the caller's BYE; the response is ignored."""
        self.ground.caller.send(self.from_caller(b"BYE"))
        self.ground.caller.receive(200, 0.5)


def case(function: Case) -> Case:
    """Add a case under its own name."""
    CASES[function.__name__] = function
    return function


def padded(length: int, letter: bytes = b"x") -> bytes:
    """A string of `length` letters."""
    return letter * length


# -- addresses without a host ---------------------------------------------------------------------


def _empty_host(place: bytes) -> Case:
    def play(ground: Ground) -> None:
        invite = ground.invite()
        tag = b";tag=a" if place == b"From" else b""
        ground.caller.send(invite.set(place, b"<sip:x@[]>" + tag))
        ground.phone.receive("INVITE", 0.3)

    return play


for _place in (b"From", b"To", b"Contact", b"Record-Route", b"Route", b"Via"):
    CASES[f"invite_with_an_empty_host_in_{_place.decode()}"] = _empty_host(_place)


@case
def invite_with_an_empty_host_in_the_request_uri(ground: Ground) -> None:
    invite = ground.invite()
    invite.start = b"INVITE sip:" + ground.number + b"@[] SIP/2.0"
    ground.caller.send(invite)
    ground.phone.receive("INVITE", 0.3)


def _poisoned_answer(name: bytes, value: bytes) -> Case:
    """A 200 that the engine may drop: then the caller gives up."""

    def play(ground: Ground) -> None:
        sent, arrived = ground.ring()
        ground.phone.send(ground.reply(arrived, 200, body=packet.SDP).set(name, value))
        accepted = ground.caller.receive(200, 0.3)
        if accepted is None:
            ground.phone.send(ground.reply(arrived, 180))
            ground.caller.send(cancel(sent))
            if ground.phone.receive("CANCEL", 0.5) is not None:
                ground.phone.send(ground.reply(arrived, 487))
            refusal = ground.caller.receive(487, 0.5)
            if refusal is not None:
                ground.caller.send(packet.refusal_ack(sent, refusal))
            return
        target = address_of(accepted.one("Contact")).encode()
        ground.caller.send(acknowledgement(sent, accepted, ground.caller.own, target))
        Talk(ground, sent, arrived, accepted, target).hang_up()

    return play


CASES["answer_with_an_empty_host_in_contact"] = _poisoned_answer(b"Contact", b"<sip:x@[]>")
CASES["answer_with_an_empty_host_in_record_route"] = _poisoned_answer(
    b"Record-Route", b"<sip:[];lr>"
)
CASES["answer_with_an_empty_host_in_maddr"] = _poisoned_answer(
    b"Contact", b"<sip:x@127.0.0.1;maddr=>"
)
CASES["answer_without_to_tag"] = _poisoned_answer(b"To", b"<sip:callee@office.example>")


@case
def ringing_with_an_empty_host_in_record_route(ground: Ground) -> None:
    sent, arrived = ground.ring()
    ground.phone.send(ground.reply(arrived, 180).set(b"Record-Route", b"<sip:[];lr>"))
    ground.caller.receive(180, 0.3)
    ground.caller.send(cancel(sent))
    ground.caller.receive(487, 0.5)


# -- forked and tagless answers -------------------------------------------------------------------


def _second_answer(change: Callable[[Packet], Packet]) -> Case:
    def play(ground: Ground) -> None:
        talk = ground.talk()
        again = response(ground.phone.own, talk.arrived, 200, b"", packet.SDP)
        ground.phone.receive("ACK", 0.5)
        ground.phone.send(change(again))
        ground.phone.receive("BYE", 0.3)
        talk.hang_up()

    return play


def _tagged(ok: Packet, tag: bytes) -> Packet:
    return ok.set(b"To", ok.get(b"To") + b";tag=" + tag)


CASES["second_answer_without_to_tag"] = _second_answer(lambda ok: ok)
CASES["second_answer_with_another_tag"] = _second_answer(lambda ok: _tagged(ok, b"p2"))
CASES["second_answer_with_another_tag_and_no_contact"] = _second_answer(
    lambda ok: _tagged(ok, b"p2").drop(b"Contact")
)
CASES["second_answer_with_another_tag_and_a_huge_contact"] = _second_answer(
    lambda ok: _tagged(ok, b"p2").set(b"Contact", b"<sip:" + padded(1900) + b"@127.0.0.1:9>")
)
for _count in (600, 1000, 1100, 1200, 2500):
    CASES[f"second_answer_with_a_contact_of_{_count}_hashes"] = _second_answer(
        lambda ok, count=_count: _tagged(ok, b"p2").set(  # type: ignore[misc]
            b"Contact", b"<sip:" + b"#" * count + b"@127.0.0.1:9>"
        )
    )
CASES["second_answer_with_a_huge_tag"] = _second_answer(lambda ok: _tagged(ok, padded(3300)))
CASES["second_answer_with_huge_record_routes"] = _second_answer(
    lambda ok: _tagged(ok, b"p2").set(
        b"Record-Route", *[b"<sip:" + padded(500) + b"@127.0.0.1:9;lr>"] * 6
    )
)
CASES["second_answer_with_another_tag_and_a_tel_contact"] = _second_answer(
    lambda ok: _tagged(ok, b"p2").set(b"Contact", b"<tel:+33123456789>")
)


@case
def first_answer_without_to_tag_then_another(ground: Ground) -> None:
    sent, arrived = ground.ring()
    for tag in (b"", b"p2", b""):
        ground.phone.send(response(ground.phone.own, arrived, 200, tag, packet.SDP))
        ground.phone.receive("ACK", 0.3)
    accepted = ground.caller.receive(200)
    if accepted:
        target = address_of(accepted.one("Contact")).encode()
        ground.caller.send(acknowledgement(sent, accepted, ground.caller.own, target))
        Talk(ground, sent, arrived, accepted, target).hang_up()


@case
def early_tags_one_after_another(ground: Ground) -> None:
    sent, arrived = ground.ring()
    for tag in (b"a", b"b", b"", b"c"):
        ground.phone.send(response(ground.phone.own, arrived, 183, tag, packet.SDP))
    ground.phone.send(response(ground.phone.own, arrived, 486, b"", b""))
    refusal = ground.caller.receive(0, 1.0)
    if refusal:
        ground.caller.send(packet.refusal_ack(sent, refusal))


# -- messages that cannot be printed in 4,000 bytes -----------------------------------------------


def _huge_answer(name: bytes, *values: bytes, ends: bytes = b"caller") -> Case:
    def play(ground: Ground) -> None:
        sent, arrived = ground.ring()
        ok = ground.reply(arrived, 200, body=packet.SDP).set(name, *values)
        ground.phone.send(ok)
        accepted = ground.caller.receive(0, 1.0)
        if accepted is None or accepted.code != 200:
            return
        target = address_of(accepted.one("Contact")).encode()
        ground.caller.send(acknowledgement(sent, accepted, ground.caller.own, target))
        talk = Talk(ground, sent, arrived, accepted, target)
        if ends == b"update":
            ground.caller.send(talk.from_caller(b"UPDATE", packet.SDP))
            ground.caller.receive(513, 0.3)
            ground.caller.send(talk.from_caller(b"INVITE", packet.SDP))
            ground.caller.receive(513, 0.3)
        if ends == b"phone":
            ground.phone.send(talk.from_phone(b"BYE"))
            ground.phone.receive(200, 0.5)
        else:
            talk.hang_up()

    return play


_CONTACT = b"<sip:" + padded(3300) + b"@127.0.0.1:9>"
_ROUTES = [b"<sip:" + padded(180) + b"@127.0.0.1:9;lr>"] * 14
CASES["answer_with_a_huge_contact"] = _huge_answer(b"Contact", _CONTACT)
CASES["answer_with_a_huge_contact_then_update"] = _huge_answer(b"Contact", _CONTACT, ends=b"update")
CASES["answer_with_huge_record_routes"] = _huge_answer(b"Record-Route", *_ROUTES)
CASES["answer_with_huge_record_routes_then_update"] = _huge_answer(
    b"Record-Route", *_ROUTES, ends=b"update"
)
CASES["answer_with_huge_strict_routes"] = _huge_answer(
    b"Record-Route", *[b"<sip:" + padded(180) + b"@127.0.0.1:9>"] * 14, ends=b"update"
)


def _huge_tag(code: int) -> Case:
    def play(ground: Ground) -> None:
        sent, arrived = ground.ring()
        room = 3950 - len(ground.reply(arrived, code, b"").render())
        ground.phone.send(ground.reply(arrived, code, padded(room)))
        ended = ground.caller.receive(0, 1.0)
        if ended is None:
            ground.caller.send(cancel(sent))
            ended = ground.caller.receive(0, 1.0)
        if ended is None:
            return
        if ended.code >= 300:
            ground.caller.send(packet.refusal_ack(sent, ended))
            return
        target = address_of(ended.one("Contact")).encode()
        ground.caller.send(acknowledgement(sent, ended, ground.caller.own, target))
        Talk(ground, sent, arrived, ended, target).hang_up()

    return play


for _code in (180, 200, 302, 401, 486, 603):
    CASES[f"answer_{_code}_with_a_huge_tag"] = _huge_tag(_code)


def _sized_invite(name: bytes, start: bytes, end: bytes, size: int, ending: str) -> Case:
    """An INVITE of exactly `size` bytes, grown in one field, then a whole call."""

    def play(ground: Ground) -> None:
        invite = ground.invite().set(name, start + end)
        room = size - len(invite.render())
        invite.set(name, start + padded(room) + end)
        ground.caller.send(invite)
        arrived = ground.phone.receive("INVITE", 0.3)
        if arrived is None:
            refusal = ground.caller.receive(0, 0.2)
            if refusal is not None:
                ground.caller.send(packet.refusal_ack(invite, refusal))
            return
        ground.phone.send(ground.reply(arrived, 180))
        ground.caller.receive(180, 0.3)
        if ending == "cancel":
            ground.caller.send(cancel(invite))
            ground.phone.receive("CANCEL", 0.3)
            ground.phone.send(ground.reply(arrived, 487))
            ended = ground.caller.receive(487, 0.3)
            if ended:
                ground.caller.send(packet.refusal_ack(invite, ended))
            return
        ground.phone.send(ground.reply(arrived, 200, body=packet.SDP))
        accepted = ground.caller.receive(0, 0.5)
        if accepted is None:
            return
        if accepted.code >= 300:
            ground.caller.send(packet.refusal_ack(invite, accepted))
            return
        target = address_of(accepted.one("Contact")).encode()
        ground.caller.send(acknowledgement(invite, accepted, ground.caller.own, target))
        ground.phone.receive("ACK", 0.2)
        talk = Talk(ground, invite, arrived, accepted, target)
        ground.phone.send(talk.from_phone(b"INVITE", packet.SDP))
        ground.caller.receive("INVITE", 0.2)
        ground.caller.send(talk.from_caller(b"INFO", b"Signal=1\r\n"))
        ground.phone.receive("INFO", 0.2)
        ground.phone.send(talk.from_phone(b"BYE"))
        ground.phone.receive(200, 0.3)
        ground.caller.receive("BYE", 0.2)

    return play


_GROWN = {
    b"From": (b'"', b'" <sip:+33140000001@caller.example>;tag=f1'),
    b"To": (b'"', b'" <sip:callee@office.example>'),
    b"Contact": (b"<sip:", b"@127.0.0.1:9>"),
    b"Record-Route": (b"<sip:", b"@127.0.0.1:9;lr>"),
    b"Via": (b"SIP/2.0/UDP 127.0.0.1:9;rport;branch=z9hG4bKbig;x=", b""),
    b"Call-ID": (b"", b"@big"),
    b"Subject": (b"", b"."),
}
for _name, (_start, _end) in _GROWN.items():
    for _size in (2900, 3300, 3400, 3500, 3600, 3800, 3990):
        for _ending in ("bye", "cancel"):
            CASES[f"invite_of_{_size}_bytes_by_{_name.decode()}_then_{_ending}"] = _sized_invite(
                _name, _start, _end, _size, _ending
            )


@case
def from_tag_of_three_thousand_bytes(ground: Ground) -> None:
    invite = ground.invite()
    invite.set(b"From", b"<sip:+33140000001@caller.example>;tag=" + padded(2800))
    talk = ground.talk(invite)
    ground.phone.send(talk.from_phone(b"BYE"))
    ground.caller.receive("BYE", 0.3)


def _escaped(places: tuple[bytes, ...], raw: bytes, filler: int) -> Case:
    """Characters that some parsers escape as three: the printed length may differ from the measured
    one."""

    def play(ground: Ground) -> None:
        invite = ground.invite()
        for place in places:
            tag = b";tag=e1" if place == b"From" else b""
            invite.set(place, b"<sip:" + raw + b"@caller.example>" + tag)
        if filler:
            invite.fields.append((b"Subject", padded(filler)))
        ground.caller.send(invite)
        arrived = ground.phone.receive("INVITE", 0.3)
        if arrived is None:
            return
        ground.phone.send(ground.reply(arrived, 486))
        ended = ground.caller.receive(0, 0.5)
        if ended is not None:
            ground.caller.send(packet.refusal_ack(invite, ended))

    return play


for _letter, _what in ((b"#", "hash"), (b"{", "brace"), (b"\xc3", "utf8"), (b"^", "caret")):
    for _filler in (0, 1600, 1680, 1760):
        CASES[f"escapes_of_{_what}_with_{_filler}_more"] = _escaped(
            (b"From", b"To"), _letter * 240, _filler
        )


def _in_dialog(method: bytes, side: str, size: int, name: bytes) -> Case:
    """A request inside the dialog that fills the packet by one field."""

    def play(ground: Ground) -> None:
        talk = ground.talk()
        ground.phone.receive("ACK", 0.3)
        sender = ground.caller if side == "caller" else ground.phone
        make = talk.from_caller if side == "caller" else talk.from_phone
        asked = make(method, packet.SDP if method != b"BYE" else b"")
        start, end = _GROWN[name]
        if name == b"Via":
            own = b"%s:%d" % (sender.own[0].encode(), sender.own[1])
            start = b"SIP/2.0/UDP " + own + b";rport;branch=z9hG4bKi%d;x=" % talk.cseq
        asked.set(name, start + end)
        room = size - len(asked.render())
        sender.send(asked.set(name, start + padded(room) + end))
        if method != b"BYE":
            sender.receive(513, 0.3)
            talk.hang_up()
        else:
            sender.receive(200, 0.3)

    return play


for _method in (b"BYE", b"INVITE", b"UPDATE", b"INFO"):
    for _name in (b"Via", b"Contact", b"Record-Route", b"Subject"):
        for _size in (3600, 3940, 3999):
            for _side in ("caller", "phone"):
                _title = f"{_method.decode()}_of_{_size}_by_{_name.decode()}_from_the_{_side}"
                CASES[_title] = _in_dialog(_method, _side, _size, _name)


@case
def reinvite_that_makes_the_contact_huge_then_bye(ground: Ground) -> None:
    talk = ground.talk()
    ground.phone.receive("ACK", 0.3)
    asked = talk.from_phone(b"INVITE", packet.SDP).set(b"Contact", _CONTACT[:3000] + b"@[::1]>")
    ground.phone.send(asked)
    ground.phone.receive(0, 0.3)
    asked = talk.from_phone(b"INVITE").set(b"Contact", b"<sip:" + padded(3300) + b"@127.0.0.1>")
    ground.phone.send(asked)
    ground.phone.receive(0, 0.3)
    talk.hang_up()


@case
def reinvite_answered_with_a_huge_contact_then_bye(ground: Ground) -> None:
    talk = ground.talk()
    ground.phone.receive("ACK", 0.3)
    ground.caller.send(talk.from_caller(b"INVITE", packet.SDP))
    arrived = ground.phone.receive("INVITE", 0.5)
    if arrived is not None:
        ok = ground.reply(arrived, 200, body=packet.SDP)
        ground.phone.send(ok.set(b"Contact", b"<sip:" + padded(3000) + b"@127.0.0.1:9>"))
        ground.caller.receive(200, 0.3)
    talk.hang_up()


# -- targets that cannot be reached ---------------------------------------------------------------


def _target(value: bytes) -> Case:
    def play(ground: Ground) -> None:
        talk = ground.talk(answer=lambda ok: ok.set(b"Contact", value))
        ground.caller.send(talk.from_caller(b"INVITE", packet.SDP))
        ground.caller.receive(503, 0.3)
        ground.caller.send(talk.from_caller(b"INFO", b"x"))
        ground.caller.receive(503, 0.3)
        talk.hang_up()

    return play


for _what, _value in {
    "tel": b"<tel:+33123456789>",
    "tcp": b"<sip:x@127.0.0.1:9;transport=tcp>",
    "tls": b"<sips:x@127.0.0.1:9>",
    "ipv6": b"<sip:x@[::1]:9>",
    "broadcast": b"<sip:x@255.255.255.255:9>",
    "unknown_transport": b"<sip:x@127.0.0.1:9;transport=avian>",
    "urn": b"<urn:x:y>",
    "star": b"*",
    "header_parameters": b"<sip:x@127.0.0.1:9?" + b"&".join([b"a=b"] * 200) + b">",
    "method_parameter": b"<sip:x@127.0.0.1:9;method=BYE;ttl=1;maddr=127.0.0.1;lr>",
    "any": b"<sip:x@0.0.0.0:9>",
    "nobody": b"<sip:127.0.0.1>",
}.items():
    CASES[f"answer_with_a_contact_of_{_what}"] = _target(_value)


# -- requests where they do not belong ------------------------------------------------------------


@case
def bye_before_the_answer_from_both(ground: Ground) -> None:
    sent, arrived = ground.ring()
    ground.phone.send(ground.reply(arrived, 180))
    ringing = ground.caller.receive(180)
    assert ringing is not None
    target = address_of(ringing.one("Contact")).encode()
    talk = Talk(ground, sent, arrived, ringing, target)
    for method in (b"INFO", b"UPDATE", b"INVITE", b"CANCEL", b"PRACK", b"BYE"):
        ground.phone.send(talk.from_phone(method))
    for method in (b"INFO", b"UPDATE", b"INVITE", b"PRACK", b"ACK", b"BYE"):
        ground.caller.send(talk.from_caller(method))
    ground.caller.receive(487, 0.5)


@case
def cancel_after_the_answer(ground: Ground) -> None:
    talk = ground.talk()
    ground.caller.send(cancel(talk.sent))
    ground.caller.receive(481, 0.3)
    talk.hang_up()


@case
def cancel_with_the_same_branch_and_another_from(ground: Ground) -> None:
    sent, _ = ground.ring()
    odd = cancel(sent).set(b"From", b"<sip:other@x>;tag=other")
    ground.caller.send(odd)
    ground.caller.receive(481, 0.3)
    ground.caller.send(cancel(sent))
    ended = ground.caller.receive(487, 0.5)
    if ended:
        ground.caller.send(packet.refusal_ack(sent, ended))


@case
def reinvite_with_the_branch_of_the_invite(ground: Ground) -> None:
    talk = ground.talk()
    again = talk.from_caller(b"INVITE", packet.SDP).set(b"Via", talk.sent.get(b"Via"))
    ground.caller.send(again)
    ground.caller.receive(0, 0.3)
    talk.hang_up()


def _unfinished_reinvite(code: int, by: str) -> Case:
    """A re-INVITE that gets no final answer before the call ends."""

    def play(ground: Ground) -> None:
        talk = ground.talk()
        ground.phone.receive("ACK", 0.5)
        if by == "caller":
            ground.caller.send(talk.from_caller(b"INVITE", packet.SDP))
        else:
            ground.phone.send(talk.from_phone(b"INVITE", packet.SDP))
        asked = ground.phone if by == "caller" else ground.caller
        arrived = asked.receive("INVITE", 0.5)
        assert arrived is not None, "the re-INVITE was not relayed"
        asked.send(response(asked.own, arrived, code, b""))
        time.sleep(0.1)
        talk.hang_up()
        bye = ground.phone.receive("BYE", 0.5)
        if bye is not None:
            ground.phone.send(ground.reply(bye, 200))

    return play


for _code in (100, 180):
    for _by in ("caller", "phone"):
        CASES[f"reinvite_by_the_{_by}_left_at_{_code}_then_bye"] = _unfinished_reinvite(_code, _by)


@case
def response_with_another_method_in_cseq(ground: Ground) -> None:
    sent, arrived = ground.ring()
    for method in (b"BYE", b"ACK", b"CANCEL", b"X"):
        number = arrived.one("CSeq").split()[0].encode()
        for code in (180, 200, 486, 401):
            ground.phone.send(ground.reply(arrived, code).set(b"CSeq", number + b" " + method))
    ground.phone.send(ground.reply(arrived, 486))
    ended = ground.caller.receive(0, 1.0)
    if ended is not None and ended.code == 200:  # the CSeq method may be ACK or INVITE
        target = address_of(ended.one("Contact")).encode()
        ground.caller.send(acknowledgement(sent, ended, ground.caller.own, target))
        Talk(ground, sent, arrived, ended, target).hang_up()
    elif ended is not None:
        ground.caller.send(packet.refusal_ack(sent, ended))


@case
def responses_with_odd_codes(ground: Ground) -> None:
    sent, arrived = ground.ring()
    for code in (b"000", b"099", b"700", b"999", b"1000", b"-1", b"20", b"199", b"299"):
        odd = ground.reply(arrived, 180)
        odd.start = b"SIP/2.0 " + code + b" Odd"
        ground.phone.send(odd)
    accepted = ground.caller.receive(0, 1.0)
    if accepted is not None and accepted.code == 299:
        target = address_of(accepted.one("Contact")).encode()
        ground.caller.send(acknowledgement(sent, accepted, ground.caller.own, target))
        Talk(ground, sent, arrived, accepted, target).hang_up()
    else:
        ground.caller.send(cancel(sent))


@case
def ack_and_bye_without_tags(ground: Ground) -> None:
    talk = ground.talk()
    for method in (b"ACK", b"BYE", b"INVITE", b"INFO"):
        asked = talk.from_caller(method)
        ground.caller.send(asked.set(b"To", b"<sip:x@y>"))
        ground.caller.send(talk.from_caller(method).set(b"From", b"<sip:x@y>"))
    talk.hang_up()


@case
def cseq_at_the_end_of_its_range(ground: Ground) -> None:
    talk = ground.talk()
    for number in (b"2147483646", b"2147483647", b"2147483648", b"4294967295", b"4294967296"):
        asked = talk.from_caller(b"INFO", b"x")
        ground.caller.send(asked.set(b"CSeq", number + b" INFO"))
    bye = talk.from_phone(b"BYE")
    ground.phone.send(bye)
    ground.phone.receive(200, 0.5)


@case
def invite_without_from_tag(ground: Ground) -> None:
    talk = ground.talk(ground.invite().set(b"From", b"<sip:+33140000001@caller.example>"))
    talk.hang_up()


@case
def invite_with_rfc2543_branch(ground: Ground) -> None:
    own = ground.caller.own
    via = b"SIP/2.0/UDP %s:%d" % (own[0].encode(), own[1])
    talk = ground.talk(ground.invite().set(b"Via", via))
    talk.hang_up()


@case
def invite_with_a_via_that_names_no_address(ground: Ground) -> None:
    for via in (
        b"SIP/2.0/UDP host.invalid;branch=z9hG4bKv1;maddr=host.invalid",
        b"SIP/2.0/UDP 127.0.0.1:0;branch=z9hG4bKv2",
        b"SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKv3",
        b"SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKv4;maddr=255.255.255.255",
        b"SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKv5;maddr=::1",
        b"SIP/2.0/UDP []:5060;branch=z9hG4bKv6",
    ):
        ground.caller.send(ground.invite().set(b"Via", via))
        arrived = ground.phone.receive("INVITE", 0.3)
        if arrived is not None:
            ground.phone.send(ground.reply(arrived, 486))
