"""The endpoints of the campaigns: a copy of an INVITE is no re-INVITE."""

from __future__ import annotations

import asyncio

from tests.campaigns.party import Fields, Message, Party, Side, build

ENGINE = "127.0.0.1", 5060
INVITE: Fields = [
    (b"Via", b"SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK1"),
    (b"From", b"<sip:+33140000001@renvoi.test>;tag=e"),
    (b"To", b"<sip:busy@127.0.0.1:5090>"),
    (b"Call-ID", b"one"),
    (b"CSeq", b"1 INVITE"),
    (b"Contact", b"<sip:renvoi@127.0.0.1:5060>"),
]


class Silent(Party):
    """Keeps what it says."""

    said: list[bytes]

    def put(self, raw: bytes) -> None:
        self.said.append(raw)


async def test_a_copy_that_comes_before_the_phone_has_decided_is_not_answered() -> None:
    """A late endpoint reads both at once. Its 200 once made an answered call of a busy one."""
    tasks: list[asyncio.Task[None]] = []

    async def play(side: Side, invite: Message) -> None:
        side.respond(invite, 486)

    def begin(side: Side, invite: Message) -> None:
        tasks.append(asyncio.create_task(play(side, invite)))

    party = Silent("phone", begin)
    party.said = []
    invite = build(b"INVITE sip:busy@127.0.0.1:5090 SIP/2.0", INVITE)
    party.datagram_received(invite, ENGINE)
    party.datagram_received(invite, ENGINE)
    assert party.said == []
    await asyncio.gather(*tasks)
    party.datagram_received(invite, ENGINE)
    assert [raw.split(b" ")[1] for raw in party.said] == [b"486", b"486"]
    for side in party.sides.values():
        side.vanish()


async def test_a_final_response_is_owed_an_ack_after_the_end_of_the_call_too() -> None:
    party = Silent("phone", lambda side, invite: side.respond(invite, 200))
    party.said = []
    party.datagram_received(build(b"INVITE sip:a@127.0.0.1:5090 SIP/2.0", INVITE), ENGINE)
    (side,) = party.sides.values()
    side.end("bye received")
    assert side.is_owed_ack
    ack = [*INVITE[:4], (b"CSeq", b"1 ACK")]
    party.datagram_received(build(b"ACK sip:a@127.0.0.1:5090 SIP/2.0", ack), ENGINE)
    assert not side.is_owed_ack
