"""Phones that nobody here wrote (baresip): they register, call, are forwarded, and talk.

Each scenario is played twice: straight to the engine, and through Kamailio as deploy/kamailio
ships it. Then the engine trusts Kamailio alone, and knows the phones by the Path they came by.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.scenarios.baresip import CREDENTIALS, PASSWORD, Baresip
from tests.scenarios.kamailio import Kamailio
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.sipp import HOST, free_port
from tests.scenarios.stage import Stage, Theatre, playing, to_number

EDGE = "127.0.0.3"


@pytest.fixture(scope="module", params=["straight", "through_kamailio"])
def front(
    request: pytest.FixtureRequest,
    shared_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Theatre, str]]:
    """A running engine, and the host:port that phones know."""
    shared_redis.client.flushall()
    directory = tmp_path_factory.mktemp("engine")
    server, dead = f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"
    settings: dict[str, dict[str, object]] = {"sip": {"listen": [f"udp:{server}"]}}
    if request.param == "straight":
        with playing(
            Engine(directory, shared_redis.url, settings), shared_redis.client, directory
        ) as theatre:
            yield theatre, server
        return
    kamailio = Kamailio(directory, [server, dead], callers=[], host=EDGE)
    settings["sip"] |= {"outbound_proxy": kamailio.uri, "trusted_peers": [f"{EDGE}/32"]}
    engine = Engine(directory, shared_redis.url, settings)
    with playing(engine, shared_redis.client, directory) as theatre:
        kamailio.start()
        try:
            yield theatre, kamailio.peer
        finally:
            kamailio.stop()


@pytest.fixture(scope="module")
def theatre(front: tuple[Theatre, str]) -> Theatre:
    return front[0]


class Phones:
    """Starts phones, and ends them when the scenario is done."""

    def __init__(self, stage: Stage, server: str) -> None:
        self._stage = stage
        self.server = server

    async def start(self, *options: str, **fields: Any) -> Baresip:
        """A line with such a phone, registered."""
        line = self._stage.line(credentials=CREDENTIALS, **fields)
        directory = self._stage.theatre.directory
        phone = Baresip(directory, line, self.server, password=PASSWORD, options=options)
        self._stage._stack.push_async_callback(phone.stop)
        return await phone.start()


@pytest.fixture
def phones(stage: Stage, front: tuple[Theatre, str]) -> Phones:
    return Phones(stage, front[1])


async def test_a_phone_registers_is_called_and_both_hear_one_another(
    stage: Stage, phones: Phones
) -> None:
    phone = await phones.start()
    caller = await phones.start()
    await caller.dial(phone.number)
    assert caller.number in await phone.rings()
    await caller.event("CALL_RINGING")
    await phone.command("accept")
    for side in (caller, phone):
        await side.talks()
    await caller.command("hold")
    await caller.command("resume")
    await phone.command("hangup")
    await caller.closed()
    (record,) = await stage.records_of(phone.number)
    assert record["outcome"] == "answered"


async def test_a_phone_that_is_busy_is_forwarded(stage: Stage, phones: Phones) -> None:
    """The person declines: baresip says 486. The call goes to a colleague."""
    colleague = await phones.start("answermode=auto")
    forwards = {"busy": to_number(colleague.number)}
    phone = await phones.start(forwards=forwards)
    caller = await phones.start()
    await caller.dial(phone.number)
    await phone.rings()
    await phone.command("hangup")
    for side in (caller, colleague):
        await side.talks()
    await caller.command("hangup")
    await colleague.closed()


async def test_a_phone_whose_line_has_a_call_already_is_not_rung(
    stage: Stage, phones: Phones
) -> None:
    colleague = await phones.start("answermode=auto")
    forwards = {"busy": to_number(colleague.number)}
    phone = await phones.start("answermode=auto", forwards=forwards, max_calls=1)
    callers = [await phones.start() for _ in range(2)]
    for caller, callee in zip(callers, (phone, colleague), strict=True):
        await caller.dial(phone.number)
        for side in (caller, callee):
            await side.talks()
    assert "CALL_INCOMING" not in phone.said()[1:], phone
    for caller in callers:
        await caller.command("hangup")


async def test_a_phone_that_nobody_picks_up_is_forwarded(stage: Stage, phones: Phones) -> None:
    colleague = await phones.start("answermode=auto")
    forwards = {"no_answer": to_number(colleague.number, after_s=5)}
    phone = await phones.start(forwards=forwards)
    caller = await phones.start()
    await caller.dial(phone.number)
    await phone.rings()
    await phone.closed(8)
    for side in (caller, colleague):
        await side.talks()
    await caller.command("hangup")
    await colleague.closed()


async def test_a_phone_hands_its_call_over_to_a_colleague(stage: Stage, phones: Phones) -> None:
    colleague = await phones.start("answermode=auto")
    phone = await phones.start("answermode=auto")
    caller = await phones.start()
    await caller.dial(phone.number)
    await phone.talks()
    await phone.command("transfer", f"sip:{colleague.number}@{phones.server}")
    await colleague.talks()
    await phone.closed()
    await caller.command("hangup")
    await colleague.closed()
