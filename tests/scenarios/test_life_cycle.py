"""One worker alone: reload by SIGHUP, messages to systemd, and the calls of a killed worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import within
from tests.scenarios.continued import is_up, noted
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import ROOT, Engine, RedisServer
from tests.scenarios.setup import RunningEngine, Setup
from tests.scenarios.worker_pool import WorkerPool


@pytest.fixture
def notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """The messages to systemd so far."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        messages: list[str] = []

        def read() -> None:
            """At once, because the socket holds only ten."""
            while message := end.recv(1000):
                messages.append(message.decode())

        reader = threading.Thread(target=read)
        reader.start()
        yield lambda: list(messages)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(tmp_path / "notify"))
        reader.join()


@pytest.fixture
async def lone(
    notified: Callable[[], list[str]], shared_redis: RedisServer, tmp_path: Path
) -> AsyncIterator[Setup]:
    engine = Engine(tmp_path, shared_redis.url, {"timers": {"drain_s": 5}})
    engine.start()
    running_engine = RunningEngine(engine, shared_redis.client, tmp_path)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup
    finally:
        engine.stop()


async def stand(setup: Setup) -> tuple[Call, Call]:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    return call, ring


def change(engine: Engine, section: str, **keys: Any) -> None:
    config = json.loads(engine._config.read_text("utf-8"))
    config.setdefault(section, {}).update(keys)
    engine._config.write_text(json.dumps(config), "utf-8")


async def until(condition: Callable[[], Any], within_s: float = 10) -> None:
    deadline = asyncio.get_running_loop().time() + within(within_s)
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)


def events(engine: Engine, name: str) -> list[dict[str, Any]]:
    return [event for event in engine.events() if event["event"] == name]


async def test_sighup_and_systemd(lone: Setup, notified: Callable[[], list[str]]) -> None:
    engine = lone.engine
    await until(lambda: any(text.startswith("READY=1\nSTATUS=1 worker") for text in notified()))
    await until(lambda: notified().count("WATCHDOG=1") > 2)
    call, ring = await stand(lone)
    # live
    change(engine, "limits", calls=1)
    engine.signal(signal.SIGHUP)
    await until(lambda: events(engine, "reload.done"))
    assert events(engine, "reload.done")[-1]["keys"] == ["limits.calls"]
    await until(lambda: any(text.startswith("RELOADING=1\nMONOTONIC_USEC=") for text in notified()))
    line, _ = await lone.line_with_phone()
    assert (await (await lone.call(line)).final()).code == 503
    change(engine, "limits", calls=100)
    engine.signal(signal.SIGHUP)
    await until(lambda: len(events(engine, "reload.done")) == 2)
    # no part of a change is applied if another part needs a restart
    change(engine, "limits", calls=1)
    change(engine, "numbering", country="BE")
    change(engine, "sip", nameservers=["127.0.0.1"])
    engine.signal(signal.SIGHUP)
    await until(lambda: events(engine, "reload.refused"))
    reason = "sip.nameservers, numbering.country: a change needs a restart"
    assert events(engine, "reload.refused")[-1]["error"] == reason
    await until(lambda: f"renvoi: reload refused: {reason}" in engine.log)
    other_call, other_ring = await stand(lone)  # the limit is unchanged
    for one, two in ((call, ring), (other_call, other_ring)):
        await part(one, two)
    engine.signal(signal.SIGTERM)
    assert await engine.exited(5) == 0
    stopping = "STOPPING=1\nSTATUS=draining, 0 calls"
    await until(lambda: any(text.startswith(stopping) for text in notified()))


async def test_calls_that_the_next_engine_may_not_continue_are_recorded_by_it(lone: Setup) -> None:
    engine = lone.engine
    change(engine, "timers", takeover_s=0)
    call, ring = await stand(lone)
    await noted(lone, call, is_up)
    engine.signal(signal.SIGKILL)
    await engine.exited(5)
    assert [r for r in lone.records() if r["call_id"] == call.call_id] == []
    engine.start()
    record = await lone.ended(call.call_id, outcome="failed", why="worker_died", code="500")
    assert record["legs"][0]["code"] == 200
    await until(lambda: events(engine, "journal.completed"))
    assert events(engine, "journal.completed")[-1]["failed"] == 1
    again, again_ring = await stand(lone)
    await part(again, again_ring)
    await lone.ended(again.call_id, outcome="answered")
    for left in (call, ring):
        left.endpoint.calls.clear()


async def test_workers_share_the_supervisors_redis_and_the_commands_reach_all(
    notified: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC")
    pool = WorkerPool(tmp_path, "embedded", 2)
    pool.start()
    try:
        await until(lambda: any(t.startswith("READY=1\nSTATUS=2 of 2 workers") for t in notified()))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RENVOI_")}

        def renvoi(*words: str) -> str:
            command = [sys.executable, "-m", "engine.cli", *words, "--config", str(pool._config)]
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        (tmp_path / "line.json").write_text('{"number": "+33972101001", "fleet": "acme"}')
        renvoi("line", "set", str(tmp_path / "line.json"))
        assert json.loads(renvoi("calls", "--json")) == []
        assert "supervisor's HTTP on" in renvoi("check")
        pid = pool.kill(1)
        await pool.replaced(1, pid)
        await pool.until(lambda: pool.metric("renvoi_redis_up") == 1)
        # the supervisor dies: its workers drain and end by themselves
        pids = [pool.pid_of(worker) for worker in range(2)]
        pool.signal(signal.SIGKILL)
        await pool.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 30)
        assert len(pool.logged("supervisor.gone")) == 2
    finally:
        pool.stop()
