"""Extensions in messages of the crowd: reliability, timers, transfers, registrations. All
randomness comes from the generator that is passed in."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from random import Random

from tests.campaigns import packet
from tests.campaigns.packet import Address, Packet
from tests.scenarios.message import Message

SECONDS = (b"90", b"1800", b"89", b"1", b"4294967296", b"90;refresher=uac", b"90;refresher=uas")
_TAG = re.compile(rb";tag=([^;>]+)")
_NONCE = re.compile(r'nonce="([^"]*)"')


def dialog_name(call_id: bytes, local: bytes, remote: bytes) -> bytes:
    """A Replaces value for the side whose own From or To header is `local`."""
    tags = [found[1] if (found := _TAG.search(side)) else b"none" for side in (local, remote)]
    return b"%s;to-tag=%s;from-tag=%s" % (call_id, *tags)


def adorn(chance: Random, invite: Packet, names: Sequence[bytes]) -> None:
    """Add extensions to a plain INVITE. `names` are active dialogs, as Replaces values."""
    draw = chance.random()
    if draw < 0.35:
        invite.fields.append((b"Supported", b"100rel, timer, replaces"))
    elif draw < 0.45:
        invite.fields.append((b"Require", b"100rel"))
    if chance.random() < 0.2:
        invite.fields.append((b"Session-Expires", chance.choice(SECONDS)))
        invite.fields.append((b"Min-SE", chance.choice(SECONDS)))
    if names and chance.random() < 0.1:
        name = chance.choice((b"Replaces", b"Join", b"Target-Dialog"))
        invite.fields.append((name, chance.choice(names)))


def refer_to(chance: Random, own: Address, names: Sequence[bytes]) -> bytes:
    """A target for a REFER: a URI, or an active dialog."""
    target = b"sip:+33972100100@%s:%d" % (own[0].encode(), own[1])
    if not names or chance.random() < 0.4:
        return b"<" + target + b">"
    escaped = chance.choice(names).replace(b";", b"%3B").replace(b"=", b"%3D")
    return b"<" + target + b"?Replaces=" + escaped + b">"


def prack(
    chance: Random, own: Address, sent: Packet, answer: Message, target: bytes
) -> Packet | None:
    """The PRACK of a reliable provisional response; None if it is not one."""
    if not answer.has("RSeq"):
        return None
    number = int(sent.get(b"CSeq").split()[0])
    made = packet.within(
        own, b"PRACK", local=sent.get(b"From"), remote=answer.one("To").encode(),
        call_id=sent.get(b"Call-ID"), cseq=number + chance.choice((1, 1, 1, 7)), target=target,
        body=chance.choice((b"", packet.SDP)),
    )  # fmt: skip
    rseq = answer.one("RSeq").encode()
    if chance.random() < 0.15:
        rseq = chance.choice((b"0", b"1", b"4294967296", b"x", b""))
    made.fields.append((b"RAck", b"%s %d INVITE" % (rseq, number)))
    return made


def register(chance: Random, own: Address, engine: Address, number: bytes, nonce: str) -> Packet:
    """A REGISTER with a wrong answer to a challenge."""
    made = packet.request(own, engine, number, b"REGISTER", b"")
    made.set(b"To", b"<sip:%s@office.example>" % number)
    made.set(b"From", b"<sip:%s@office.example>;tag=r" % number)
    if chance.random() < 0.3:
        made.fields.append((b"Expires", chance.choice((b"0", b"1", b"3600", b"99999999999"))))
    if chance.random() < 0.2:
        made.set(b"Contact", b"*")
    if chance.random() < 0.3:
        made.fields.append((b"Path", b"<sip:127.0.0.1:%d;lr>" % own[1]))
    if nonce and chance.random() < 0.8:
        algorithm = chance.choice((b"MD5", b"SHA-256", b"Z"))
        made.fields.append(
            (
                b"Authorization",
                (
                    b'Digest username="%s",realm="renvoi",nonce="%s",uri="sip:x",response="%s",'
                    b'algorithm=%s,qop=auth,nc=%08x,cnonce="c"'
                )
                % (
                    number,
                    nonce.encode(),
                    secrets.token_hex(16).encode(),
                    algorithm,
                    chance.randrange(9),
                ),
            )
        )
    return made


def nonce_of(answer: Message) -> str:
    """The nonce of a challenge, empty if there is none."""
    for value in answer.every("WWW-Authenticate"):
        if found := _NONCE.search(value):
            return found[1]
    return ""
