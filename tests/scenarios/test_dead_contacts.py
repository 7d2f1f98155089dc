"""Contacts that lead to a destination or to the engine: such a call would be placed unpaid."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.nameserver import NameServer, naptr, srv
from tests.scenarios.processes import Engine
from tests.scenarios.sipp import free_port
from tests.scenarios.stage import KINDS, Stage, to_voicemail

DNS, UDP, GATEWAY, OTHER = free_port(), free_port(), free_port(), free_port()
OWN_NAME = "engine.test"
SETTINGS = {
    "sip": {
        "listen": [f"udp:127.0.0.1:{UDP}"],
        "advertise": OWN_NAME,
        "nameservers": [f"127.0.0.1:{DNS}"],
        "trusted_peers": ["127.0.0.1/32"],
    },
    # Looked up by SRV: it is at GATEWAY on 127.0.0.1, whatever its name says.
    "destinations": {"number": "sip:{number}@carrier.test"},
    "timers": {"pre_ringing_s": 4, "next_server_s": 0.5},
}


def carrier(port: int = GATEWAY) -> tuple[str, ...]:
    return (
        srv("_sip._udp.carrier.test", "sbc.carrier.test", port),
        f"host-record={OWN_NAME},127.0.0.1",
    )


@pytest.fixture
async def names(stage: Stage) -> AsyncIterator[NameServer]:
    server = NameServer(stage.theatre.directory, DNS)
    yield server
    server.stop()


@pytest.fixture
async def gateway(stage: Stage) -> Endpoint:
    """The server of `destinations.number`."""
    endpoint = await Endpoint.open(port=GATEWAY)
    stage._stack.callback(endpoint.close)
    return endpoint


def refused(engine: Engine) -> float:
    return engine.metric("renvoi_documents_refused_total", kind="reg")


async def until_known(stage: Stage, gateway: Endpoint) -> None:
    """Wait until the engine has looked its destinations up."""
    deadline = time.monotonic() + within(20)
    while True:
        before = len(gateway.invited())
        call = await stage.call(stage.line(to=[gateway.uri()]))
        await call.final()
        if len(gateway.invited()) == before:
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)


async def is_dead(stage: Stage, member: str) -> bool:
    """Whether a call to a line with this contact alone is one to an unreachable line."""
    number = numbers.line_number()
    forwards = {"unreachable": to_voicemail(number)}
    line = stage.line(number=number, forwards=forwards, to=[member])
    call = await stage.call(line)
    try:
        ring = await stage.server("voicemail").incoming(line, wait_s=8)
    except AssertionError:
        return False
    await connect(call, ring)
    await part(call, ring)
    return True


async def test_a_name_that_leads_to_a_destination_is_never_rung(
    stage: Stage, names: NameServer, gateway: Endpoint
) -> None:
    ports, user = stage.engine.ports, "+33899123456"
    await names.start(
        *carrier(),
        "host-record=evil.test,127.0.0.1",
        srv("_sip._udp.by-srv.test", "a.by-srv.test", GATEWAY),
        srv("_sip._udp.second.test", "b.second.test", OTHER, 10),
        srv("_sip._udp.second.test", "c.second.test", ports["voicemail"], 20),
        naptr("by-naptr.test", 10, "SIP+D2U", "_sip._udp.by-srv.test"),
        "host-record=phone.test,192.0.2.77",
    )
    await until_known(stage, gateway)
    edge = await stage.endpoint()
    members = [
        f"sip:{user}@evil.test:{GATEWAY}",
        f"sip:{user}@EVIL.Test.:{GATEWAY}",
        f"sip:{user}@by-srv.test",
        f"sip:{user}@by-naptr.test",
        f"sip:{user}@second.test",  # its second server is the voicemail
        f"sip:{user}@phone.test:{GATEWAY};maddr=evil.test",
        f"sip:{user}@evil.test:{GATEWAY};maddr=192.0.2.77",
        f"sip:{user}@carrier.test",
        f"sip:{user}@127.1:{GATEWAY}",
        f"sip:{user}@2130706433:{GATEWAY}",
        f"sip:{user}@0x7f.1:{GATEWAY}",
        f"sip:{user}@[::ffff:127.0.0.1]:{GATEWAY}",
        f"sip:{user}@127.0.0.1:{GATEWAY}",
        *(f"sip:{user}@evil.test:{ports[kind]}" for kind in KINDS if kind != "number"),
        f"sip:{user}@evil.test:{UDP}",
        f"sip:{user}@{OWN_NAME}:{UDP}",
        # by the Path, or by the contact that a plain Path leads to
        f'<sip:{user}@192.0.2.1>;path="<sip:evil.test:{GATEWAY};lr>"',
        f'<sip:{user}@192.0.2.1>;path="<sip:evil.test:{UDP};lr;ob>"',
        f'<sip:{user}@evil.test:{GATEWAY}>;path="<{edge.uri()};lr>"',
        f'<sip:{user}@by-srv.test>;path="<{edge.uri()};lr>"',
        f'<sip:a@192.0.2.1>;path="<{edge.uri()};lr>,<sip:evil.test:{GATEWAY};lr;ob>"',
    ]  # fmt: skip
    asked, before = len(gateway.heard), refused(stage.engine)
    found = await asyncio.gather(*(is_dead(stage, member) for member in members))
    assert [member for member, dead in zip(members, found, strict=True) if not dead] == []
    assert len(gateway.heard) == asked
    assert not edge.invited()
    assert refused(stage.engine) - before == len(members)
    deadline = time.monotonic() + within(10)
    while not any("@by-naptr.test" in event.get("error", "") for event in stage.engine.events()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_a_contact_beside_a_dead_one_rings(
    stage: Stage, names: NameServer, gateway: Endpoint
) -> None:
    await names.start(*carrier(), "host-record=evil.test,127.0.0.1")
    await until_known(stage, gateway)
    phone = await stage.endpoint()
    call = await stage.call(stage.line(to=[f"sip:a@evil.test:{GATEWAY}", phone.uri()]))
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_phones_and_edges_that_are_named_ring(
    stage: Stage, names: NameServer, gateway: Endpoint
) -> None:
    """Another port of a destination's host is another service; a gateway may be the edge too."""
    phone, edge = await stage.endpoint(), await stage.endpoint()
    await names.start(
        *carrier(),
        "host-record=pabx.test,127.0.0.1",
        srv("_sip._udp.office.test", "d.office.test", phone.port),
        srv("_sip._udp.edge.test", "e.edge.test", edge.port),
    )
    await until_known(stage, gateway)
    contact = "sip:a@192.0.2.1"
    for member, rung in (
        (f"sip:a@pabx.test:{phone.port}", phone),
        ("sip:a@office.test", phone),
        (f'<{contact}>;path="<sip:edge.test;lr>"', edge),
        (f'<sip:a@nowhere.test>;path="<{edge.uri()};lr>"', edge),
        (f'<sip:a@127.0.0.1:{GATEWAY}>;path="<{edge.uri()};lr;ob>"', edge),
        (f'<{contact}>;path="<{gateway.uri()};lr>"', gateway),
        (f'<{contact}>;path="<sip:carrier.test;lr>"', gateway),
    ):
        call = await stage.call(stage.line(to=[member]))
        ring = await rung.incoming()
        await connect(call, ring)
        await part(call, ring)


