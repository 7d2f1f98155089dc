"""How the next process reaches the calls of a dead worker: connections, addresses, proxies; and
which calls are not continued."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from engine.call_entry import ActiveCall, decode, encode
from engine.processes.journal import _HEADER, SLOT_BYTES, directory_of
from tests.patience import Stalls
from tests.scenarios import numbers
from tests.scenarios.certificates import (
    CA,
    OWN,
    OWN_KEY,
    PHONE,
    PHONE_KEY,
    client_context,
    server_context,
)
from tests.scenarios.continued import (
    back,
    die,
    ended,
    is_up,
    killed,
    noted,
    one_engine,
    rang,
    stand,
    talk,
    until,
)
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import RedisServer
from tests.scenarios.proxy import FAR, FURTHER, check_route, proxy_of
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup, to_number
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

pytestmark = pytest.mark.usefixtures("certificates")
UDP, UDP6 = free_port(), free_port()
TCP, TLS = (free_port(socket.SOCK_STREAM) for _ in range(2))
PORTS = {"udp": UDP, "tcp": TCP, "tls": TLS, "udp6": UDP6}
HOURS = {"mobile": "hours", "mobile_hours": 1}
SETTINGS = {
    "sip": {
        "listen": [
            f"udp:127.0.0.1:{UDP}",
            f"tcp:127.0.0.1:{TCP}",
            f"tls:127.0.0.1:{TLS}",
            f"udp:[::1]:{UDP6}",
        ],
        "trusted_peers": ["127.0.0.1/32", "::1/128"],
        "tls_certificate": str(OWN),
        "tls_key": str(OWN_KEY),
        "tls_ca": str(CA),
    },
}


async def opened(setup: Setup, transport: str) -> Endpoint:
    """An endpoint of that transport."""
    if transport.startswith("udp"):
        return await setup.endpoint("::1" if transport == "udp6" else "127.0.0.1")
    tls = transport == "tls"
    endpoint = await StreamEndpoint.listen(
        server_tls=server_context(PHONE, PHONE_KEY) if tls else None,
        client_tls=client_context() if tls else None,
    )
    setup._stack.push_async_callback(endpoint.finish)
    return endpoint


def start(endpoint: Endpoint, transport: str, called: str, **more: Any) -> Call:
    host = "::1" if transport == "udp6" else "127.0.0.1"
    return endpoint.start((host, PORTS[transport]), called, body=OFFER_BYTES, **more)


async def dropped(side: Call) -> None:
    """Wait until the endpoint's connections are closed; it opens the next one itself."""
    endpoint = side.endpoint
    if isinstance(endpoint, StreamEndpoint):
        await until(lambda: not endpoint.streams, "the connections are gone")
        side.peer = ("127.0.0.1", PORTS[endpoint.transport])


PAIRS = [("tcp", "tcp"), ("tls", "tls"), ("tcp", "udp"), ("udp", "tls"), ("udp6", "udp6")]


@pytest.mark.parametrize("who", ["caller", "callee"])
@pytest.mark.parametrize(("here", "there"), PAIRS)
async def test_a_call_goes_on_over_new_connections(
    setup: Setup, here: str, there: str, who: str
) -> None:
    """If either side sends first, the engine opens a connection to the Contact of its peer."""
    caller, phone = await opened(setup, here), await opened(setup, there)
    line = setup.line(to=[phone.uri()])
    call = start(caller, here, line)
    ring = await phone.incoming()
    await connect(call, ring)
    await noted(setup, call, is_up)
    die(setup)
    await setup.engine.exited(5)
    for side in (call, ring):
        await dropped(side)
    assert (await back(setup))["continued"] == 1
    one, other = (call, ring) if who == "caller" else (ring, call)
    for asks, answers in ((one, other), (other, one)):
        asks.request("INFO", body=b"x", content_type="text/plain")
        answers.respond(200, to=await answers.receive("INFO"))
        await asks.receive(200, "INFO")
    await part(one, other)
    await ended(setup, call)


