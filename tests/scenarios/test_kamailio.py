"""Kamailio in front of two engines, with the configuration of deploy/kamailio: its own behaviour.

With real phones: test_real_phones.py, test_network_cut.py.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.baresip import CREDENTIALS, PASSWORD, Baresip
from tests.scenarios.continued import until
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import call_off, part, refuse
from tests.scenarios.kamailio import Kamailio
from tests.scenarios.message import Message
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.script import answered_call, answering_phone
from tests.scenarios.setup import (
    ANSWER_BYTES,
    OFFER_BYTES,
    RunningEngine,
    Setup,
    started_engine,
    to_number,
)
from tests.scenarios.sipp import HOST, Sipp, free_port
from tests.scenarios.test_registrar import Phone

EDGE, GATEWAY = "127.0.0.3", "127.0.0.2"


@dataclass
class Front:
    """A Kamailio and the two engines behind it."""

    kamailio: Kamailio
    engines: list[Engine]
    gateway_port: int
    stack: ExitStack = field(default_factory=ExitStack)

    async def engine_of(self, call: Call) -> Engine:
        """The engine that had this call, from its log at the end of the call."""
        deadline = time.monotonic() + within(5)
        while True:
            for engine in self.engines:
                if any(event.get("call_id") == call.call_id for event in engine.events()):
                    return engine
            assert time.monotonic() < deadline, f"no engine had {call!r}"
            await asyncio.sleep(0.05)


def open_front(redis: RedisServer, directory: Path, callers: Sequence[str] = (GATEWAY,)) -> Front:
    """Two engines that trust only Kamailio, and two gateways, the first of which is down."""
    servers = [f"{HOST}:{free_port()}" for _ in range(2)]
    port = free_port()
    kamailio = Kamailio(
        directory,
        servers,
        gateways=[f"{GATEWAY}:{free_port()}", f"{GATEWAY}:{port}"],
        callers=callers,
        host=EDGE,
    )
    engines = []
    for server in servers:
        place = directory / server
        place.mkdir()
        settings: dict[str, dict[str, object]] = {
            "sip": {
                "listen": [f"udp:{server}"],
                "outbound_proxy": kamailio.uri,
                "trusted_peers": [f"{EDGE}/32"],
            },
            "destinations": {"number": f"sip:{{number}}@{kamailio.peer}"},
        }
        engines.append(Engine(place, redis.url, settings))
    return Front(kamailio, engines, port)


@pytest.fixture(scope="module")
def front(shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Shared by all scenarios that do not change it."""
    shared_redis.client.flushall()
    front = open_front(shared_redis, tmp_path_factory.mktemp("front"))
    with front.stack as stack:
        for engine in front.engines:
            place = tmp_path_factory.mktemp("engine")
            stack.enter_context(started_engine(engine, shared_redis.client, place))
        front.kamailio.start()
        stack.callback(front.kamailio.stop)
        yield front


