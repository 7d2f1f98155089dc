"""OpenSIPS in front of an engine, as in deploy/opensips: what it relays, and what it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Endpoint, Headers
from tests.scenarios.expect import part, refuse
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup, started_engine, to_number
from tests.servers.opensips import OpenSips
from tests.servers.places import ENGINE_PORT, OTHER_ENGINE, OTHER_SERVER, SIP_PORT, STRANGER, TRUNK


@pytest.fixture(scope="module")
def opensips(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSips]:
    opensips = OpenSips(tmp_path_factory.mktemp("opensips"))
    before = {path: path.read_text() for path in opensips.tables.iterdir()}
    try:
        opensips.start()
        yield opensips
    finally:
        opensips.stop()
    # Earlier it wrote the states of the engines into the dispatcher's file when it ended.
    assert {path: path.read_text() for path in opensips.tables.iterdir()} == before


@pytest.fixture(scope="module")
def front_engine(
    opensips: OpenSips, shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    """The engine behind it; the second row of the dispatcher has no engine."""
    directory = tmp_path_factory.mktemp("behind")
    settings: dict[str, dict[str, object]] = {
        "sip": {
            "listen": [f"udp:{OTHER_ENGINE}:{ENGINE_PORT}"],
            "trusted_peers": [f"{OTHER_SERVER}/32"],
            "outbound_proxy": opensips.uri,
        },
        "destinations": {"number": f"sip:{{number}}@{TRUNK}:{SIP_PORT}"},
    }
    engine = Engine(directory, shared_redis.url, settings)
    with started_engine(engine, shared_redis.client, directory) as running_engine:
        yield running_engine


@pytest.fixture
async def front(front_engine: RunningEngine) -> AsyncIterator[Setup]:
    async with Setup(front_engine) as setup:
        yield setup


@pytest.fixture
async def gateway() -> AsyncIterator[Endpoint]:
    gateway = await Endpoint.open(TRUNK, SIP_PORT)
    yield gateway
    gateway.close()


def call(opensips: OpenSips, gateway: Endpoint, called: str) -> Call:
    return gateway.start(opensips.address, called, body=OFFER_BYTES)


def test_the_shipped_configuration_is_one_that_opensips_takes(tmp_path: Path) -> None:
    done = OpenSips(tmp_path).check()
    assert done.returncode == 0, done.stderr


async def test_a_call_is_forwarded_and_talks_both_ways(
    opensips: OpenSips, front: Setup, gateway: Endpoint
) -> None:
    target = numbers.outside_number()
    line = front.line(forwards={"unconditional": to_number(target)})
    await front.settle()
    caller = call(opensips, gateway, f"0{line[3:]}")
    away = await gateway.incoming(target)
    away.routes = [("Route", away.first.one("Record-Route"))]
    away.respond(180)
    await caller.receive(180)
    away.respond(200, body=OFFER_BYTES)
    answer = await caller.receive(200)
    caller.routes = [("Route", answer.one("Record-Route"))]
    caller.ack(answer)
    await away.receive("ACK")
    for first, second in ((caller, away), (away, caller)):
        first.request("INFO")
        second.respond(200, to=await second.receive("INFO"))
        await first.receive(200, "INFO")
    await part(away, caller)


async def test_an_engine_that_is_not_there_is_passed_over(
    opensips: OpenSips, front: Setup, gateway: Endpoint
) -> None:
    for _ in range(6):  # by their hash some go to the second engine
        line, phone = await front.line_with_phone()
        await front.settle()
        caller = call(opensips, gateway, line)
        await refuse(await phone.incoming(), 486)
        assert (await caller.final()).code == 486


async def test_who_is_not_in_the_address_table_may_not_call(
    opensips: OpenSips, front: Setup
) -> None:
    line, phone = await front.line_with_phone()
    await front.settle()
    stranger = await front.endpoint(STRANGER)
    refused = call(opensips, stranger, line)
    assert (await refused.final()).code == 403
    assert not phone.heard


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "OPTIONS", "BYE", "REFER", "ACK"])
@pytest.mark.parametrize("routes", ["front", "front twice", "front and victim"])
async def test_a_to_tag_and_a_route_make_no_dialog(
    opensips: OpenSips, front: Setup, method: str, routes: str
) -> None:
    """Earlier it was an open relay: any request with a To tag and a Route was relayed anywhere."""
    victim, stranger = await front.endpoint(TRUNK), await front.endpoint(STRANGER)
    own = f"<{opensips.uri}>"
    listed = {"front": own, "front twice": f"{own}, {own}"}
    headers: Headers = [("Route", listed.get(routes, f"{own}, <{victim.uri()};lr>"))]
    attack = stranger.start(
        opensips.address,
        "x",
        method=method,
        to=f"<{victim.uri()}>;tag=1",
        uri=victim.uri(),
        headers=headers,
    )
    if method != "ACK":
        assert (await attack.final(method)).code == 403
    # A relayed request would have arrived before the answer to this one.
    server = f"sip:{OTHER_SERVER}:{SIP_PORT}"
    probe = stranger.start(opensips.address, "x", method="OPTIONS", uri=server)
    assert (await probe.final("OPTIONS")).code == 200
    assert not victim.heard