@pytest.mark.parametrize("transport", ["tcp", "tls", "udp6"])
async def test_a_ringing_call_goes_on_over_new_connections(setup: Setup, transport: str) -> None:
    """Each final response goes to the address in the Via of its INVITE (RFC 3261 18.2.2)."""
    call, ring = await ringing(setup, transport)
    die(setup)
    await setup.engine.exited(5)
    for side in (call, ring):
        await dropped(side)
    assert (await back(setup))["continued"] == 1
    ring.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    await part(ring, call)
    await ended(setup, call)


@pytest.mark.parametrize("transport", ["tcp", "tls", "udp6"])
async def test_a_ringing_call_ends_over_new_connections(setup: Setup, transport: str) -> None:
    """At the second death: CANCEL to the phone, 503 to the caller."""
    call, ring = await ringing(setup, transport)
    await killed(setup)
    await killed(setup, continued=0, ended=1)
    await ring.receive("CANCEL")
    assert (await call.final()).code == 503
    await ended(setup, call, takeovers=2, outcome="failed", why="worker_died")


async def ringing(setup: Setup, transport: str) -> tuple[Call, Call]:
    """A call that rings, over that transport on both sides."""
    caller, phone = await opened(setup, transport), await opened(setup, transport)
    call = start(caller, transport, setup.line(to=[phone.uri()]))
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    await rang(setup, call)
    return call, ring


async def test_a_caller_that_never_got_its_answer_gets_it_over_a_new_connection(
    setup: Setup,
) -> None:
    caller, phone = await opened(setup, "tcp"), await opened(setup, "udp")
    line = setup.line(to=[phone.uri()])
    call = start(caller, "tcp", line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    first = await call.receive(200)
    await killed(setup)
    assert (await call.copies(2, 200))[-1].body == first.body
    call.ack(first)
    await ring.receive("ACK")
    await talk(call, ring)
    await part(ring, call)
    await ended(setup, call)


async def test_proxies_on_both_sides_stay_on_the_way(setup: Setup) -> None:
    caller, phone = await setup.endpoint(), await setup.endpoint()
    edge, route = await proxy_of(setup, caller)
    far_edge, far_route = await proxy_of(setup, phone)
    line = setup.line(to=[phone.uri()])
    call = start(caller, "udp", line, headers=[("Record-Route", f"{route}, {FAR}")])
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES, headers=[("Record-Route", f"{FURTHER}, {far_route}")])
    call.ack(await call.receive(200))
    await until(lambda: ring.requests("ACK"), "the ACK")
    await noted(setup, call, is_up)
    await killed(setup)

    async def crossing(one: Call, other: Call, edge: Endpoint, routes: list[str], to: str) -> None:
        one.request("INFO", body=b"x", content_type="text/plain")
        request = await other.receive("INFO")
        check_route(request, routes, to)
        assert request in edge.heard
        other.respond(200, to=request)
        await one.receive(200, "INFO")

    await crossing(call, ring, far_edge, [far_route, FURTHER], phone.uri())
    own = call.first.one("Contact").strip("<>")
    await crossing(ring, call, edge, [route, FAR], own)
    await part(call, ring)
    check_route(ring.requests("BYE")[0], [far_route, FURTHER], phone.uri())
    await ended(setup, call)


async def test_strangers_and_moved_callers_over_a_new_connection(setup: Setup) -> None:
    """A request inside the call over a connection from another port of the same host is
    accepted."""
    caller, phone = await opened(setup, "tcp"), await opened(setup, "udp")
    assert isinstance(caller, StreamEndpoint)
    line = setup.line(to=[phone.uri()])
    call = start(caller, "tcp", line)
    ring = await phone.incoming()
    await connect(call, ring)
    await noted(setup, call, is_up)
    await killed(setup)
    await dropped(call)
    before = caller.made
    call.request("INFO", body=b"x", content_type="text/plain")
    ring.respond(200, to=await ring.receive("INFO"))
    await call.receive(200, "INFO")
    assert caller.made == before  # on the connection that it opened
    await part(call, ring)
    await ended(setup, call)