@pytest.fixture(scope="module")
def running_engine(
    front: Front, shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> RunningEngine:
    return RunningEngine(front.engines[0], shared_redis.client, tmp_path_factory.mktemp("phones"))


@pytest.fixture
async def gateway(front: Front, setup: Setup) -> AsyncIterator[Endpoint]:
    """The working gateway."""
    endpoint = await Endpoint.open(GATEWAY, front.gateway_port)
    yield endpoint
    endpoint.close()


async def call_from_outside(front: Front, setup: Setup, called: str) -> Call:
    """A call from a gateway to a number of Kamailio."""
    endpoint = await setup.endpoint(GATEWAY)
    return endpoint.start(front.kamailio.address, called, body=OFFER_BYTES)


async def talk(call: Call, ring: Call) -> None:
    """The phone rings and answers; both sides keep the routes that Kamailio recorded."""
    ring.routes = [("Route", ring.first.one("Record-Route"))]
    ring.respond(180)
    await call.receive(180)
    ring.respond(200, body=ANSWER_BYTES)
    answer = await call.receive(200)
    call.routes = [("Route", answer.one("Record-Route"))]
    call.ack(answer)
    await ring.receive("ACK")


async def reinvite(speaker: Call, listener: Call) -> Message:
    """One side changes the session; returns the request as the other side got it. In Kamailio's
    processes it may overtake the ACK before it: then it is refused, and sent again (RFC 3261
    14.1)."""
    while True:
        speaker.request("INVITE", body=OFFER_BYTES)
        final = asyncio.create_task(speaker.final())
        arrived = asyncio.create_task(listener.receive("INVITE"))
        await asyncio.wait({final, arrived}, return_when=asyncio.FIRST_COMPLETED)
        if not final.done():
            break
        assert final.result().code in (491, 500)
        arrived.cancel()
    request = arrived.result()
    listener.respond(200, to=request, body=ANSWER_BYTES)
    answer = await final
    assert answer.code == 200
    speaker.ack(answer)
    await listener.receive("ACK")
    return request


def test_the_shipped_configuration_is_one_that_kamailio_takes(tmp_path: Path) -> None:
    kamailio = Kamailio(tmp_path, ["127.0.0.1:5080"])
    checked = subprocess.run([*kamailio.command, "-c"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "config file ok" in checked.stderr


async def test_a_line_goes_to_the_same_engine_in_every_notation(front: Front, setup: Setup) -> None:
    used: list[Engine] = []
    while len({id(engine) for engine in used}) < 2:
        assert len(used) < 40, "all lines go to one engine"
        phone = await setup.endpoint()
        line = setup.line(to=[phone.uri()])
        met = []
        for dialled in (line, f"0{line[3:]}", f"00{line[1:]}"):
            call = await call_from_outside(front, setup, dialled)
            await refuse(await phone.incoming(), 486)
            await call.receive(486)
            met.append(await front.engine_of(call))
        assert met[0] is met[1] is met[2]
        used.append(met[0])


async def test_a_changed_list_of_engines_is_taken_while_it_runs(front: Front, setup: Setup) -> None:
    used = []
    servers = [engine.peer for engine in front.engines]
    try:
        for engine in front.engines:
            await asyncio.to_thread(front.kamailio.use, [engine.peer])
            for _ in range(8):
                phone = await setup.endpoint()
                line = setup.line(to=[phone.uri()])
                used.append(await meets(front, setup, line, phone) is engine)
    finally:
        await asyncio.to_thread(front.kamailio.use, servers)
    assert all(used)


async def test_requests_within_a_call_go_through_it_both_ways(front: Front, setup: Setup) -> None:
    phone = await setup.endpoint()
    line = setup.line(to=[phone.uri()])
    call = await call_from_outside(front, setup, line)
    ring = await phone.incoming()
    await talk(call, ring)
    for speaker, listener in ((call, ring), (ring, call)):
        request = await reinvite(speaker, listener)
        assert request.every("Via")[0].startswith(f"SIP/2.0/UDP {front.kamailio.peer};")
    await part(ring, call)
    await setup.ended(call.call_id, outcome="answered")


async def test_a_phone_behind_nat_is_reached_where_it_registered_from(
    front: Front, setup: Setup
) -> None:
    """Its Contact is a private address: INVITE, CANCEL, ACK, re-INVITE and BYE reach it
    nevertheless."""
    phone = await setup.endpoint()
    path = f"<sip:{front.kamailio.peer};lr;received=sip:{HOST}:{phone.port}>"
    phone.host, phone.port = "192.0.2.99", 5060
    line = setup.line()
    setup.register(line, f'<{phone.uri()}>;path="{path}"')
    call = await call_from_outside(front, setup, line)
    ring = await phone.incoming()
    await call_off(call, ring)
    call = await call_from_outside(front, setup, line)
    ring = await phone.incoming()
    await talk(call, ring)
    await reinvite(call, ring)
    await part(call, ring)
    await setup.ended(call.call_id, outcome="answered")


async def test_a_forward_to_a_number_takes_the_next_gateway_when_the_first_is_dead(
    front: Front, setup: Setup, gateway: Endpoint
) -> None:
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = await call_from_outside(front, setup, line)
    away = await gateway.incoming(target, wait_s=8)
    assert away.first.has("Diversion")
    await talk(call, away)
    await part(call, away)
    await setup.ended(call.call_id, outcome="answered", condition="unconditional")


async def test_what_an_engine_sends_never_comes_back_to_an_engine(
    front: Front, setup: Setup
) -> None:
    """The engines' addresses were written into the registrations: each engine only knows its
    own."""
    line = setup.line(to=[f"sip:x@{engine.peer}" for engine in front.engines])
    call = await call_from_outside(front, setup, line)
    answer = await call.final()
    assert answer.code in (480, 482)
    record = await setup.record(call.call_id)
    assert [leg["code"] for leg in record["legs"]] == [482]
    assert "refused: it would go round" in front.kamailio.log


async def test_who_is_neither_listed_nor_registered_may_not_call(
    front: Front, setup: Setup
) -> None:
    phone = await setup.endpoint()
    line = setup.line(to=[phone.uri()])
    stranger = await setup.endpoint()
    call = stranger.start(front.kamailio.address, line, body=OFFER_BYTES)
    await call.receive(403)
    assert not phone.heard


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "OPTIONS", "BYE", "REFER", "ACK"])
@pytest.mark.parametrize("routes", ["front", "front twice", "front and victim"])
async def test_nothing_is_relayed_that_belongs_to_no_call(
    front: Front, setup: Setup, method: str, routes: str
) -> None:
    """A To tag and a Route are not enough for a dialog: Kamailio is not an open relay."""
    victim, stranger = await setup.endpoint(), await setup.endpoint()
    own = f"<{front.kamailio.uri}>"
    listed = {"front": own, "front twice": f"{own}, {own}"}
    attack = stranger.start(
        front.kamailio.address,
        "x",
        method=method,
        to=f"<{victim.uri()}>;tag=1",
        uri=victim.uri(),
        headers=[("Route", listed.get(routes, f"{own}, <{victim.uri()};lr>"))],
    )
    if method != "ACK":
        assert (await attack.final(method)).code == 403
    # A relayed request would have arrived before the answer to this one.
    server = f"sip:{front.kamailio.peer}"
    probe = stranger.start(front.kamailio.address, "x", method="OPTIONS", uri=server)
    await probe.receive(200, "OPTIONS")
    assert not victim.heard


async def test_a_phone_calls_as_the_line_that_it_registered_as(front: Front, setup: Setup) -> None:
    """With any From: the engine counts and shows the real line."""
    line, other = setup.line(credentials=CREDENTIALS), numbers.line_number()
    mine = Baresip(setup.running_engine.directory, line, front.kamailio.peer, password=PASSWORD)
    setup._stack.push_async_callback(mine.stop)
    await mine.start()
    phone = await setup.endpoint()
    called = setup.line(to=[phone.uri()])
    await mine.dial(called)
    ring = await phone.incoming()
    assert line in ring.first.one("P-Asserted-Identity")
    assert other not in ring.first.one("P-Asserted-Identity")
    await refuse(ring, 486)
    await mine.closed()
    assert [r["caller"] for r in await setup.records_of(called)] == [line]


async def test_a_phone_cannot_set_fields_of_the_network(front: Front, setup: Setup) -> None:
    """In its INVITE, in its later requests and in its answers."""
    claims = [
        ("P-Asserted-Identity", "<sip:+33899000001@h>"), ("REMOTE-PARTY-ID", "<sip:+33899@h>"),
        ("P-Charge-Info", "<sip:+33899000001@h>"), ("Diversion", "<sip:+33899000001@h>"),
        ("identity", "eyJ"), ("y", "eyJ"), ("P-Charging-Vector", "icid-value=1"), ("X-A", "1"),
    ]  # fmt: skip

    def believed(message: Message) -> list[str]:
        assert message.one("X-A") == "1"
        return [name for name, _ in claims[:-1] for v in message.every(name) if line not in v]

    line = setup.line(credentials=CREDENTIALS)
    mine = Phone(setup, await setup.endpoint(), line)
    mine.registrar = front.kamailio.address
    assert (await mine.register(mine.contact())).code == 200
    phone = await setup.endpoint()
    called = setup.line(to=[phone.uri()])
    call = mine.endpoint.start(
        front.kamailio.address, called, caller=line, headers=claims, body=OFFER_BYTES
    )
    ring = await phone.incoming()
    assert line in ring.first.one("P-Asserted-Identity")
    assert believed(ring.first) == []
    ring.respond(180, headers=claims)
    assert believed(await call.receive(180)) == []
    await talk(call, ring)
    for speaker, listener in ((call, ring), (ring, call)):
        speaker.request("INFO", headers=claims)
        asked = await listener.receive("INFO")
        assert believed(asked) == []
        listener.respond(200, to=asked, headers=claims)
        assert believed(await speaker.receive(200, "INFO")) == []
    await part(call, ring)


# -- engines that stop ---------------------------------------------------------------------------


@pytest.fixture
def mortal(
    shared_redis: RedisServer, tmp_path: Path, running_engine: RunningEngine
) -> Iterator[Front]:
    """A Kamailio and engines, one of which will be stopped."""
    front = open_front(shared_redis, tmp_path, [GATEWAY, HOST])
    with front.stack as stack:
        for engine in front.engines:
            engine.start()
            stack.callback(engine.stop)
        front.kamailio.start()
        stack.callback(front.kamailio.stop)
        yield front


async def line_of(front: Front, setup: Setup, engine: Engine) -> tuple[str, Endpoint]:
    """A line that Kamailio assigns to this engine, and its phone."""
    for _ in range(40):
        phone = await setup.endpoint()
        line = setup.line(to=[phone.uri()])
        if await meets(front, setup, line, phone) is engine:
            return line, phone
    raise AssertionError("all lines go to the other engine")


async def meets(front: Front, setup: Setup, line: str, phone: Endpoint) -> Engine:
    """The engine that gets a call to this line."""
    call = await call_from_outside(front, setup, line)
    await refuse(await phone.incoming(wait_s=8), 486)
    await call.receive(486)
    return await front.engine_of(call)


async def test_an_engine_that_is_gone_is_passed_over_and_found_again(
    mortal: Front, setup: Setup
) -> None:
    first, second = mortal.engines
    line, phone = await line_of(mortal, setup, first)
    first.signal(signal.SIGKILL)
    assert await meets(mortal, setup, line, phone) is second
    await first.exited(5)
    first.start()
    deadline = time.monotonic() + within(10)
    while await meets(mortal, setup, line, phone) is not first:
        assert time.monotonic() < deadline, "the engine that is back gets no calls"
        await asyncio.sleep(0.1)


async def test_an_engine_that_drains_keeps_its_calls_and_gets_no_new_ones(
    mortal: Front, setup: Setup
) -> None:
    first, second = mortal.engines
    line, phone = await line_of(mortal, setup, first)
    standing = await call_from_outside(mortal, setup, line)
    ring = await phone.incoming()
    await talk(standing, ring)
    first.signal(signal.SIGTERM)
    await until(lambda: first.get("/readyz")[0] == 503, "it drains")
    for _ in range(3):
        assert await meets(mortal, setup, line, phone) is second
    await part(standing, ring)
    assert await first.exited(10) == 0


async def test_no_call_is_lost_while_the_engines_are_renewed_one_after_the_other(
    mortal: Front, setup: Setup
) -> None:
    """As in an upgrade: drain, wait for the end, start, wait until Kamailio knows that it is up;
    then the next one."""
    calls = 60
    line, _ = await line_of(mortal, setup, mortal.engines[0])
    # More than there are: Kamailio tries the other engine when one is slow to answer.
    phone = await setup.sipp(answering_phone(), calls=3 * calls)
    setup.redis.delete(f"reg:{line}")
    setup.register(line, f"sip:phone@{HOST}:{phone.port}")
    await setup.settle()
    script = answered_call(line, numbers.caller_number(), talk_s=0.5)
    caller = Sipp(setup.running_engine.directory, script, mortal.kamailio.peer)
    setup._stack.push_async_callback(caller.stop)
    await caller.start(calls=calls, limit_s=60)
    for engine in mortal.engines:
        await asyncio.sleep(0.5)
        engine.signal(signal.SIGTERM)
        assert await engine.exited(20) == 0
        await asyncio.to_thread(engine.start)
        await until(partial(mortal.kamailio.takes, engine.peer), "it is up again")
    await caller.finish()

    def took() -> list[int]:
        return [
            sum(event.get("outcome") == "answered" for event in engine.events())
            for engine in mortal.engines
        ]

    await until(lambda: sum(took()) >= calls, "logs are written shortly afterwards")
    assert all(took())
