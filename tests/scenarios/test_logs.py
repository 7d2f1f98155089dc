"""The content of the log of a whole run, and what it must never contain."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from engine.registration.digest import ha1
from tests.scenarios.continued import until
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.message import Message
from tests.scenarios.processes import ROOT, Engine, RedisServer
from tests.scenarios.setup import RunningEngine, Setup, to_number, to_voicemail

REDIS_PASSWORD, PHONE_PASSWORD = "hunter2redis", "hunter2phone"
# An engine that raises an exception for the lines of one fleet.
CRASHING = """
import sys
from engine import call
decide = call.decide
def fail(line, situation, targets):
    if line.fleet == "crash":
        raise RuntimeError(f"no decision for {line.number}")
    return decide(line, situation, targets)
call.decide = fail
from engine.cli import main
sys.exit(main())
"""
NUMBERS = re.compile(r"9721\d{5}|61230\d{4}|3140\d{6}|186\d{6}")  # tests/scenarios/numbers.py


@pytest.fixture
async def masked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Setup]:
    """An engine whose log hides numbers, with a Redis that requires a password."""
    directory = tmp_path_factory.mktemp("masked")
    server = RedisServer(directory)
    server.start()
    server.client.config_set("requirepass", REDIS_PASSWORD)
    path = server.url.removeprefix("unix://")
    server.client = redis.Redis(
        unix_socket_path=path, password=REDIS_PASSWORD, decode_responses=True
    )
    settings: dict[str, Any] = {
        "log": {"level": "debug", "numbers": "masked"},
        "sip": {"registrar_peers": ["127.0.0.1/32"]},
    }
    url = f"unix://:{REDIS_PASSWORD}@{path}?password={REDIS_PASSWORD}"
    engine = Engine(directory, url, settings)
    engine.program = ["-c", CRASHING]
    engine.start()
    running_engine = RunningEngine(engine, server.client, directory)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup
    finally:
        engine.stop()
        server.stop()


async def a_bit_of_everything(setup: Setup) -> str:
    """Successful and failed calls, refused requests, bad documents, a crash.

    Returns the Call-ID of the crashed call."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    away = setup.line(forwards={"unreachable": to_number("+33612300001")})
    call = await setup.call(away)
    ring = await setup.server("number").incoming()
    await connect(call, ring)
    await part(call, ring)
    voicemail = setup.line(forwards={"unconditional": to_voicemail("+33972100000")})
    await (await setup.call(voicemail)).final()
    bad = setup.line(max_calls="+33972100001")
    await (await setup.call(bad)).final()
    secret = setup.line(credentials={"user": "a", "ha1": PHONE_PASSWORD})
    await (await setup.call(secret)).final()
    broken = setup.line(to=["sip:+33972100001:" + PHONE_PASSWORD + "@no-such-host.invalid"])
    await (await setup.call(broken)).final(wait_s=10)
    stranger = await setup.endpoint("127.0.0.2")
    await stranger.start(setup.engine.address, line).final()
    caller = await setup.endpoint()
    odd = caller.start(setup.engine.address, f"+33972100009:{PHONE_PASSWORD}", method="WATCH")
    await odd.final("WATCH")
    await register(setup, caller)
    crashing = setup.line(fleet="crash")
    crashed = await setup.call(crashing)
    assert (await crashed.final()).code == 500
    return crashed.call_id


async def register(setup: Setup, phone: Endpoint) -> None:
    known = ha1("MD5", "phone", "renvoi", PHONE_PASSWORD)
    number = setup.line(credentials={"user": "phone", "ha1": known})
    for response in ("0" * 32, known):
        call = phone.start(
            setup.engine.address,
            number,
            method="REGISTER",
            headers=[
                (
                    "Authorization",
                    f'Digest username="phone", realm="renvoi", nonce="{PHONE_PASSWORD}", '
                    f'uri="sip:renvoi", response="{response}"',
                )
            ],
        )
        answer: Message = await call.final("REGISTER")
        assert answer.code in (401, 403)
    setup.secrets = (PHONE_PASSWORD, REDIS_PASSWORD, known)  # type: ignore[attr-defined]


