"""What a capture server and a collector receive of calls: HEP packets, OpenTelemetry spans."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.patience import within
from tests.scenarios.continued import until
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.message import Message, parse
from tests.scenarios.setup import OFFER_BYTES, Setup, to_voicemail
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

UDP, TCP, HEP = free_port(), free_port(socket.SOCK_STREAM), free_port()
OTLP = free_port(socket.SOCK_STREAM)
SETTINGS = {
    "sip": {"listen": [f"udp:127.0.0.1:{UDP}", f"tcp:127.0.0.1:{TCP}"]},
    "trace": {"hep": f"udp:127.0.0.1:{HEP}", "hep_id": 77, "otlp": f"http://127.0.0.1:{OTLP}"},
    "limits": {"line_calls": 1},
    "log": {"numbers": "masked"},
}
ENGINE = ("127.0.0.1", UDP)
Chunks = dict[int, bytes]


class Captured:
    """One HEP packet, decoded by the published format."""

    def __init__(self, packet: bytes) -> None:
        assert packet[:4] == b"HEP3"
        assert struct.unpack("!H", packet[4:6])[0] == len(packet)
        self.chunks: Chunks = {}
        place = 6
        while place < len(packet):
            vendor, kind, length = struct.unpack("!HHH", packet[place : place + 6])
            assert (vendor, length >= 6) == (0, True)
            self.chunks[kind] = packet[place + 6 : place + length]
            place += length
        assert place == len(packet)

    def port(self, kind: int) -> int:
        return int.from_bytes(self.chunks[kind], "big")

    @property
    def way(self) -> tuple[tuple[str, int], tuple[str, int]]:
        source = socket.inet_ntoa(self.chunks[3]), self.port(7)
        return source, (socket.inet_ntoa(self.chunks[4]), self.port(8))

    @property
    def message(self) -> Message:
        return parse(self.chunks[15])

    @property
    def correlation(self) -> str:
        return self.chunks[17].decode()

    @property
    def at(self) -> float:
        return self.port(9) + self.port(10) / 1e6


class Homer(asyncio.DatagramProtocol):
    """A capture server: a socket that stores what it receives."""

    def __init__(self) -> None:
        self.packets: list[Captured] = []

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.packets.append(Captured(data))

    async def of(self, call: Call, least: int) -> list[Captured]:
        """The packets of a call; waits until there are `least`."""
        deadline = time.monotonic() + within(5)
        while True:
            found = [p for p in self.packets if p.correlation == call.call_id]
            if len(found) >= least:
                await asyncio.sleep(0.2)  # further packets would be wrong
                return sorted((p for p in self.packets if p.correlation == call.call_id), key=_at)
            assert time.monotonic() < deadline, [p.message for p in found]
            await asyncio.sleep(0.05)


def _at(packet: Captured) -> float:
    return packet.at


class Collector(http.server.BaseHTTPRequestHandler):
    """An OTLP collector: it stores the spans that it receives, or refuses them if set so."""

    spans: list[dict[str, Any]]
    refusals: list[int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        assert self.headers["Content-Type"] == "application/json"
        code = self.refusals.pop() if self.refusals else 200
        if code == 200:
            for resource in json.loads(body)["resourceSpans"]:
                shown = attributes(resource["resource"])
                assert shown["service.name"] == "renvoi"
                self.spans += [span for scope in resource["scopeSpans"] for span in scope["spans"]]
        self.send_response(code)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


def attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {a["key"]: next(iter(a["value"].values())) for a in holder.get("attributes", ())}


@pytest.fixture
async def homer() -> AsyncIterator[Homer]:
    loop = asyncio.get_running_loop()
    transport, made = await loop.create_datagram_endpoint(Homer, local_addr=("127.0.0.1", HEP))
    yield made
    transport.close()


@pytest.fixture
def collector() -> Iterator[type[Collector]]:
    kind = type("Here", (Collector,), {"spans": [], "refusals": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", OTLP), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield kind
        server.shutdown()
        thread.join()


async def spans_of(collector: type[Collector], call: Call, least: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + within(5)
    while True:
        roots = [s for s in collector.spans if attributes(s).get("sip.call_id") == call.call_id]
        if roots:
            found = [s for s in collector.spans if s["traceId"] == roots[0]["traceId"]]
            if len(found) >= least:
                return found
        assert time.monotonic() < deadline, f"no {least} spans: {collector.spans}"
        await asyncio.sleep(0.05)


async def test_every_message_of_a_call_with_its_way_and_the_callers_call_id(
    setup: Setup, homer: Homer
) -> None:
    line, phone = await setup.line_with_phone()
    caller = await setup.endpoint()
    call = caller.start(ENGINE, line, body=OFFER_BYTES)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    packets = await homer.of(call, 13)
    at_caller, at_phone = (caller.host, caller.port), (phone.host, phone.port)
    for peer, ours in ((at_caller, call), (at_phone, ring)):
        passed = [p for p in packets if peer in p.way]
        came = [p.chunks[15] for p in passed if p.way == (ENGINE, peer)]
        went = [p.chunks[15] for p in passed if p.way == (peer, ENGINE)]
        assert sorted(came) == sorted(m.raw for m in ours.received)
        # An answer that came late is repeated.
        assert len(set(went)) == len(ours.sent) + sum(m.code >= 300 for m in ours.received)
        assert {m.raw for m in ours.sent} <= set(went)
    assert {p.way[0] for p in packets} | {p.way[1] for p in packets} == {
        at_caller, at_phone, ENGINE,
    }  # fmt: skip
    for packet in packets:
        chunks = packet.chunks
        assert (chunks[1], chunks[2], chunks[11]) == (b"\x02", b"\x11", b"\x01")
        assert packet.port(12) == 77
        assert chunks[19] == b"renvoi-0"
    assert packets[0].message.method == "INVITE"
    assert packets[-1].at - packets[0].at < 30


async def test_forwarded_legs_and_repetitions_belong_to_the_call(
    setup: Setup, homer: Homer
) -> None:
    line, phone = await setup.line_with_phone()
    setup.change(line, forwards={"busy": to_voicemail(line)})
    await setup.settle()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(486)
    ring.repeat(ring.sent[-1])
    mailbox = await setup.server("voicemail").incoming()
    await connect(call, mailbox)
    await part(call, mailbox)
    packets = await homer.of(call, 19)
    call_ids = {p.message.call_id for p in packets}
    assert call_ids == {call.call_id, ring.call_id, mailbox.call_id}
    assert sum(p.message.code == 486 for p in packets) >= 2


async def test_tcp_has_its_own_protocol_number_and_ports(setup: Setup, homer: Homer) -> None:
    line, phone = await setup.line_with_phone()
    caller = await StreamEndpoint.listen()
    call = caller.start(("127.0.0.1", TCP), line, body=OFFER_BYTES)
    ring = await phone.incoming()
    ring.respond(486)
    await call.receive(486)
    packets = await homer.of(call, 7)
    streams = [p for p in packets if p.chunks[2] == b"\x06"]
    assert {p.message.code or p.message.method for p in streams} == {"INVITE", 100, 486, "ACK"}
    assert all(("127.0.0.1", TCP) in p.way for p in streams)
    await caller.finish()


async def test_refused_requests_are_captured_too(setup: Setup, homer: Homer) -> None:
    line, phone = await setup.line_with_phone()
    standing = await setup.call(line)
    ring = await phone.incoming()
    await connect(standing, ring)
    refused = [await setup.call(line) for _ in range(2)]
    for call in refused:
        await call.receive(480)
        packets = await homer.of(call, 2)
        assert [p.message.code or p.message.method for p in packets][:1] == ["INVITE"]
        assert any(p.message.code == 480 for p in packets)
        assert all(ENGINE in p.way for p in packets)
    await part(standing, ring)


async def test_a_call_is_a_trace(setup: Setup, homer: Homer, collector: type[Collector]) -> None:
    line, phone = await setup.line_with_phone()
    setup.change(line, forwards={"busy": to_voicemail(line)})
    await setup.settle()
    call = await setup.call(line)
    (await phone.incoming()).respond(486)
    mailbox = await setup.server("voicemail").incoming()
    await connect(call, mailbox)
    await part(call, mailbox)
    record = await setup.record(call.call_id)
    root, *children = await spans_of(collector, call, 5)
    shown = attributes(root)
    assert (root["name"], root["parentSpanId"]) == ("call", "")
    assert shown["renvoi.call"] == record["id"]
    assert (shown["renvoi.condition"], shown["renvoi.destination"]) == ("busy", "voicemail")
    assert (shown["renvoi.outcome"], shown["sip.code"]) == ("answered", "200")
    assert shown["renvoi.called"] == f"{line[:4]}******{line[-2:]}"
    assert [c["name"] for c in children] == [
        "decision", "leg line", "leg voicemail", "conversation",
    ]  # fmt: skip
    assert {c["parentSpanId"] for c in children} == {root["spanId"]}
    assert len({s["spanId"] for s in (root, *children)}) == 5
    assert [attributes(c)["sip.code"] for c in children[1:3]] == ["486", "200"]
    assert {e["name"] for e in root["events"]} == {"rang", "answered", "forward"}
    assert "answered" in {e["name"] for e in children[2]["events"]}
    begin, end = int(root["startTimeUnixNano"]), int(root["endTimeUnixNano"])
    assert abs(begin / 1e9 - float(record["received"])) < 0.01
    for child in children:
        assert begin <= int(child["startTimeUnixNano"]) <= int(child["endTimeUnixNano"]) <= end
    assert len(root["traceId"]) == 32
    assert bytes.fromhex(root["traceId"] + root["spanId"])


async def test_a_collector_that_is_away_for_a_moment_gets_its_spans(
    setup: Setup, homer: Homer, collector: type[Collector]
) -> None:
    collector.refusals.append(503)
    call = await setup.call(setup.line())
    await call.receive(480)
    (root, *_) = await spans_of(collector, call, 1)
    assert attributes(root)["renvoi.outcome"] == "unreachable"


async def test_unreachable_servers_affect_no_call(setup: Setup) -> None:
    before = setup.engine.metric("renvoi_trace_dropped_total")
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    await until(lambda: setup.engine.metric("renvoi_trace_dropped_total") > before, "it counts")
