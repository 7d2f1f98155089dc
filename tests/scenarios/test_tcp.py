"""Calls over TCP: framing, connections that are shared, break, stall or never come."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time

import pytest

from tests.patience import Stalls, within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import call_off, connect, part
from tests.scenarios.setup import OFFER_BYTES, Setup, to_number, to_voicemail
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

UDP, TCP = free_port(), free_port(socket.SOCK_STREAM)
ENGINE = ("127.0.0.1", TCP)
PEER, PHONE = "127.0.0.1", "127.0.0.2"
SETTINGS = {
    "sip": {
        "listen": [f"udp:127.0.0.1:{UDP}", f"tcp:127.0.0.1:{TCP}"],
        "registrar_peers": ["127.0.0.1/32", "127.0.0.2/31", "127.0.0.4/30"],
    },
    "timers": {"pre_ringing_s": 40, "idle_connection_s": 4},
    "limits": {"connections": 120},
}


@pytest.fixture
async def streams(setup: Setup) -> list[StreamEndpoint]:
    """Two endpoints on TCP."""
    made = [await StreamEndpoint.listen() for _ in range(2)]
    for endpoint in made:
        setup._stack.push_async_callback(endpoint.finish)
    return made


def start(caller: Endpoint, called: str, **more: object) -> Call:
    return caller.start(ENGINE, called, body=OFFER_BYTES, **more)  # type: ignore[arg-type]


async def wait_for_connections(setup: Setup, wanted: float, wait_s: float = 5) -> None:
    deadline = time.monotonic() + within(wait_s)
    while (now := setup.engine.metric("renvoi_connections")) != wanted:
        assert time.monotonic() < deadline, f"{now} connections, expected {wanted}"
        await asyncio.sleep(0.05)


async def drop(setup: Setup, endpoint: StreamEndpoint) -> None:
    """Break the endpoint's only connection, and wait until the engine has noticed."""
    left = setup.engine.metric("renvoi_connections") - 1
    endpoint.drop()
    await wait_for_connections(setup, left)


async def test_a_call_over_tcp_on_both_sides(setup: Setup, streams: list[StreamEndpoint]) -> None:
    caller, phone = streams
    line = setup.line(to=[phone.uri()])
    call = start(caller, line)
    ring = await phone.incoming()
    assert ring.first.one("Via").startswith(f"SIP/2.0/TCP 127.0.0.1:{TCP}")
    assert ring.first.one("Contact") == f"<sip:renvoi@127.0.0.1:{TCP};transport=tcp>"
    assert ring.first.body == OFFER_BYTES
    answer = await connect(call, ring)
    assert "transport=tcp" in answer.one("Contact")
    for side, other in ((call, ring), (ring, call)):
        side.request("INFO", body=b"x" * 900, content_type="text/plain")
        request = await other.receive("INFO")
        other.respond(200, to=request)
        await side.receive(200, "INFO")
    await part(ring, call)
    # Responses use the caller's own connection, requests one to its Contact.
    assert caller.made == 1
    assert phone.made == 1
    await setup.ended(call.call_id, outcome="answered")


@pytest.mark.parametrize("way", ["tcp_to_udp", "udp_to_tcp"])
async def test_a_call_from_one_transport_to_the_other(
    setup: Setup, streams: list[StreamEndpoint], way: str
) -> None:
    stream, datagram = streams[0], await setup.endpoint()
    caller, phone = (stream, datagram) if way == "tcp_to_udp" else (datagram, stream)
    line = setup.line(to=[phone.uri()])
    peer = ENGINE if way == "tcp_to_udp" else setup.engine.address
    call = caller.start(peer, line, body=OFFER_BYTES)
    ring = await phone.incoming()
    assert ("transport=tcp" in ring.first.one("Contact")) == (phone is stream)
    await connect(call, ring)
    await part(call, ring)


async def test_a_cancel_over_tcp(setup: Setup, streams: list[StreamEndpoint]) -> None:
    caller, phone = streams
    line = setup.line(to=[phone.uri()])
    call = start(caller, line)
    ring = await phone.incoming()
    await call_off(call, ring)
    await setup.ended(call.call_id, outcome="cancelled")


async def test_calls_to_one_peer_share_a_connection(
    setup: Setup, streams: list[StreamEndpoint]
) -> None:
    caller, phone = streams
    line = setup.line(to=[phone.uri()])
    for _ in range(5):
        call = start(caller, line)
        ring = await phone.incoming()
        await connect(call, ring)
        await part(call, ring)
    assert phone.made == 1


