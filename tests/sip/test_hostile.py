"""Hostile messages, in memory: outside and inside calls, as requests and as responses. In every
case no exception leaves the core, no other peer receives anything, and no state is left."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from sip.layer import STRANGERS_S
from sip.message import Message
from tests.campaigns.mutation import mutate
from tests.campaigns.packet import Packet, request
from tests.campaigns.torture import TORTURES
from tests.campaigns.wounds import wound
from tests.sip import house as home_of
from tests.sip.house import CALLER, OTHER, PHONE, SDP, House, answer, house

METHODS = (b"INVITE", b"BYE", b"CANCEL", b"OPTIONS", b"UPDATE", b"INFO", b"REFER", b"PRACK", b"FOO")
OWN, PEER = ("127.0.0.1", CALLER), ("127.0.0.1", 5080)
WILD = 60  # damaged messages of each kind and seed


def packet_of(raw: bytes) -> Packet:
    """A well-formed message as parts, to be damaged."""
    head, _, body = raw.partition(b"\r\n\r\n")
    start, *lines = head.split(b"\r\n")
    names = {b"call-id": b"Call-ID", b"cseq": b"CSeq"}
    fields = []
    for line in lines:
        name, _, value = line.partition(b": ")
        if name.lower() != b"content-length":
            fields.append((names.get(name.lower(), name), value))
    return Packet(start, fields, body)


def changed(chance: Random, raw: bytes) -> bytes:
    """The message, damaged in one of two ways."""
    packet = packet_of(raw)
    return wound(chance, packet) if chance.random() < 0.6 else mutate(chance, packet)


def call_up(home: House, number: int) -> str:
    """Set up an answered call; returns the To tag of the caller's dialog."""
    call_id = f"call{number}"
    home.feed(home_of.request("INVITE", call_id=call_id, body=SDP), CALLER)
    home.feed(answer(home.line(PHONE).sent[-1], 200, body=SDP), PHONE)
    tag: str = home.line(CALLER).sent[-1].to_tag.decode()
    home.feed(home_of.request("ACK", call_id=call_id, tag=tag), CALLER)
    return tag


def settle(home: House) -> None:
    """All sides hang up, and 64*T1 pass twice: no state may be left."""
    for leg in list(home.endpoint.legs.values()):
        leg.detach()
        leg.hangup()
    home.pass_time(33_000)
    for leg in list(home.endpoint.legs.values()):
        leg.hangup()
    home.pass_time(33_000)
    home.pass_time(40_000)
    layer = home.endpoint.layer
    assert (layer.servers, layer.clients, layer.merged, layer.past) == ({}, {}, {}, {})
    assert layer.wheel.waiting == 0


@pytest.mark.parametrize("seed", range(2))
async def test_requests_outside_calls(seed: int) -> None:
    chance = Random(seed)
    with house() as home:
        for _ in range(WILD):
            method = chance.choice(METHODS)
            raw = request(OWN, PEER, b"+33972100001", method).render()
            home.feed(changed(chance, raw), CALLER)
        await asyncio.sleep(0)
        settle(home)


@pytest.mark.parametrize("seed", range(2))
async def test_requests_inside_calls_from_both_sides(seed: int) -> None:
    chance = Random(seed)
    with house() as home:
        for number in range(WILD // 10):
            tag = call_up(home, number)
            leg = home.callees[-1].dialog
            for cseq in range(2, 12):
                method = chance.choice(METHODS).decode()
                if chance.random() < 0.5 or leg is None:
                    raw = home_of.request(method, call_id=f"call{number}", tag=tag, cseq=cseq)
                    home.feed(changed(chance, raw), CALLER)
                    continue
                raw = home_of.request(
                    method, port=PHONE, call_id=leg.call_id.decode(), cseq=cseq,
                    tag=leg.local_tag.decode(), from_tag="phone",
                )  # fmt: skip
                home.feed(changed(chance, raw), PHONE)
        settle(home)


@pytest.mark.parametrize("seed", range(2))
async def test_responses_of_phones(seed: int) -> None:
    chance = Random(seed)
    with house() as home:
        for number in range(WILD // 6):
            home.feed(home_of.request("INVITE", call_id=f"call{number}", body=SDP), CALLER)
            invite = home.line(PHONE).sent[-1]
            for _ in range(6):
                code = chance.choice((100, 180, 183, 199, 200, 202, 302, 401, 486, 500, 600))
                raw = answer(invite, code, tag=chance.choice(("", "a", "b")), body=SDP)
                home.feed(changed(chance, raw), PHONE)
        settle(home)


async def test_a_flood_of_malformed_messages_of_strangers_is_answered_within_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 1000.0
    monkeypatch.setattr("sip.layer.time.monotonic", lambda: clock)
    broken = home_of.request("OPTIONS", fields=("Allow: INVITE,",))
    strangers = [b"192.0.2.%d" % n for n in range(1, 11)]
    with house() as home:
        most = home.endpoint.limits.message_bytes
        huge = home_of.request("OPTIONS", fields=("Subject: " + "x" * most,))

        def heard() -> int:
            return sum(len(home.line(OTHER, host).sent) for host in strangers)

        for n in range(2 * STRANGERS_S):
            home.feed(broken if n % 20 else huge, OTHER, strangers[n % 10])
        assert heard() == STRANGERS_S
        assert len(home.rejected) >= 2 * STRANGERS_S  # all are counted
        home.feed(broken, CALLER)  # a peer gets the reason, also during the flood
        assert [message.status for message in home.line(CALLER).sent] == [400]
        clock += 1.0
        home.feed(broken, OTHER, strangers[0])
        assert heard() == STRANGERS_S + 1
        settle(home)


async def test_tortures() -> None:
    """Malformed messages get one answer with the fault, or none; nothing crashes."""
    with house() as home:
        caller = home.line(CALLER)
        for name, make in TORTURES.items():
            caller.sent.clear()
            raw = make(OWN, PEER, b"+33972100001")
            home.feed(raw, CALLER)
            read = Message(raw)
            answers = [message.status for message in caller.sent if message.status]
            if read.bad > 0 and read.method != b"ACK":
                assert answers == [read.bad], name
            elif read.bad < 0:
                assert answers == [], name
        settle(home)


@pytest.mark.parametrize("seed", range(4))
def test_what_crosses_can_be_read_in_one_way_only(seed: int) -> None:
    """A well-formed message is read identically after it was relayed: no field appears."""
    chance = Random(seed)
    for _ in range(WILD):
        raw = changed(chance, request(OWN, PEER, b"+33972100001").render())
        message = Message(raw)
        if message.bad:
            continue
        again = Message(message.data)
        assert again.bad == 0
        assert again.fields == message.fields
        assert again.body == message.body
        text = message.passing(frozenset((b"via",)))
        lines = [line for name, line, _ in message.fields if name != b"via"]
        assert text.split(b"\r\n") == (lines or [b""])