async def test_numbers_are_hidden_and_secrets_never_logged(masked: Setup) -> None:
    crashed = await a_bit_of_everything(masked)
    masked.engine.stop()
    events = masked.engine.events()
    kinds = {event["event"] for event in events}
    assert {"call.end", "call.begin", "call.decision", "leg.dialled", "request.rejected",
            "document.refused", "call.error", "worker.start"} <= kinds  # fmt: skip
    for event in events:
        text = json.dumps({k: v for k, v in event.items() if k not in ("call", "call_id")})
        assert not NUMBERS.search(text), event
        for secret in masked.secrets:  # type: ignore[attr-defined]
            assert secret not in text, event
    (error,) = [event for event in events if event["event"] == "call.error"]
    assert error["call_id"] == crashed
    assert error["called"].startswith("+339")
    (cause,) = error["exception"]
    assert cause["type"] == "RuntimeError"
    assert "no decision for +339" in cause["text"]
    assert any("engine/call.py" in frame for frame in cause["frames"])
    (end,) = [e for e in events if e["event"] == "call.end" and e["call_id"] == crashed]
    assert (end["outcome"], end["code"]) == ("failed", 500)


class Unread(Engine):
    """An engine whose output goes to a pipe that is not read."""

    def spawn(self) -> None:
        self.reader, writer = os.pipe()
        command = [sys.executable, "-m", "engine.cli", "serve", "--config", str(self._config)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=writer, stderr=writer)
        os.close(writer)


async def test_an_output_that_nobody_reads_stops_no_call_and_no_end(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("unread")
    settings: dict[str, dict[str, Any]] = {
        "log": {"level": "debug"},
        "timers": {"drain_s": 600},
    }
    engine = Unread(directory, shared_redis.url, settings)
    engine.start()
    running_engine = RunningEngine(engine, shared_redis.client, directory)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            line, phone = await setup.line_with_phone()
            for _ in range(120):  # each logs more than a kilobyte; the pipe holds 64
                call = await setup.call(line)
                ring = await phone.incoming()
                ring.respond(486)
                assert (await call.final()).code == 486
            await asyncio.sleep(0.2)
            engine.signal(signal.SIGTERM)
            assert await engine.exited(10) == 0  # not after drain_s
    finally:
        engine.stop()
        held = 0
        os.set_blocking(engine.reader, False)
        while piece := os.read(engine.reader, 1 << 20):
            held += len(piece)
        os.close(engine.reader)
    assert held >= 40_000  # the pages of the pipe are not all full


async def test_the_level_and_the_policy_change_while_it_runs(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("changing")
    engine = Engine(directory, shared_redis.url)
    engine.start()
    running_engine = RunningEngine(engine, shared_redis.client, directory)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            line, phone = await setup.line_with_phone()

            async def call() -> list[dict[str, Any]]:
                made = await setup.call(line)
                (await phone.incoming()).respond(486)
                await made.final()

                def logged() -> list[dict[str, Any]]:
                    return [e for e in engine.events() if e.get("call_id") == made.call_id]

                await until(lambda: any(e["event"] == "call.end" for e in logged()), "call.end")
                return logged()

            assert [e["event"] for e in await call()] == ["call.end"]
            config = json.loads(engine._config.read_text())
            config["log"] |= {"sample": 1, "numbers": "none"}
            engine._config.write_text(json.dumps(config))
            engine.signal(signal.SIGHUP)
            await until(lambda: any(e["event"] == "reload.done" for e in engine.events()), "reload")
            events = await call()
            assert [e["event"] for e in events][:2] == ["call.begin", "call.decision"]
            assert events[-1]["called"] == "***"
    finally:
        engine.stop()
