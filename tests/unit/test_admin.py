"""The operator's HTTP: four pages, robust against any request."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine import admin as admin_module
from engine.admin import AddressInUse, Admin
from engine.config import Address
from engine.telemetry.metrics import Metrics
from tests.patience import within


class Engine:
    """The engine, as the admin server uses it."""

    reason: str | None = None
    live: list[dict[str, Any]] = []  # noqa: RUF012 (replaced, never changed)

    def ready(self) -> str | None:
        return self.reason

    async def calls(self) -> bytes:
        return json.dumps(self.live).encode()


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def server(engine: Engine) -> AsyncIterator[Admin]:
    server = Admin(Address("127.0.0.1", 0), Metrics().render, engine.ready, engine.calls)
    await server.start()
    yield server
    await server.close()


async def exchange(server: Admin, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), within(5))
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def get(server: Admin, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    answer = await exchange(server, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


async def test_metrics_page_is_what_prometheus_reads(server: Admin) -> None:
    status, headers, body = await get(server, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    assert int(headers["content-length"]) == len(body)
    assert b"renvoi_active_calls" in body


async def test_health_and_readiness(server: Admin, engine: Engine) -> None:
    assert (await get(server, "/healthz"))[0] == 200
    assert (await get(server, "/readyz"))[0] == 200
    engine.reason = "draining"
    status, _, body = await get(server, "/readyz")
    assert (status, body) == (503, b"draining\n")
    assert (await get(server, "/healthz"))[0] == 200


async def test_calls_page_is_json(server: Admin, engine: Engine) -> None:
    assert json.loads((await get(server, "/calls"))[2]) == []
    engine.live = [{"id": "1", "called": "+33972101001"}]
    status, headers, body = await get(server, "/calls?pretty")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == engine.live


async def test_a_failing_page_is_a_500_and_the_next_one_works(server: Admin) -> None:
    server._calls = lambda: 1 / 0  # type: ignore[assignment]
    assert (await get(server, "/calls"))[0] == 500
    assert (await get(server, "/healthz"))[0] == 200


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /nothing HTTP/1.1", 404),
        (b"POST /metrics HTTP/1.1", 405),
        (b"GET /metrics", 400),
        (b"\x16\x03\x01\x02\x00 tls", 400),
        (b"INVITE sip:x@y SIP/2.0", 400),
    ],
)
async def test_wrong_requests_get_one_answer(
    server: Admin, request_line: bytes, status: int
) -> None:
    answer = await exchange(server, request_line + b"\r\n\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert (await get(server, "/healthz"))[0] == 200


@pytest.mark.parametrize(("page", "expected"), [("/metrics", 200), ("/nothing", 404)])
async def test_head_has_no_body(server: Admin, page: str, expected: int) -> None:
    status, headers, body = await get(server, page, "HEAD")
    assert (status, body) == (expected, b"")
    assert int(headers["content-length"]) > 0


async def test_an_endless_head_is_cut_at_8_kilobytes(server: Admin) -> None:
    answer = await exchange(server, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert (await get(server, "/healthz"))[0] == 200


async def test_a_silent_client_is_closed(server: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_module, "HEAD_TIMEOUT_S", 0.05)
    assert (await exchange(server, b"GET /metr")).startswith(b"HTTP/1.1 408 ")


async def test_too_many_connections_are_closed_and_room_comes_back(
    server: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_module, "CONNECTIONS", 2)
    held = [
        await asyncio.open_connection(server.address.host, server.address.port) for _ in range(2)
    ]
    async with asyncio.timeout(within(2)):  # until the server has them
        while await exchange(server, b"GET /healthz HTTP/1.1\r\n\r\n") != b"":
            await asyncio.sleep(0.02)
    for _, writer in held:
        writer.close()
    async with asyncio.timeout(within(2)):
        while b"200" not in await exchange(server, b"GET /healthz HTTP/1.1\r\n\r\n"):
            await asyncio.sleep(0.02)


async def test_a_busy_port_is_named(server: Admin, engine: Engine) -> None:
    second = Admin(server.address, Metrics().render, engine.ready, engine.calls)
    with pytest.raises(AddressInUse, match=f"127.0.0.1:{server.address.port}: port already in use"):
        await second.start()
    await second.close()


async def test_close_does_not_wait_for_clients_that_stay(engine: Engine) -> None:
    server = Admin(Address("127.0.0.1", 0), Metrics().render, engine.ready, engine.calls)
    await server.start()
    _, writer = await asyncio.open_connection(server.address.host, server.address.port)
    await asyncio.sleep(0.02)
    await asyncio.wait_for(server.close(), within(1))
    writer.close()
    with pytest.raises(OSError):
        await asyncio.open_connection(server.address.host, server.address.port)
