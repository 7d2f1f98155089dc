"""Targets that are names: NAPTR, SRV and address records, and servers that do not answer."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.command import run
from tests.scenarios.expect import connect, part
from tests.scenarios.nameserver import NameServer, naptr, srv
from tests.scenarios.setup import ANSWER_BYTES, Setup, to_number, to_voicemail
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

DNS, UDP, TCP = free_port(), free_port(), free_port(socket.SOCK_STREAM)
PRE_RINGING_S = 15
SETTINGS = {
    "sip": {
        "listen": [f"udp:127.0.0.1:{UDP}", f"tcp:127.0.0.1:{TCP}"],
        "nameservers": [f"127.0.0.1:{DNS}"],
    },
    "destinations": {"number": "sip:{number}@gateways.test"},
    "timers": {"pre_ringing_s": PRE_RINGING_S, "next_server_s": 3},
}


@pytest.fixture
async def names(setup: Setup) -> AsyncIterator[NameServer]:
    """A name server that is not started yet."""
    server = NameServer(setup.running_engine.directory, DNS)
    yield server
    server.stop()


async def test_a_contact_named_by_srv(setup: Setup, names: NameServer) -> None:
    phone = await setup.endpoint()
    await names.start(srv("_sip._udp.one.test", "a.one.test", phone.port))
    call = await setup.call(setup.line(to=["sip:phone@one.test"]))
    ring = await phone.incoming()
    assert ring.first.uri == "sip:phone@one.test"
    await connect(call, ring)
    await part(call, ring)


async def test_check_finds_destinations_as_the_engine_does(
    setup: Setup, names: NameServer, tmp_path: Path
) -> None:
    """By SRV records at `sip.nameservers`, for transports in `sip.listen`, or only the proxy."""
    await names.start(
        srv("_sip._udp.gateways.test", "a.gateways.test", 5060),
        srv("_sip._tcp.streams.test", "a.gateways.test", 5060),
    )
    found: dict[str, tuple[bool, str]] = {}
    for name, more in {
        "gateways.test": {},
        "streams.test": {},
        "nowhere.test": {},
        "127.0.0.1;transport=tcp": {},
        "127.0.0.1": {},
        "only.the.proxy.knows": {"outbound_proxy": "sip:gateways.test;lr"},
        "127.0.0.2": {"outbound_proxy": "sip:nowhere.test;lr"},
    }.items():
        config = tmp_path / "check.yaml"
        document = {
            "sip": {"listen": ["udp:127.0.0.1:0"], "nameservers": [f"127.0.0.1:{DNS}"], **more},
            "admin": {"listen": "127.0.0.1:0"},
            "redis": {"data_dir": str(tmp_path / "data")},
            "destinations": {"number": f"sip:{{number}}@{name}"},
        }
        config.write_text(json.dumps(document), encoding="utf-8")
        done = await asyncio.to_thread(run, "check", "--json", "--config", str(config))
        (row,) = [each for each in json.loads(done.stdout) if each["check"] == "destinations"]
        found[name] = row["ok"], row["detail"]
    assert [name for name, (ok, _) in found.items() if ok] == [
        "gateways.test", "127.0.0.1", "only.the.proxy.knows"
    ]  # fmt: skip
    told = "destinations.number: streams.test: no server found for udp over IPv4"
    assert found["streams.test"][1].startswith(told)
    assert found["127.0.0.2"][1].startswith("sip.outbound_proxy: nowhere.test: ")


async def test_a_name_with_a_port_has_an_address(setup: Setup, names: NameServer) -> None:
    phone = await setup.endpoint()
    await names.start("host-record=two.test,127.0.0.1")
    call = await setup.call(setup.line(to=[f"sip:phone@two.test:{phone.port}"]))
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_a_phone_whose_contact_is_a_name_gets_ack_and_bye(
    setup: Setup, names: NameServer
) -> None:
    phone = await setup.endpoint()
    await names.start("host-record=three.test,127.0.0.1")
    line = setup.line(to=[phone.uri()])
    phone.host = "three.test"
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    await setup.ended(call.call_id, outcome="answered")


async def test_a_caller_whose_contact_leads_nowhere_loses_only_its_bye(
    setup: Setup, names: NameServer
) -> None:
    await names.start()
    line, phone = await setup.line_with_phone()
    caller = await setup.endpoint()
    caller.host = "nowhere.test"
    call = caller.start(setup.engine.address, line)
    ring = await phone.incoming()
    await connect(call, ring)
    await ring.hang_up()
    await setup.ended(call.call_id, outcome="answered")
    call.state = "ended"


async def test_naptr_chooses_the_transport(setup: Setup, names: NameServer) -> None:
    datagram, stream = await setup.endpoint(), await StreamEndpoint.listen()
    setup._stack.push_async_callback(stream.finish)
    await names.start(
        naptr("four.test", 10, "SIP+D2T", "_sip._tcp.four.test"),
        naptr("four.test", 20, "SIP+D2U", "_sip._udp.four.test"),
        srv("_sip._tcp.four.test", "a.four.test", stream.port),
        srv("_sip._udp.four.test", "a.four.test", datagram.port),
    )
    call = await setup.call(setup.line(to=["sip:phone@four.test"]))
    ring = await stream.incoming()
    assert ring.first.one("Via").startswith("SIP/2.0/TCP")
    assert "transport=tcp" in ring.first.one("Contact")
    await connect(call, ring)
    await part(call, ring)
    assert not datagram.invited()


async def test_naptr_chooses_the_transport_within_a_call_too(
    setup: Setup, names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name in a Contact is looked up when a request is sent to it (RFC 3263 4.1)."""
    phone, stream = await setup.endpoint(), await StreamEndpoint.listen()
    setup._stack.push_async_callback(stream.finish)
    await names.start(
        naptr("thirteen.test", 10, "SIP+D2T", "_sip._tcp.thirteen.test"),
        srv("_sip._tcp.thirteen.test", "a.thirteen.test", stream.port),
    )
    call = await setup.call(setup.line(to=[phone.uri()]))
    ring = await phone.incoming()
    monkeypatch.setattr(phone, "uri", lambda: "sip:phone@thirteen.test")
    ring.respond(200, body=ANSWER_BYTES)
    answer = await call.receive(200)
    stream.calls, ring.endpoint = phone.calls, stream
    call.ack(answer)
    requests = [await ring.receive("ACK")]
    await call.hang_up()
    requests.append(await ring.receive("BYE"))
    assert stream.requests() == ["ACK", "BYE"]
    for request in requests:
        assert request.one("Via").startswith(f"SIP/2.0/TCP 127.0.0.1:{TCP};")
    await setup.ended(call.call_id, outcome="answered")