async def test_a_name_is_looked_up_again_for_a_later_call(
    stage: Stage, names: NameServer, gateway: Endpoint
) -> None:
    phone = await stage.endpoint()
    await names.start(
        *carrier(), srv("_sip._udp.moves.test", "f.moves.test", phone.port), ttl_s=1
    )
    await until_known(stage, gateway)
    line = stage.line(to=["sip:a@moves.test"])
    call = await stage.call(line)
    await connect(call, ring := await phone.incoming())
    await part(call, ring)
    await names.start(*carrier(), srv("_sip._udp.moves.test", "f.moves.test", GATEWAY), ttl_s=1)
    deadline = time.monotonic() + within(20)
    while True:
        rung = len(phone.invited())
        call = await stage.call(line)
        await asyncio.wait(
            {asyncio.ensure_future(call.final()), asyncio.ensure_future(phone.incoming())},
            return_when=asyncio.FIRST_COMPLETED,
        )
        if len(phone.invited()) == rung:
            break
        assert time.monotonic() < deadline
        phone.calls[-1].respond(480)
    assert call.codes()[-1] == 480
    assert not gateway.invited("a")


async def test_destinations_that_change_live_are_compared_with_at_once(
    stage: Stage, names: NameServer
) -> None:
    phone = await stage.endpoint()
    await names.start(*carrier(), "host-record=moved.test,127.0.0.1")
    line = stage.line(to=[phone.uri()])

    async def reload(number: str) -> None:
        done = sum(event["event"] == "reload.done" for event in stage.engine.events())
        config = json.loads(stage.engine._config.read_text("utf-8"))
        config["destinations"]["number"] = number
        stage.engine._config.write_text(json.dumps(config), "utf-8")
        stage.engine.signal(signal.SIGHUP)
        deadline = time.monotonic() + within(10)
        while sum(event["event"] == "reload.done" for event in stage.engine.events()) == done:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    try:
        await reload(f"sip:{{number}}@127.0.0.1:{phone.port}")
        call = await stage.call(line)
        await call.receive(480)
        assert not phone.invited()
    finally:
        await reload("sip:{number}@carrier.test")
    call = await stage.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
