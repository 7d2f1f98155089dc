"""Real phones (baresip) whose engine dies during their call: the call is not affected."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.scenarios.continued import killed, until
from tests.scenarios.phones import Front, Phones, open_front
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import RunningEngine, Setup
from tests.scenarios.sipp import HOST, free_port


@pytest.fixture(scope="module", params=["udp", "tcp"])
def front(
    request: pytest.FixtureRequest,
    shared_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    kind = socket.SOCK_STREAM if request.param == "tcp" else socket.SOCK_DGRAM
    server = f"{HOST}:{free_port(kind)}"
    directory = tmp_path_factory.mktemp("engine")
    with open_front(directory, shared_redis, server, None, request.param) as front:
        yield front


@pytest.fixture(scope="module")
def running_engine(front: Front) -> RunningEngine:
    return front.running_engine


@pytest.fixture
def phones(setup: Setup, front: Front) -> Phones:
    return Phones(setup, front)


async def test_they_talk_hold_and_hang_up_after_the_death(setup: Setup, phones: Phones) -> None:
    phone, caller = await phones.line(), await phones.line()
    await caller.dial(phone.number)
    await phone.rings()
    await phone.command("accept")
    for side in (caller, phone):
        await side.talks()
    (shown,) = setup.engine.calls()
    await until(lambda: setup.engine.calls()[0]["answered"], shown)
    await killed(setup)
    await phone.command("hold")
    await caller.is_sent("a=sendonly")
    await phone.resume()
    await caller.command("hold")
    await phone.is_sent("a=sendonly")
    await phone.command("hangup")
    await caller.closed()
    (record,) = await setup.records_of(phone.number)
    assert (record["outcome"], record["why"], record["takeovers"]) == ("answered", "bye", "1")