async def test_a_silent_first_server_and_its_successor(setup: Setup, names: NameServer) -> None:
    silent, second = await setup.endpoint(), await setup.endpoint()
    await names.start(
        srv("_sip._udp.five.test", "a.five.test", silent.port, 10),
        srv("_sip._udp.five.test", "b.five.test", second.port, 20),
    )
    line = setup.line(to=["sip:phone@five.test"])
    call = await setup.call(line)
    ring = await second.incoming()
    assert len(silent.invited()) == 1
    await connect(call, ring)
    await part(call, ring)
    record = await setup.ended(call.call_id, outcome="answered", condition="none")
    assert len(record["legs"]) == 2
    # The failure is cached: the next call does not wait for that server.
    again = await setup.call(line)
    ring = await second.incoming()
    await connect(again, ring)
    await part(again, ring)
    assert len(silent.invited()) == 1


async def test_a_server_that_responds_late_wins_if_it_answers_first(
    setup: Setup, names: NameServer
) -> None:
    slow, second = await setup.endpoint(), await setup.endpoint()
    await names.start(
        srv("_sip._udp.six.test", "a.six.test", slow.port, 10),
        srv("_sip._udp.six.test", "b.six.test", second.port, 20),
    )
    line = setup.line(to=["sip:phone@six.test"])
    call = await setup.call(line)
    late, ring = await slow.incoming(), await second.incoming()
    ring.respond(180)
    await call.receive(180)
    await connect(call, late, ring=False)
    await ring.receive("CANCEL")
    await part(call, late)
    await setup.ended(call.call_id, outcome="answered", condition="none")


async def test_a_server_that_is_out_of_service(setup: Setup, names: NameServer) -> None:
    first, second = await setup.endpoint(), await setup.endpoint()
    await names.start(
        srv("_sip._udp.seven.test", "a.seven.test", first.port, 10),
        srv("_sip._udp.seven.test", "b.seven.test", second.port, 20),
    )
    call = await setup.call(setup.line(to=["sip:phone@seven.test"]))
    (await first.incoming()).respond(503)
    ring = await second.incoming()
    await connect(call, ring)
    await part(call, ring)
    assert call.codes() == [180, 200]


