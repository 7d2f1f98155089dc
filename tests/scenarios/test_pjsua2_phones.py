"""Phones on PJSIP, an independent stack: they register, call, are forwarded, transfer.

They use session timers and reliable provisional responses, which baresip does not. Wheels of pjsua2
exist for some platforms only; the process of a phone is that of the demo (engine/demo).
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from engine.demo.softphone import SoftPhone
from tests.patience import within
from tests.scenarios.baresip import CREDENTIALS, PASSWORD
from tests.scenarios.phones import Front, open_front
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import RunningEngine, Setup, to_number
from tests.scenarios.sipp import HOST, free_port

pytest.importorskip("pjsua2")
Lines = Callable[..., Awaitable[tuple[str, SoftPhone]]]


class Phone(SoftPhone):
    """It may take longer than in the demo."""

    async def event(self, kind: str, wait_s: float = within(6), **fields: Any) -> dict[str, Any]:
        return await super().event(kind, wait_s, **fields)


@pytest.fixture(scope="module", params=["udp", "tcp"])
def front(
    request: pytest.FixtureRequest,
    shared_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    kind = socket.SOCK_STREAM if request.param == "tcp" else socket.SOCK_DGRAM
    server = f"{HOST}:{free_port(kind)}"
    directory = tmp_path_factory.mktemp("engine")
    with open_front(directory, shared_redis, server, transport=request.param) as front:
        yield front


@pytest.fixture(scope="module")
def running_engine(front: Front) -> RunningEngine:
    return front.running_engine


@pytest.fixture
def lines(setup: Setup, front: Front) -> Lines:
    """Makes a line with a registered phone."""

    async def make(**fields: Any) -> tuple[str, SoftPhone]:
        number = setup.line(credentials=CREDENTIALS, **fields)
        phone = Phone(transport=front.server.partition("transport=")[2] or "udp")
        setup._stack.push_async_callback(phone.stop)
        await phone.open(HOST)
        phone.say("enrol", number=number, server=front.server, user="accueil", password=PASSWORD)
        await phone.event("registered", code=200)
        return number, phone

    return make


async def ring(front: Front, caller: SoftPhone, number: str, phone: SoftPhone) -> None:
    """The caller dials the number, and the phone rings."""
    caller.say("dial", uri=f"sip:{number}@{front.server}")
    await phone.event("incoming")
    phone.say("answer", code=180)
    await caller.event("early", code=180)


async def talk(*phones: SoftPhone) -> None:
    """Wait until all have answered and receive sound."""
    for phone in phones:
        await phone.event("confirmed")
        await phone.event("media")
    for phone in phones:
        while not (await received(phone)):
            pass


async def received(phone: SoftPhone) -> int:
    """How many packets of sound it has received."""
    phone.say("heard")
    return int((await phone.event("heard"))["packets"])


async def test_a_phone_is_called_and_audio_flows_both_ways(
    setup: Setup, front: Front, lines: Lines
) -> None:
    number, phone = await lines()
    _, caller = await lines()
    await ring(front, caller, number, phone)
    phone.say("answer")
    await talk(caller, phone)
    caller.say("digits", digits="7")  # in RTP, as negotiated by SDP
    await phone.event("digit", digit="7")
    for word, event in (("hold", "held"), ("resume", "media")):
        caller.say(word)
        for side in (caller, phone):
            await side.event(event)
    phone.say("hangup")
    await caller.event("ended", reason="Normal call clearing")
    (record,) = await setup.records_of(number)
    assert record["outcome"] == "answered"


async def test_a_caller_gives_up(setup: Setup, front: Front, lines: Lines) -> None:
    number, phone = await lines()
    _, caller = await lines()
    await ring(front, caller, number, phone)
    caller.say("hangup")
    await phone.event("ended", code=487)
    await caller.event("ended", code=487)
    (record,) = await setup.records_of(number)
    assert record["outcome"] == "cancelled"


@pytest.mark.parametrize("condition", ["busy", "no_answer"])
async def test_a_phone_that_does_not_answer_is_forwarded(
    front: Front, lines: Lines, condition: str
) -> None:
    elsewhere, colleague = await lines()
    after = {"after_s": 5} if condition == "no_answer" else {}
    number, phone = await lines(forwards={condition: to_number(elsewhere, **after)})
    _, caller = await lines()
    await ring(front, caller, number, phone)
    if condition == "busy":
        phone.say("hangup", code=486)
    incoming = await colleague.event("incoming")
    assert "\r\nDiversion: " in incoming["message"]
    colleague.say("answer")
    await talk(caller, colleague)
    await phone.event("ended")
    caller.say("hangup")
    await colleague.event("ended")


async def test_a_phone_transfers_its_call(front: Front, lines: Lines) -> None:
    elsewhere, colleague = await lines()
    number, phone = await lines()
    _, caller = await lines()
    await ring(front, caller, number, phone)
    phone.say("answer")
    await talk(caller, phone)
    phone.say("transfer", uri=f"sip:{elsewhere}@{front.server}")
    await colleague.event("incoming")
    colleague.say("answer")
    await talk(colleague)
    await phone.event("transfer", code=200, last=True)
    phone.say("hangup")
    await phone.event("ended")
    colleague.say("hangup")
    await colleague.event("ended")