async def test_messages_come_in_pieces_and_together(setup: Setup) -> None:
    reader, writer = await asyncio.open_connection(*ENGINE)
    options = (
        "OPTIONS sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bK{n}\r\n"
        "From: <sip:a@b>;tag=1\r\nTo: <sip:x@127.0.0.1>\r\nCall-ID: pieces-{n}\r\n"
        "CSeq: {n} OPTIONS\r\nMax-Forwards: 70\r\nl: 4\r\n\r\nbody"
    )
    for byte in options.format(n=1).encode():
        writer.write(bytes([byte]))
        await writer.drain()
    first = await reader.readuntil(b"\r\n\r\n")
    assert b"CSeq: 1 OPTIONS" in first
    writer.write("".join(options.format(n=n) for n in range(2, 12)).encode())
    for n in range(2, 12):
        assert f"CSeq: {n} OPTIONS".encode() in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\r\n\r\n")  # keep-alive
    assert await reader.readexactly(2) == b"\r\n"
    writer.close()


@pytest.mark.parametrize("size", [262_145, 500_000])
async def test_a_message_too_large_is_refused_and_the_next_one_served(
    setup: Setup, streams: list[StreamEndpoint], size: int
) -> None:
    caller, phone = streams
    line = setup.line(to=[phone.uri()])
    big = caller.start(ENGINE, line, body=b"v" * size)
    await big.receive(513)
    call = start(caller, line)
    await connect(call, await phone.incoming())
    await part(call, phone.invited()[0])


async def test_a_peer_that_closed_is_called_on_a_new_connection(
    setup: Setup, streams: list[StreamEndpoint]
) -> None:
    caller, phone = streams
    line = setup.line(to=[phone.uri()])
    for connections in (1, 2):
        call = start(caller, line)
        ring = await phone.incoming()
        await connect(call, ring)
        await part(call, ring)
        assert phone.made == connections
        await drop(setup, phone)


async def test_a_refused_connection_is_unreachable_at_once(
    setup: Setup, streams: list[StreamEndpoint]
) -> None:
    target = numbers.outside_number()
    nobody = f"sip:x@127.0.0.1:{free_port(socket.SOCK_STREAM)};transport=tcp"
    line = setup.line(to=[nobody], forwards={"unreachable": to_number(target)})
    call = start(streams[0], line)
    away = await setup.server("number").incoming(target, wait_s=3)
    await connect(call, away)
    await part(call, away)
    await setup.ended(call.call_id, condition="unreachable", outcome="answered")


async def test_a_peer_that_does_not_accept_is_given_up_in_time(
    setup: Setup, streams: list[StreamEndpoint]
) -> None:
    """A listening socket whose queue is full: SYNs go unanswered, as behind a firewall."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        contact = f"sip:x@127.0.0.1:{full.getsockname()[1]};transport=tcp"
        line = setup.line(to=[contact])
        setup.change(line, forwards={"unreachable": to_voicemail(line)})
        await setup.settle()
        call = start(streams[0], line)
        away = await setup.server("voicemail").incoming(line, wait_s=5.5)
        await connect(call, away)
        await part(call, away)
        for filler in fillers:
            filler.close()


async def test_a_peer_that_dies_while_it_rings_is_unreachable_or_fails(
    setup: Setup, streams: list[StreamEndpoint]
) -> None:
    caller, phone = streams
    line = setup.line(to=[phone.uri()])
    call = start(caller, line)
    await phone.incoming()
    phone.drop()
    await call.receive(480)
    await setup.ended(call.call_id, outcome="unreachable")


async def test_a_call_in_progress_outlives_its_connection(
    setup: Setup, streams: list[StreamEndpoint]
) -> None:
    """The phone's connection breaks during the call: the BYE goes to its Contact on a new one."""
    caller, phone = streams
    line = setup.line(to=[phone.uri()])
    call = start(caller, line)
    ring = await phone.incoming()
    await connect(call, ring)
    await drop(setup, phone)
    await part(call, ring)
    assert phone.made == 2
    await setup.ended(call.call_id, outcome="answered")


async def test_a_caller_whose_connection_breaks_before_the_answer_is_gone(
    setup: Setup, streams: list[StreamEndpoint]
) -> None:
    caller, phone = streams
    line = setup.line(to=[phone.uri()])
    call = start(caller, line)
    ring = await phone.incoming()
    ring.respond(180)
    await call.receive(180)
    ring.automatic.discard("CANCEL")
    await drop(setup, caller)
    ring.respond(486)
    await ring.receive("ACK")
    await call.receive(486)  # on a connection that the engine opens (RFC 3261 18.2.2)
    await setup.record(call.call_id)


