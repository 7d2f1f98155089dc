"""The address in the engine's messages: its own, or that of `sip.advertise`."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.message import Message
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup, to_number
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

OUTSIDE = "127.0.0.9"  # the address of a simulated NAT in front of the engine
LONG_NAME = ".".join(["a" * 62] * 4)


@asynccontextmanager
async def engine_on(
    server: RedisServer, directory: Path, listen: Sequence[str], advertise: str | None
) -> AsyncIterator[Setup]:
    """An engine that listens on `listen` and advertises that address."""
    sip = {"listen": list(listen), "advertise": advertise}
    peers = ["127.0.0.0/8", "::1/128"]
    engine = Engine(directory, server.url, {"sip": {**sip, "trusted_peers": peers}})
    engine.start()
    running_engine = RunningEngine(engine, server.client, directory)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup
    finally:
        assert engine.stop() == 0, engine.log


def shown(message: Message) -> tuple[str, str]:
    """The engine's address in one of its messages: sent-by of its Via, host and port of its
    Contact.

    The Via of a response is the caller's own.
    """
    via = "" if message.code else message.one("Via").split()[1].partition(";")[0]
    return via, message.one("Contact").partition("@")[2].rstrip(">")


async def check_everything(setup: Setup, call: Call, phone: Endpoint, name: str) -> None:
    """A forwarded call shows `name` (host and port) in every field with the engine's address."""
    host = name.rpartition(":")[0]
    suffix = ";transport=tcp" if isinstance(phone, StreamEndpoint) else ""
    back = ";transport=tcp" if isinstance(call.endpoint, StreamEndpoint) else ""
    ring = await phone.incoming()
    assert shown(ring.first) == (name, name + suffix)
    assert f"@{host}>" in ring.first.one("Diversion")
    assert f"@{host}" in ring.first.values("History-Info")[0]
    assert shown(await call.receive(181)) == ("", name + back)
    assert shown(await connect(call, ring)) == ("", name + back)
    for asker, asked in ((call, ring), (ring, call)):
        asker.request("UPDATE", body=OFFER_BYTES)
        request = await asked.receive("UPDATE")
        assert request.one("Via").split()[1].startswith(f"{name};rport")
        asked.respond(200, to=request)
        await asker.receive(200, "UPDATE")
    await part(call, ring)
    assert ring.requests("BYE")[0].one("Via").split()[1].startswith(f"{name};rport")
    await setup.ended(call.call_id, outcome="answered")


async def forwarded_line(setup: Setup, phone: Endpoint) -> str:
    """A line that is forwarded to another one, which has this phone."""
    target = setup.line(to=[phone.uri()])
    return setup.line(forwards={"unconditional": to_number(target)})


@pytest.mark.parametrize("advertise", [OUTSIDE, "engine.example", LONG_NAME])
async def test_the_advertised_name_is_shown_everywhere_over_udp(
    shared_redis: RedisServer, tmp_path: Path, advertise: str
) -> None:
    port = free_port()
    async with engine_on(shared_redis, tmp_path, [f"udp:127.0.0.1:{port}"], advertise) as setup:
        phone = await setup.endpoint()
        call = await setup.call(await forwarded_line(setup, phone))
        await check_everything(setup, call, phone, f"{advertise}:{port}")