# -- an engine of its own --------------------------------------------------------------------------


async def test_the_longest_call_is_counted_from_its_answer(
    shared_redis: RedisServer, tmp_path: Path, stalls: Stalls
) -> None:
    async with one_engine(shared_redis, tmp_path, {"timers": {"max_call_s": 12}}) as setup:
        since = time.monotonic()
        _, call, ring = await stand(setup)
        await asyncio.sleep(3.0)
        await killed(setup)
        up = time.monotonic()
        stalls.watch(setup.engine.pid)
        await call.receive("BYE", wait_s=14)
        await ring.receive("BYE")
        assert time.monotonic() - since > 11.9
        record = await ended(setup, call, why="max_call")
        # twelve seconds from the takeover would be longer
        assert int(record["seconds"]) <= max(12.0, up - since) + 1 + stalls.total_s


async def test_an_outbound_proxy_gets_what_is_sent_after_the_death(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    port = free_port()
    hop = f"<sip:127.0.0.1:{port};lr>"
    proxy = await Endpoint.open(port=port)
    try:
        sip = {"outbound_proxy": hop.strip("<>")}
        async with one_engine(shared_redis, tmp_path, {"sip": sip}) as setup:
            line, phone = await setup.line_with_phone()
            first, second = await setup.call(line), await setup.call(line)
            ring, other = await proxy.incoming(), await proxy.incoming()
            assert (ring.call_id, other.call_id) != (first.call_id, second.call_id)
            ring.respond(200, body=ANSWER_BYTES, headers=[("Record-Route", hop)])
            other.respond(180)
            answered, waiting = (first, second)
            if not await _answers(first):
                answered, waiting = second, first
            answered.ack(await answered.receive(200))
            await ring.receive("ACK")
            await noted(setup, answered, is_up)
            await rang(setup, waiting)
            await killed(setup, continued=2)
            waiting.cancel()
            check_route(await other.receive("CANCEL"), [hop], phone.uri())
            assert (await waiting.final()).code == 487
            await part(answered, ring)
            check_route(ring.requests("BYE")[0], [hop], _contact_of(ring))
            await ended(setup, answered)
    finally:
        proxy.close()


async def _answers(call: Call) -> bool:
    """Whether this is the answered call, not the ringing one."""
    code = await until(lambda: [m.code for m in call.received if m.code > 100], call)
    return bool(200 in code)


def _contact_of(side: Call) -> str:
    answers = [m for m in side.sent if m.code == 200 and m.method == "INVITE"]
    return answers[0].one("Contact").strip("<>")


@pytest.fixture
async def lone(shared_redis: RedisServer, tmp_path: Path) -> AsyncIterator[Setup]:
    async with one_engine(shared_redis, tmp_path) as setup:
        yield setup


def change(setup: Setup, section: str, **keys: Any) -> None:
    """Change the configuration of the next process."""
    path = setup.engine.config
    config = json.loads(path.read_text("utf-8"))
    config[section].update(keys)
    path.write_text(json.dumps(config), "utf-8")


def gone(*sides: Call) -> None:
    """Mark these sides as over: the engine sends them nothing more."""
    for side in sides:
        side.state = "ended"


@pytest.mark.parametrize("why", ["never", "late", "elsewhere"])
async def test_calls_that_are_not_continued_are_recorded_as_failed(lone: Setup, why: str) -> None:
    """Paid for until the last heartbeat; their leases are released."""
    mobile = numbers.mobile_number()
    forwarding = lone.line(forwards={"unconditional": to_number(mobile)}, offer=HOURS)
    forward = await lone.call(forwarding)
    away = await lone.server("number").incoming(mobile)
    await connect(forward, away)
    await noted(lone, forward, is_up)
    line, call, ring = await stand(lone, max_calls=1)
    await until(lambda: lone.redis.exists(f"live:{line}"), "the lease")
    die(lone)
    await lone.engine.exited(5)
    if why == "never":
        change(lone, "timers", takeover_s=0)
    elif why == "late":
        change(lone, "timers", takeover_s=1)
        await asyncio.sleep(1.6)
    else:
        lone.engine.address = (lone.engine.address[0], free_port())
        change(lone, "sip", listen=[f"udp:127.0.0.1:{lone.engine.address[1]}"])
    taken = await back(lone)
    assert taken.get("continued", 0) == taken.get("ended", 0) == 0
    failed = {"outcome": "failed", "why": "worker_died", "takeovers": 0}
    await lone.ended(call.call_id, **failed)
    record = await lone.ended(forward.call_id, payer=forwarding, billing="deducted", **failed)
    assert record["forwards"][0]["seconds"] == int(record["seconds"])
    await until(lambda: not lone.redis.exists(f"live:{line}"), "the lease is released")
    await until(lambda: not lone.redis.exists(f"forwards:{forwarding}"), "and the forward")
    assert lone.engine.calls() == []
    assert lone.engine.metric("renvoi_calls_taken_over_total") == 0
    gone(call, ring, forward, away)


async def test_an_entry_that_is_not_whole_is_left_out(lone: Setup) -> None:
    """As if the process had died during a write: the checksum is wrong. The other calls
    continue."""
    _, call, ring = await stand(lone)
    _, other, other_ring = await stand(lone)
    die(lone)
    await lone.engine.exited(5)
    (path,) = directory_of(lone.running_engine.directory / "data").glob("*.journal")
    content = bytearray(path.read_bytes())
    name = call.call_id.encode()
    while (at := content.find(name)) >= 0:  # older entries exist too
        content[at] ^= 1
    path.write_bytes(content)
    assert (await back(lone))["continued"] == 1
    await talk(other, other_ring)
    await part(other, other_ring)
    await ended(lone, other)
    gone(call, ring)


async def test_a_call_that_cannot_be_made_again_is_lost_and_recorded(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    """Its entry is complete, but invalid; its lines are released, and the other calls continue."""
    async with one_engine(shared_redis, tmp_path, but=("call.error",)) as setup:
        line, call, ring = await stand(setup, max_calls=1)
        _, other, other_ring = await stand(setup)
        await until(lambda: setup.redis.exists(f"live:{line}"), "the lease")
        die(setup)
        await setup.engine.exited(5)
        spoil(setup, call)
        taken = await back(setup)
        assert (taken["continued"], taken["ended"], taken["lost"]) == (1, 0, 1)
        assert setup.engine.metric("renvoi_calls_taken_over_total", result="lost") == 1
        await setup.ended(call.call_id, outcome="failed", why="worker_died", takeovers=0)
        await until(lambda: not setup.redis.exists(f"live:{line}"), "the lease is released")
        await talk(other, other_ring)
        await part(other_ring, other)
        await ended(setup, other)
        gone(call, ring)


def spoil(setup: Setup, call: Call) -> None:
    """A state that no leg can have, in the entry of the callee."""
    (path,) = directory_of(setup.running_engine.directory / "data").glob("*.journal")
    content = bytearray(path.read_bytes())
    for at in range(SLOT_BYTES, len(content), SLOT_BYTES):
        size, following, version, _ = _HEADER.unpack_from(content, at)
        begin = at + _HEADER.size
        entry = decode(bytes(content[begin : begin + size])) if size and not following else None
        if isinstance(entry, ActiveCall) and entry.call_id == call.call_id:
            leg = entry.signalling[1]
            assert leg is not None
            leg.state = 99
            whole = encode(entry)
            assert len(whole) == size
            _HEADER.pack_into(content, at, size, 0, version, crc32(whole, version))
            content[begin : begin + size] = whole
    path.write_bytes(content)