async def test_many_connections_each_with_a_call(setup: Setup) -> None:
    await wait_for_connections(setup, 0)
    callers = [await StreamEndpoint.listen() for _ in range(100)]
    phone = await setup.endpoint()
    line = setup.line(to=[phone.uri()])
    calls = [start(caller, line) for caller in callers]
    for _ in calls:
        (await phone.incoming()).respond(486)
    for call in calls:
        await call.receive(486, wait_s=8)
    assert setup.engine.metric("renvoi_connections") == 100
    for caller in callers:
        await caller.finish()
    await wait_for_connections(setup, 0)


async def test_over_the_limit_new_connections_are_closed(setup: Setup) -> None:
    before = setup.engine.metric("renvoi_rejected_total", reason="connections")
    await wait_for_connections(setup, 0)
    held = [await asyncio.open_connection(*ENGINE) for _ in range(140)]
    deadline = time.monotonic() + within(5)
    while sum(reader.at_eof() for reader, _ in held) < 20:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert setup.engine.metric("renvoi_rejected_total", reason="connections") >= before + 20
    for _, writer in held:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    await wait_for_connections(setup, 0)


async def crowd(
    setup: Setup, host: str, count: int, *, kept: int, refused: str
) -> list[asyncio.StreamWriter]:
    """Silent connections from that address: the engine keeps the given number and counts the others
    as refused."""
    before = setup.engine.metric("renvoi_rejected_total", reason=refused)
    made = [await asyncio.open_connection(*ENGINE, local_addr=(host, 0)) for _ in range(count)]
    deadline = time.monotonic() + within(5)
    while True:
        await asyncio.sleep(0.2)
        dropped = [writer for reader, writer in made if reader.at_eof() or reader.exception()]
        if len(dropped) >= count - kept or time.monotonic() > deadline:
            break
    await leave(dropped)
    assert len(dropped) == count - kept
    assert setup.engine.metric("renvoi_rejected_total", reason=refused) == before + count - kept
    return [writer for _, writer in made if writer not in dropped]


async def call_passes(setup: Setup, streams: list[StreamEndpoint]) -> None:
    """A call on a connection that a trusted peer opens, and on one that the engine opens."""
    caller, phone = streams
    call = start(caller, setup.line(to=[phone.uri()]))
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def leave(crowd: list[asyncio.StreamWriter]) -> None:
    for writer in crowd:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def asked_to_register(host: str) -> bool:
    """Whether a phone at that address is challenged for its password."""
    reader, writer = await asyncio.open_connection(*ENGINE, local_addr=(host, 0))
    number = numbers.line_number()
    writer.write(
        f"REGISTER sip:renvoi SIP/2.0\r\nVia: SIP/2.0/TCP {host}:9;branch=z9hG4bK{number}\r\n"
        f"From: <sip:{number}@b>;tag=1\r\nTo: <sip:{number}@b>\r\nCall-ID: {number}-{host}\r\n"
        "CSeq: 1 REGISTER\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n".encode()
    )
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), within(5))
    await leave([writer])
    return answer.startswith(b"SIP/2.0 401")


async def test_strangers_take_no_room_from_peers_and_phones(
    setup: Setup, streams: list[StreamEndpoint]
) -> None:
    await wait_for_connections(setup, 0)
    strangers = await crowd(setup, "127.0.0.9", 250, kept=100, refused="stranger")
    # of the 120 in limits.connections
    peers = await crowd(setup, "127.0.0.1", 100, kept=100, refused="connections")
    assert await asked_to_register("127.0.0.2")
    await call_passes(setup, streams)
    await leave(strangers + peers)
    for endpoint in streams:
        await endpoint.finish()
    await wait_for_connections(setup, 0)
    await leave(await crowd(setup, "127.0.0.9", 1, kept=1, refused="stranger"))


async def test_phones_that_may_only_register_leave_room_for_peers_that_may_call(
    setup: Setup, streams: list[StreamEndpoint]
) -> None:
    await wait_for_connections(setup, 0)
    phones = []
    for last in (2, 3, 4):
        phones += await crowd(setup, f"127.0.0.{last}", 30, kept=30, refused="connections")
    phones += await crowd(setup, "127.0.0.5", 30, kept=18, refused="connections")
    await call_passes(setup, streams)
    await leave(phones)


async def test_one_source_has_a_share_and_leaves_the_rest_to_others(
    setup: Setup, streams: list[StreamEndpoint]
) -> None:
    await wait_for_connections(setup, 0)
    held = await crowd(setup, "127.0.0.2", 100, kept=30, refused="source_connections")
    assert await asked_to_register("127.0.0.3")
    await call_passes(setup, streams)
    await leave(held)