async def test_the_advertised_name_is_shown_everywhere_over_tcp(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    udp, tcp = free_port(), free_port(socket.SOCK_STREAM)
    listen = [f"udp:127.0.0.1:{udp}", f"tcp:127.0.0.1:{tcp}"]
    async with engine_on(shared_redis, tmp_path, listen, OUTSIDE) as setup:
        ends = [await StreamEndpoint.listen() for _ in range(2)]
        for end in ends:
            setup._stack.push_async_callback(end.finish)
        line = await forwarded_line(setup, ends[1])
        call = ends[0].start(("127.0.0.1", tcp), line, body=OFFER_BYTES)
        await check_everything(setup, call, ends[1], f"{OUTSIDE}:{tcp}")


async def test_requests_to_the_advertised_contact_reach_the_call(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    """The engine listens on every address, as behind a NAT that maps the port."""
    port = free_port()
    async with engine_on(shared_redis, tmp_path, [f"udp:0.0.0.0:{port}"], OUTSIDE) as setup:
        line, phone = await setup.line_with_phone()
        caller = await setup.endpoint()
        call = caller.start(("127.0.0.1", port), line, body=OFFER_BYTES)
        ring = await phone.incoming()
        await connect(call, ring)
        for side, other in ((call, ring), (ring, call)):
            assert side.target == f"sip:renvoi@{OUTSIDE}:{port}"
            side.peer = OUTSIDE, port
            side.request("INFO", body=b"x", content_type="text/plain")
            request = await other.receive("INFO")
            other.respond(200, to=request)
            await side.receive(200, "INFO")
        ring.peer = OUTSIDE, port
        await part(ring, call)
        await setup.ended(call.call_id, outcome="answered")


@pytest.mark.parametrize("anywhere", ["0.0.0.0", "[::]"])
async def test_listening_everywhere_shows_an_address_that_can_be_reached(
    shared_redis: RedisServer, tmp_path: Path, anywhere: str
) -> None:
    port = free_port()
    own = "::1" if anywhere == "[::]" else "127.0.0.1"
    async with engine_on(shared_redis, tmp_path, [f"udp:{anywhere}:{port}"], None) as setup:
        caller, phone = await setup.endpoint(own), await setup.endpoint(own)
        line = setup.line(to=[phone.uri()])
        call = caller.start((own, port), line, body=OFFER_BYTES)
        ring = await phone.incoming()
        via, contact = shown(ring.first)
        assert via == contact
        host = contact.rpartition(":")[0].strip("[]")
        assert host not in ("0.0.0.0", "::")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))  # an address of this machine and of the right family
        assert (":" in host) == (anywhere == "[::]")
        assert shown(await connect(call, ring)) == ("", contact)
        await part(call, ring)


async def test_an_address_is_advertised_for_its_own_family_only(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    four, six = free_port(), free_port()
    listen = [f"udp:127.0.0.1:{four}", f"udp:[::1]:{six}"]
    for advertise, wanted in (
        (OUTSIDE, (f"{OUTSIDE}:{four}", f"[::1]:{six}")),
        ("2001:db8::5", (f"127.0.0.1:{four}", f"[2001:db8::5]:{six}")),
        ("engine.example", (f"engine.example:{four}", f"engine.example:{six}")),
    ):
        async with engine_on(shared_redis, tmp_path, listen, advertise) as setup:
            caller, phone = await setup.endpoint("127.0.0.1"), await setup.endpoint("::1")
            call = caller.start(("127.0.0.1", four), setup.line(to=[phone.uri()]))
            ring = await phone.incoming()
            assert shown(ring.first) == (wanted[1], wanted[1])
            assert shown(await connect(call, ring)) == ("", wanted[0])
            await part(call, ring)


async def test_the_bracketed_address_is_shown_in_diversions_too(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    port = free_port()
    async with engine_on(shared_redis, tmp_path, [f"udp:[::1]:{port}"], "[2001:db8::5]") as setup:
        caller, phone = await setup.endpoint("::1"), await setup.endpoint("::1")
        line = await forwarded_line(setup, phone)
        call = caller.start(("::1", port), line, body=OFFER_BYTES)
        await check_everything(setup, call, phone, f"[2001:db8::5]:{port}")


async def test_each_listening_address_is_the_contact_of_the_calls_it_took(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    """Two networks: a caller of one address does not see the other."""
    ports = free_port(), free_port()
    listen = [f"udp:127.0.0.1:{ports[0]}", f"udp:127.0.0.9:{ports[1]}"]
    async with engine_on(shared_redis, tmp_path, listen, None) as setup:
        line, phone = await setup.line_with_phone()
        for host, port in (("127.0.0.9", ports[1]), ("127.0.0.1", ports[0])):
            caller = await setup.endpoint()
            call = caller.start((host, port), line, caller=numbers.caller_number())
            ring = await phone.incoming()
            assert shown(await connect(call, ring)) == ("", f"{host}:{port}")
            await part(call, ring)
