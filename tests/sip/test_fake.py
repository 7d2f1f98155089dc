"""Two scripted endpoints with each other, without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sip import fake
from sip.fake import ANSWERS, IS_BUSY, IS_SILENT, ONLY_RINGS, Call, FakeEndpoint
from sip.message import Message
from tests.patience import within

SCRIPTS = {"answers": ANSWERS, "busy": IS_BUSY, "rings": ONLY_RINGS, "silent": IS_SILENT}


@pytest.fixture
async def caller() -> AsyncIterator[FakeEndpoint]:
    endpoint = FakeEndpoint(lambda _: ())
    await endpoint.open()
    yield endpoint
    endpoint.close()


@pytest.fixture
async def phone() -> AsyncIterator[FakeEndpoint]:
    endpoint = FakeEndpoint(lambda user: SCRIPTS[user], b"answer")
    await endpoint.open()
    yield endpoint
    endpoint.close()


def place(caller: FakeEndpoint, phone: FakeEndpoint, called: str) -> Call:
    return caller.place((phone.host, phone.port), called, caller="+33199000001", body=b"offer")


def only(phone: FakeEndpoint) -> Call:
    (call,) = phone.calls.values()
    return call


async def until(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), within(5))


async def test_an_answered_call_ends_on_both_sides(
    caller: FakeEndpoint, phone: FakeEndpoint
) -> None:
    call = place(caller, phone, "answers")
    assert await call.final() == 200
    received = only(phone)
    await until(received.acked)
    assert received.invite.body == b"offer"
    assert call.answers[-1].body == received.body == b"answer"
    assert call.codes() == [180, 200]
    assert len(call.to_tags()) == 1
    assert await call.hang_up() == 200
    await until(received.ended)


async def test_the_called_side_may_hang_up(caller: FakeEndpoint, phone: FakeEndpoint) -> None:
    call = place(caller, phone, "answers")
    await call.final()
    assert await only(phone).hang_up() == 200
    assert call.ended.is_set()


async def test_a_refusal_is_acknowledged(caller: FakeEndpoint, phone: FakeEndpoint) -> None:
    call = place(caller, phone, "busy")
    assert await call.final() == 486
    await until(only(phone).acked)
    assert call.ended.is_set()


async def test_a_ringing_call_can_be_cancelled(caller: FakeEndpoint, phone: FakeEndpoint) -> None:
    call = place(caller, phone, "rings")
    while not call.codes():
        await asyncio.sleep(0.01)
    call.cancel()
    assert await call.final() == 487
    await until(only(phone).acked)


async def test_what_gets_lost_is_sent_again(
    caller: FakeEndpoint, phone: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "T1_S", 0.05)
    lost: set[bytes] = set()

    def lossy(endpoint: FakeEndpoint) -> None:
        send = endpoint.send

        def send_the_second_time(raw: bytes, peer: fake.Address) -> None:
            kind = Message(raw).start_line.partition(b"@")[0]
            if kind in lost:
                send(raw, peer)
            lost.add(kind)

        monkeypatch.setattr(endpoint, "send", send_the_second_time)

    lossy(caller)
    lossy(phone)
    call = place(caller, phone, "answers")
    assert await call.final() == 200
    received = only(phone)
    await until(received.acked)
    assert await call.hang_up() == 200
    assert received.ended.is_set()
    assert len(phone.calls) == 1


async def test_nobody_answering_is_a_time_out(caller: FakeEndpoint, phone: FakeEndpoint) -> None:
    call = place(caller, phone, "silent")
    with pytest.raises(TimeoutError):
        await call.final(0.1)


async def test_garbage_is_ignored(caller: FakeEndpoint, phone: FakeEndpoint) -> None:
    for raw in (
        b"",
        b"\r\n\r\n",
        b"\x00\xff",
        b"SIP/2.0 abc\r\n\r\n",
        b"BYE sip:x SIP/2.0\r\n\r\n",
    ):
        caller.send(raw, (phone.host, phone.port))
    assert await place(caller, phone, "busy").final() == 486