OPTIONS = (
    "OPTIONS sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bK{n}\r\n"
    "From: <sip:a@b>;tag=1\r\nTo: <sip:x@127.0.0.1>\r\nCall-ID: idle-{n}\r\n"
    "CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)
NO_CREDIT = {
    "nothing": [],
    "what is no SIP": ["x" * 10_000],
    "half a head": [OPTIONS.format(n="a")[:60]],
    "half a head, byte by byte": list(OPTIONS.format(n="b")[:100]),
    "a body that never comes": [OPTIONS.format(n="c").replace("Length: 0", "Length: 100")],
    "keep-alives": ["\r\n\r\n"] * 100,
    "no Call-ID": [OPTIONS.format(n="d").replace("Call-ID", "Call-Nothing")],
    "no CSeq number": [OPTIONS.format(n="e").replace("CSeq: 1 ", "CSeq: ")],
    "no Via": [OPTIONS.format(n="f").replace("Via", "Away")],
    "an empty To": [OPTIONS.format(n="g").replace("To: <sip:x@127.0.0.1>", "To:")],
    "a response without fields": ["SIP/2.0 200 OK\r\n\r\n"],
}


async def lasted_s(host: str, pieces: list[str]) -> float:
    """How long the engine keeps a connection that sends these pieces, one every 0.1 s."""
    start_s = time.monotonic()
    reader, writer = await asyncio.open_connection(*ENGINE, local_addr=(host, 0))
    ended = asyncio.ensure_future(reader.read())
    while not ended.done() and pieces:
        writer.write(pieces.pop(0).encode())
        await asyncio.sleep(0.1)
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(ended, within(20))
    await leave([writer])
    return time.monotonic() - start_s


async def test_invalid_messages_do_not_keep_a_connection(setup: Setup) -> None:
    sent = [(host, what) for host in (PEER, PHONE) for what in NO_CREDIT]
    kept = await asyncio.gather(*(lasted_s(host, list(NO_CREDIT[what])) for host, what in sent))
    found = dict(zip(sent, kept, strict=True))
    assert all(8 < seconds < within(14) for seconds in found.values()), found


@pytest.mark.parametrize("said", ["x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_what_is_no_sip_ends_the_connection_at_once(
    setup: Setup, stalls: Stalls, said: str
) -> None:
    stalls.watch(setup.engine.pid)
    assert await lasted_s(PHONE, [said]) < 8 + stalls.total_s


async def test_a_source_that_never_registered_or_called_is_closed_when_idle(setup: Setup) -> None:
    await wait_for_connections(setup, 0)

    async def talk(host: str) -> None:
        messages = [OPTIONS.format(n=f"{host}{n}") for n in range(30)]
        pieces = [*messages, *["\r\n\r\n"] * 100]
        seconds = await lasted_s(host, pieces)
        assert seconds > 6  # during the messages, and four seconds more
        assert pieces, "keep-alives kept the connection"

    await asyncio.gather(talk(PEER), talk(PHONE))


async def test_a_source_that_has_called_keeps_its_idle_connections(
    setup: Setup, streams: list[StreamEndpoint]
) -> None:
    caller, phone = streams
    line = setup.line(to=[phone.uri()])
    call = start(caller, line)
    ring = await phone.incoming()
    await connect(call, ring)
    reader, writer = await asyncio.open_connection(*ENGINE)
    writer.write(OPTIONS.format(n="kept").encode())
    assert (await reader.readuntil(b"\r\n")).startswith(b"SIP/2.0 200")
    await asyncio.sleep(11)  # longer than a connection may take for its first valid message
    assert not reader.at_eof()
    await leave([writer])
    await part(call, ring)
    assert caller.made == 0  # the BYE's answer uses the caller's own connection


async def test_a_peer_that_does_not_read_is_closed(setup: Setup) -> None:
    before = setup.engine.metric("renvoi_rejected_total", reason="slow_reader")
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(ENGINE)
    slow.setblocking(False)
    loop = asyncio.get_running_loop()
    deadline = time.monotonic() + within(20)
    number = 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        while setup.engine.metric("renvoi_rejected_total", reason="slow_reader") == before:
            assert time.monotonic() < deadline, "the connection is kept"
            for _ in range(200):
                number += 1
                data = OPTIONS.format(n=f"slow{number}").encode()
                await asyncio.wait_for(loop.sock_sendall(slow, data), within(1))
    slow.close()
    await wait_for_connections(setup, 0, wait_s=15)


async def test_a_peer_that_resets_leaves_nothing(setup: Setup) -> None:
    await wait_for_connections(setup, 0)
    for _ in range(20):
        _, writer = await asyncio.open_connection(*ENGINE)
        made = writer.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(b"OPTIONS sip:x@y SIP/2.0\r\n")
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    await wait_for_connections(setup, 0)
