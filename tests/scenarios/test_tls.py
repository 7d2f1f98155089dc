"""Calls over TLS, with certificates made by the tests."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import time
import warnings
from functools import partial
from pathlib import Path

import pytest

from tests.patience import Stalls, within
from tests.scenarios import numbers
from tests.scenarios.baresip import CREDENTIALS, PASSWORD, Baresip
from tests.scenarios.certificates import (
    CA,
    OTHER,
    OTHER_KEY,
    OWN,
    OWN_KEY,
    PHONE,
    PHONE_BOTH,
    PHONE_KEY,
    client_context,
    server_context,
)
from tests.scenarios.continued import until
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine
from tests.scenarios.setup import OFFER_BYTES, Setup, to_number
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint
from tests.scenarios.worker_pool import WorkerPool

pytestmark = pytest.mark.usefixtures("certificates")
UDP, TLS = free_port(), free_port(socket.SOCK_STREAM)
ENGINE = ("127.0.0.1", TLS)
SIP: dict[str, object] = {
    "listen": [f"udp:127.0.0.1:{UDP}", f"tls:127.0.0.1:{TLS}"],
    "tls_certificate": str(OWN),
    "tls_key": str(OWN_KEY),
    "tls_ca": str(CA),
    "registrar_peers": ["127.0.0.1/32", "127.0.0.2/32"],
}
SETTINGS = {"sip": SIP, "timers": {"pre_ringing_s": 6}, "limits": {"connections": 40}}


async def tls_endpoint(
    setup: Setup, certificate: Path = PHONE, key: Path = PHONE_KEY
) -> StreamEndpoint:
    endpoint = await StreamEndpoint.listen(
        server_tls=server_context(certificate, key), client_tls=client_context()
    )
    setup._stack.push_async_callback(endpoint.finish)
    return endpoint


def start(caller: Endpoint, called: str) -> Call:
    return caller.start(ENGINE, called, body=OFFER_BYTES)


async def test_a_call_over_tls_on_both_sides(setup: Setup) -> None:
    caller, phone = await tls_endpoint(setup), await tls_endpoint(setup)
    line = setup.line(to=[phone.uri()])
    call = start(caller, line)
    ring = await phone.incoming()
    assert ring.first.one("Via").startswith(f"SIP/2.0/TLS 127.0.0.1:{TLS}")
    assert ring.first.one("Contact") == f"<sip:renvoi@127.0.0.1:{TLS};transport=tls>"
    await connect(call, ring)
    await part(call, ring)
    await setup.ended(call.call_id, outcome="answered")


@pytest.mark.parametrize("way", ["tls_to_udp", "udp_to_tls"])
async def test_a_call_from_tls_to_udp_and_back(setup: Setup, way: str) -> None:
    secure, plain = await tls_endpoint(setup), await setup.endpoint()
    caller, phone = (secure, plain) if way == "tls_to_udp" else (plain, secure)
    line = setup.line(to=[phone.uri()])
    call = caller.start(
        ENGINE if way == "tls_to_udp" else setup.engine.address, line, body=OFFER_BYTES
    )
    ring = await phone.incoming()
    await connect(call, ring)
    await part(ring, call)


async def test_a_server_with_a_name_that_is_not_its_own_is_not_called(setup: Setup) -> None:
    target = numbers.outside_number()
    impostor = await tls_endpoint(setup, OTHER, OTHER_KEY)
    line = setup.line(to=[impostor.uri()], forwards={"unreachable": to_number(target)})
    caller = await tls_endpoint(setup)
    call = start(caller, line)
    away = await setup.server("number").incoming(target)
    assert not impostor.invited()
    await connect(call, away)
    await part(call, away)
    await setup.ended(call.call_id, condition="unreachable")


async def test_a_connection_without_tls_is_refused(setup: Setup) -> None:
    with socket.create_connection(ENGINE) as plain:
        plain.sendall(b"OPTIONS sip:x@y SIP/2.0\r\n\r\n")
        plain.settimeout(within(6))
        received = b""
        while part_ := plain.recv(100):
            received += part_
        assert not received.startswith(b"SIP")


async def test_old_tls_is_refused(setup: Setup) -> None:
    context = client_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(ENGINE) as plain, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tls_certificate": None}, "sip.tls_certificate"),
        ({"tls_certificate": "/nowhere.pem"}, "sip.tls_certificate"),
        ({"tls_key": str(PHONE_KEY)}, "sip.tls_key"),
        ({"tls_ca": str(OWN_KEY)}, "sip.tls_ca"),
    ],
)
async def test_a_certificate_that_cannot_be_used_stops_the_start(
    setup: Setup, tmp_path: Path, changes: dict[str, str | None], says: str
) -> None:
    listen = [f"tls:127.0.0.1:{free_port(socket.SOCK_STREAM)}"]
    settings = {"sip": {**SIP, **changes, "listen": listen}}
    redis_url = setup.redis.connection_pool.connection_kwargs
    engine = Engine(tmp_path, f"unix://{redis_url['path']}", settings)
    engine.spawn()
    assert await engine.exited(10) != 0
    assert says in engine.log
    assert "Traceback" not in engine.log


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_reload_in_the_middle_of_a_renewal(
    setup: Setup, tmp_path: Path, workers: int
) -> None:
    """Certificate and key on disk do not match; the reload changes another key of the
    configuration."""
    key = tmp_path / "own.key"
    key.write_text(OWN_KEY.read_text(), encoding="ascii")
    unix = setup.redis.connection_pool.connection_kwargs["path"]
    settings = {"sip": {**SIP, "listen": [], "tls_key": str(key)}}
    pool = WorkerPool(tmp_path, f"unix://{unix}", workers, settings)
    tls_port = free_port(socket.SOCK_STREAM, several=workers)
    pool.change(sip={"listen": [f"udp:127.0.0.1:{pool.address[1]}", f"tls:127.0.0.1:{tls_port}"]})
    if workers == 1:
        pool._admin = pool.admins[0]
        Engine.start(pool)
    else:
        pool.start()
    caller = await setup.endpoint()
    processes = workers if workers == 1 else workers + 1
    try:
        key.write_text(OTHER_KEY.read_text(), encoding="ascii")
        for turn, (peers, code) in enumerate((("192.0.2.0/24", 403), ("127.0.0.0/8", 200)), 1):
            pool.change(sip={"trusted_peers": [peers]})
            pool.signal(signal.SIGHUP)
            done = partial(pool.logged, "reload.done", keys=["sip.trusted_peers"])
            await pool.until(lambda: len(done()) == turn * processes)  # noqa: B023
            for worker in range(workers):
                call = caller.start(
                    pool.address_of(worker), numbers.line_number(), method="OPTIONS"
                )
                await call.receive(code, "OPTIONS")
    finally:
        status = pool.stop()
    assert status == 0, pool.log
    assert not pool.complaints()


async def test_real_phones_register_and_talk_over_tls(setup: Setup) -> None:
    """baresip; the engine verifies the certificate of the phone that it calls."""
    phones = []
    for _ in range(2):
        phone = Baresip(
            setup.running_engine.directory,
            setup.line(credentials=CREDENTIALS),
            f"127.0.0.1:{TLS};transport=tls",
            password=PASSWORD,
            config=f"sip_certificate {PHONE_BOTH}\n",
        )
        setup._stack.push_async_callback(phone.stop)
        phones.append(await phone.start())
    caller, phone = phones
    await caller.dial(phone.number)
    await phone.rings()
    await phone.command("accept")
    for side in phones:
        await side.talks()
    await phone.command("hangup")
    await caller.closed()
    (record,) = await setup.records_of(phone.number)
    assert record["outcome"] == "answered"
    assert ";transport=tls" in record["legs"]


async def test_a_client_without_the_required_certificate_is_refused(
    setup: Setup, tmp_path: Path
) -> None:
    port = free_port(socket.SOCK_STREAM)
    settings = {"sip": {**SIP, "listen": [f"tls:127.0.0.1:{port}"], "tls_verify_client": True}}
    redis_url = setup.redis.connection_pool.connection_kwargs
    engine = Engine(tmp_path, f"unix://{redis_url['path']}", settings)
    engine.start()
    try:
        for known in (True, False):
            context = client_context()
            if known:
                context.load_cert_chain(PHONE, PHONE_KEY)
            caller = await StreamEndpoint.listen(
                server_tls=server_context(PHONE, PHONE_KEY), client_tls=context
            )
            call = caller.start(("127.0.0.1", port), numbers.line_number(), method="OPTIONS")
            if known:
                await call.receive(200, "OPTIONS")
            else:
                with pytest.raises(AssertionError, match="no 200"):
                    await call.receive(200, "OPTIONS", wait_s=1)
                assert not call.received
            await caller.finish()
        await until(lambda: engine.metric("renvoi_connections") == 0, "no connection is left")
    finally:
        engine.stop()
    assert not engine.complaints()


async def test_handshakes_that_never_end_take_a_bounded_number_of_places_for_a_while(
    setup: Setup, stalls: Stalls
) -> None:
    before = setup.engine.metric("renvoi_rejected_total", reason="source_connections")
    stalls.watch(setup.engine.pid)
    start_s = time.monotonic()
    made = [await asyncio.open_connection(*ENGINE, local_addr=("127.0.0.2", 0)) for _ in range(30)]
    reads = [asyncio.ensure_future(reader.read()) for reader, _ in made]
    await until(lambda: sum(read.done() for read in reads) >= 20, "the others are refused")
    waiting = {read for read in reads if not read.done()}
    assert len(waiting) == 10  # a quarter of 40
    assert setup.engine.metric("renvoi_rejected_total", reason="source_connections") == before + 20
    caller, phone = await tls_endpoint(setup), await tls_endpoint(setup)
    call = start(caller, setup.line(to=[phone.uri()]))
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    _, waiting = await asyncio.wait(reads, timeout=within(10))
    assert not waiting
    assert 3 < time.monotonic() - start_s < 10 + stalls.total_s
    await asyncio.gather(*reads, return_exceptions=True)
    for _, writer in made:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_peer_that_does_not_end_its_side_is_disconnected(setup: Setup) -> None:
    """TLS ends when both sides have said so (RFC 8446 6.1): what is no SIP gets no more time."""

    def sent() -> socket.socket:
        secure = client_context().wrap_socket(
            socket.create_connection(ENGINE), server_hostname="127.0.0.1"
        )
        secure.settimeout(within(3))
        secure.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert secure.recv(100) == b""  # the engine has ended its side
        return socket.socket(fileno=secure.detach())

    with await asyncio.to_thread(sent) as plain:
        plain.settimeout(within(3))
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.to_thread(plain.recv, 1) == b""
