"""The manager's pages for operators: metrics, readiness, logged failures."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.manager.site import Api, Manager
from tests.patience import within
from tests.scenarios.processes import ROOT, START_S, RedisServer
from tests.scenarios.sipp import HOST

PAGE = (ROOT / "docs" / "manager.md").read_text(encoding="utf-8")


def admin(manager: Manager, path: str) -> tuple[int, str]:
    url = f"http://{HOST}:{manager.admin_port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=within(10)) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metric(manager: Manager, series: str) -> float:
    status, text = admin(manager, "/metrics")
    assert status == 200
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def events(manager: Manager, name: str) -> list[dict[str, object]]:
    whole_lines, _, _ = manager.log.rpartition("\n")
    lines = (line for line in whole_lines.splitlines() if line.startswith("{"))
    return [event for line in lines if (event := json.loads(line))["event"] == name]


def test_requests_are_counted_by_area_and_class(manager: Manager, acme: Api) -> None:
    before = {
        series: metric(manager, series)
        for series in (
            'renvoi_manager_requests_total{area="api",class="2xx"}',
            'renvoi_manager_requests_total{area="api",class="4xx"}',
            'renvoi_manager_requests_total{area="page",class="2xx"}',
            'renvoi_manager_request_seconds_count{area="page"}',
        )
    }
    assert acme.get("/lines").status == 200
    assert acme.get("/lines/+33972100000").status == 404
    assert manager.get("/login").status == 200
    for series, count in before.items():
        assert metric(manager, series) == count + 1, series
    assert metric(manager, "renvoi_manager_active_requests") == 0


def test_the_page_of_the_manager_names_every_metric(manager: Manager) -> None:
    text = admin(manager, "/metrics")[1]
    exposed = set(re.findall(r"^# TYPE (renvoi_\w+) ", text, re.MULTILINE))
    assert set(re.findall(r"^\| `(renvoi_manager_\w+)`", PAGE, re.MULTILINE)) == exposed


def test_customers_do_not_reach_the_pages_of_operators(manager: Manager) -> None:
    for path in ("/metrics", "/readyz", "/calls"):
        assert manager.get(path).status == 404
    assert admin(manager, "/calls")[0] == 404
    assert admin(manager, "/healthz") == (200, "ok\n")


def test_it_is_not_ready_while_redis_is_away_and_every_5xx_is_logged(
    server: RedisServer, manager: Manager, acme: Api
) -> None:
    until(lambda: admin(manager, "/readyz") == (200, "ready\n"))
    server.kill()
    try:
        until(lambda: admin(manager, "/readyz") == (503, "redis does not answer\n"))
        assert metric(manager, "renvoi_manager_redis_up") == 0
        before = len(events(manager, "request.failed"))
        assert acme.get("/lines").status == 503
        assert manager.get("/healthz").status == 503
        until(lambda: len(events(manager, "request.failed")) == before + 2)
        event, health = events(manager, "request.failed")[-2:]
        assert event["method"] == "GET"
        assert event["path"] == "/api/v1/lines"
        assert event["status"] == 503
        assert event["level"] == "error"
        assert health["path"] == "/healthz"
        assert metric(manager, 'renvoi_manager_requests_total{area="api",class="5xx"}') >= 1
    finally:
        server.start()
    until(lambda: admin(manager, "/readyz")[0] == 200)
    assert metric(manager, "renvoi_manager_redis_up") == 1


def test_the_log_has_events_with_names_and_what_clients_do_wrong(
    server: RedisServer, tmp_path: Path
) -> None:
    manager = Manager(tmp_path, server.url)
    manager.start()
    upgrade = {"Connection": "upgrade", "Upgrade": "websocket"}
    assert manager.request("GET", "/login", headers=upgrade).status == 200
    with socket.create_connection((HOST, manager.port)) as client:
        client.sendall(b"no HTTP\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    assert manager.stop() == 0
    lines = [json.loads(line) for line in manager.log.splitlines() if line.startswith("{")]
    assert [(line["logger"], line["level"], line["event"]) for line in lines] == [
        ("manager", "info", "manager.start"),
        ("uvicorn.error", "warning", "Invalid HTTP request received."),
        ("manager", "info", "manager.end"),
    ]


@pytest.mark.parametrize("key", ["listen", "admin_listen"])
def test_a_port_that_is_taken_is_named(server: RedisServer, tmp_path: Path, key: str) -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        manager = Manager(tmp_path, server.url, **{key: f"{HOST}:{port}"})
        done = manager.fails()
    assert done.returncode == 1
    expected = f"renvoi: manager.{key}: cannot listen on {HOST}:{port}: port already in use"
    assert expected in done.stderr.splitlines()
    assert "Traceback" not in done.stderr


async def test_what_fails_without_an_answer_counts_as_500() -> None:
    """Such as an error in the application that no handler catches."""
    from engine.config import read
    from manager.health import Health
    from manager.site import Site

    config = read({"manager": {"admin_listen": "127.0.0.1:0"}})
    site = Site(config, "redis://127.0.0.1:1")
    health = Health(config, site)

    async def broken(*_: object) -> None:
        raise RuntimeError("broken")

    scope = {"type": "http", "path": "/lines", "method": "GET"}
    said: asyncio.Queue[Any] = asyncio.Queue()
    with pytest.raises(RuntimeError):
        await health.observe(broken)(scope, said.get, said.put)
    text = (await health._metrics()).decode()
    assert 'renvoi_manager_requests_total{area="page",class="5xx"} 1' in text
    assert "renvoi_manager_active_requests 0" in text
    await site.redis.aclose()


async def test_it_ends_at_every_step_of_its_check_of_redis(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py loses a cancellation at one step of sending: cancels at every step."""
    from engine.config import read
    from manager import health
    from manager.site import Site

    monkeypatch.setattr(health, "_LOOK_EVERY_S", 0)
    config = read({"manager": {"admin_listen": "127.0.0.1:0"}})
    site = Site(config, server.url)
    try:
        for steps in range(40):
            looking = health.Health(config, site)
            await looking.start()
            for _ in range(steps):
                await asyncio.sleep(0)
            async with asyncio.timeout(within(3)):
                await looking.close()
    finally:
        await site.redis.aclose()