async def test_a_busy_server_is_the_answer_of_all(setup: Setup, names: NameServer) -> None:
    first, second = await setup.endpoint(), await setup.endpoint()
    await names.start(
        srv("_sip._udp.eight.test", "a.eight.test", first.port, 10),
        srv("_sip._udp.eight.test", "b.eight.test", second.port, 20),
    )
    call = await setup.call(setup.line(to=["sip:phone@eight.test"]))
    (await first.incoming()).respond(486)
    await call.receive(486)
    assert not second.invited()


async def test_a_refused_connection_goes_to_the_next_server(
    setup: Setup, names: NameServer
) -> None:
    second = await StreamEndpoint.listen()
    setup._stack.push_async_callback(second.finish)
    await names.start(
        srv("_sip._tcp.nine.test", "a.nine.test", free_port(socket.SOCK_STREAM), 10),
        srv("_sip._tcp.nine.test", "b.nine.test", second.port, 20),
    )
    call = await setup.call(setup.line(to=["sip:phone@nine.test;transport=tcp"]))
    ring = await second.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_a_gateway_with_a_dead_first_server(setup: Setup, names: NameServer) -> None:
    second = await setup.endpoint()
    await names.start(
        srv("_sip._udp.gateways.test", "a.gateways.test", free_port(), 10),
        srv("_sip._udp.gateways.test", "b.gateways.test", second.port, 20),
    )
    line = setup.line(forwards={"unconditional": to_number("+33140506070")})
    call = await setup.call(line)
    ring = await second.incoming("+33140506070")
    await connect(call, ring)
    await part(ring, call)
    await setup.ended(call.call_id, outcome="answered", condition="unconditional")


async def test_a_name_that_leads_nowhere_is_unreachable_at_once(
    setup: Setup, names: NameServer
) -> None:
    await names.start()
    line = setup.line(to=["sip:phone@nobody.test"])
    setup.change(line, forwards={"unreachable": to_voicemail(line)})
    began = time.monotonic()
    call = await setup.call(line)
    ring = await setup.server("voicemail").incoming()
    assert time.monotonic() - began < PRE_RINGING_S
    await connect(call, ring)
    await part(call, ring)
    await setup.ended(call.call_id, outcome="answered", condition="unreachable")


async def test_a_name_that_leads_nowhere_does_not_hurt_the_other_phone(
    setup: Setup, names: NameServer
) -> None:
    await names.start()
    phone = await setup.endpoint()
    call = await setup.call(setup.line(to=["sip:phone@nobody2.test", phone.uri()]))
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_a_name_server_that_hangs_delays_nobody_else(setup: Setup, names: NameServer) -> None:
    await names.start("host-record=ten.test,127.0.0.1")
    names.pause()
    waiting = await setup.call(setup.line(to=["sip:phone@ten.test:5060"]))
    await waiting.receive(100)
    line, phone = await setup.line_with_phone()
    for _ in range(5):
        call = await setup.call(line)
        ring = await phone.incoming()
        await connect(call, ring)
        await part(call, ring)
    await waiting.receive(480)  # no answer after three seconds
    await setup.ended(waiting.call_id, outcome="unreachable")
    waiting = await setup.call(setup.line(to=["sip:phone@ten-again.test:5060"]))
    await waiting.receive(100)
    waiting.cancel()
    await waiting.receive(487)
    await setup.ended(waiting.call_id, outcome="cancelled")
    names.resume()


async def test_a_name_server_that_never_answers_leaves_the_phone_unreachable(
    setup: Setup, names: NameServer
) -> None:
    call = await setup.call(setup.line(to=["sip:phone@eleven.test:5060"]))
    await call.receive(480, wait_s=6)
    record = await setup.ended(call.call_id, outcome="unreachable")
    assert record["legs"] == []


async def test_an_answer_out_of_date_serves_while_the_name_servers_are_away(
    setup: Setup, names: NameServer
) -> None:
    phone = await setup.endpoint()
    await names.start("host-record=twelve.test,127.0.0.1", ttl_s=1)
    line = setup.line(to=[f"sip:phone@twelve.test:{phone.port}"])
    for _ in range(3):
        call = await setup.call(line)
        ring = await phone.incoming()
        await connect(call, ring)
        await part(call, ring)
        names.stop()
        await asyncio.sleep(1.1)
