"""Contacts that lead to a destination or to the engine: such a call would not be billed."""

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
from tests.scenarios.expect import connect, part, refuse
from tests.scenarios.nameserver import NameServer, naptr, srv
from tests.scenarios.processes import Engine
from tests.scenarios.setup import KINDS, Setup, to_voicemail
from tests.scenarios.sipp import free_port

DNS, UDP, GATEWAY, OTHER = free_port(), free_port(), free_port(), free_port()
OWN_NAME = "engine.test"
SETTINGS = {
    "sip": {
        "listen": [f"udp:127.0.0.1:{UDP}"],
        "advertise": OWN_NAME,
        "nameservers": [f"127.0.0.1:{DNS}"],
        "trusted_peers": ["127.0.0.1/32"],
    },
    # Looked up by SRV: it is at GATEWAY on 127.0.0.1.
    "destinations": {"number": "sip:{number}@carrier.test"},
    "timers": {"pre_ringing_s": 15, "next_server_s": 3},
}


def carrier(port: int = GATEWAY) -> tuple[str, ...]:
    return (
        srv("_sip._udp.carrier.test", "sbc.carrier.test", port),
        f"host-record={OWN_NAME},127.0.0.1",
    )


@pytest.fixture
async def names(setup: Setup) -> AsyncIterator[NameServer]:
    server = NameServer(setup.running_engine.directory, DNS)
    yield server
    server.stop()


@pytest.fixture
async def gateway(setup: Setup) -> Endpoint:
    """The server of `destinations.number`."""
    endpoint = await Endpoint.open(port=GATEWAY)
    setup._stack.callback(endpoint.close)
    return endpoint


def refused(engine: Engine) -> float:
    return engine.metric("renvoi_documents_refused_total", kind="reg")


async def until_known(setup: Setup, gateway: Endpoint) -> None:
    """Wait until the engine has looked its destinations up."""
    deadline = time.monotonic() + within(20)
    while True:
        before = len(gateway.invited())
        call = await setup.call(setup.line(to=[gateway.uri()]))
        while len(gateway.invited()) == before:
            if call.codes():
                return
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        await refuse(gateway.invited()[-1], 480)
        await call.final()
        await asyncio.sleep(0.2)


async def is_dead(setup: Setup, member: str) -> bool:
    """Whether a line with only this contact is unreachable."""
    number = numbers.line_number()
    forwards = {"unreachable": to_voicemail(number)}
    line = setup.line(number=number, forwards=forwards, to=[member])
    call = await setup.call(line)
    try:
        ring = await setup.server("voicemail").incoming(line, wait_s=8)
    except AssertionError:
        return False
    await connect(call, ring)
    await part(call, ring)
    return True


async def test_a_name_that_leads_to_a_destination_is_never_rung(
    setup: Setup, names: NameServer, gateway: Endpoint
) -> None:
    ports, user = setup.engine.ports, "+33899123456"
    await names.start(
        *carrier(),
        "host-record=evil.test,127.0.0.1",
        srv("_sip._udp.by-srv.test", "a.by-srv.test", GATEWAY),
        srv("_sip._udp.second.test", "b.second.test", OTHER, 10),
        srv("_sip._udp.second.test", "c.second.test", ports["voicemail"], 20),
        naptr("by-naptr.test", 10, "SIP+D2U", "_sip._udp.by-srv.test"),
        "host-record=phone.test,192.0.2.77",
    )
    await until_known(setup, gateway)
    edge = await setup.endpoint()
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
        # by the Path, or by the contact after a plain Path
        f'<sip:{user}@192.0.2.1>;path="<sip:evil.test:{GATEWAY};lr>"',
        f'<sip:{user}@192.0.2.1>;path="<sip:evil.test:{UDP};lr;ob>"',
        f'<sip:{user}@evil.test:{GATEWAY}>;path="<{edge.uri()};lr>"',
        f'<sip:{user}@by-srv.test>;path="<{edge.uri()};lr>"',
        f'<sip:a@192.0.2.1>;path="<{edge.uri()};lr>,<sip:evil.test:{GATEWAY};lr;ob>"',
    ]  # fmt: skip
    asked, before = len(gateway.heard), refused(setup.engine)
    found = await asyncio.gather(*(is_dead(setup, member) for member in members))
    assert [member for member, dead in zip(members, found, strict=True) if not dead] == []
    assert len(gateway.heard) == asked
    assert not edge.invited()
    assert refused(setup.engine) - before == len(members)
    deadline = time.monotonic() + within(10)
    while not any("@by-naptr.test" in event.get("error", "") for event in setup.engine.events()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_a_contact_beside_a_dead_one_rings(
    setup: Setup, names: NameServer, gateway: Endpoint
) -> None:
    await names.start(*carrier(), "host-record=evil.test,127.0.0.1")
    await until_known(setup, gateway)
    phone = await setup.endpoint()
    call = await setup.call(setup.line(to=[f"sip:a@evil.test:{GATEWAY}", phone.uri()]))
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_phones_and_edges_that_are_named_ring(
    setup: Setup, names: NameServer, gateway: Endpoint
) -> None:
    """Another port of a destination's host is another service; a gateway may be the edge too."""
    phone, edge = await setup.endpoint(), await setup.endpoint()
    await names.start(
        *carrier(),
        "host-record=pabx.test,127.0.0.1",
        srv("_sip._udp.office.test", "d.office.test", phone.port),
        srv("_sip._udp.edge.test", "e.edge.test", edge.port),
    )
    await until_known(setup, gateway)
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
        call = await setup.call(setup.line(to=[member]))
        ring = await rung.incoming()
        await connect(call, ring)
        await part(call, ring)


async def test_a_name_is_looked_up_again_for_a_later_call(
    setup: Setup, names: NameServer, gateway: Endpoint
) -> None:
    phone = await setup.endpoint()
    await names.start(*carrier(), srv("_sip._udp.moves.test", "f.moves.test", phone.port), ttl_s=1)
    await until_known(setup, gateway)
    line = setup.line(to=["sip:a@moves.test"])
    call = await setup.call(line)
    await connect(call, ring := await phone.incoming())
    await part(call, ring)
    await names.start(*carrier(), srv("_sip._udp.moves.test", "f.moves.test", GATEWAY), ttl_s=1)
    deadline = time.monotonic() + within(20)
    while True:
        rung = len(phone.invited())
        call = await setup.call(line)
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
    setup: Setup, names: NameServer
) -> None:
    phone = await setup.endpoint()
    await names.start(*carrier(), "host-record=moved.test,127.0.0.1")
    line = setup.line(to=[phone.uri()])

    async def reload(number: str) -> None:
        done = sum(event["event"] == "reload.done" for event in setup.engine.events())
        config = json.loads(setup.engine._config.read_text("utf-8"))
        config["destinations"]["number"] = number
        setup.engine._config.write_text(json.dumps(config), "utf-8")
        setup.engine.signal(signal.SIGHUP)
        deadline = time.monotonic() + within(10)
        while sum(event["event"] == "reload.done" for event in setup.engine.events()) == done:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    try:
        await reload(f"sip:{{number}}@127.0.0.1:{phone.port}")
        call = await setup.call(line)
        await call.receive(480)
        assert not phone.invited()
    finally:
        await reload("sip:{number}@carrier.test")
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
