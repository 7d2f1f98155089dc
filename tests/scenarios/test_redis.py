"""Rules that change during calls, and a Redis that goes away and comes back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from tests.patience import Stalls, within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import RunningEngine, Setup, to_number, to_voicemail


@pytest.fixture
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """A Redis for one test, which may kill and pause it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), keeps=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def lone(
    server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Setup]:
    """An engine on that Redis; nothing may be left after the test."""
    directory = tmp_path_factory.mktemp("engine")
    engine = Engine(directory, server.url)
    engine.start()
    running_engine = RunningEngine(engine, server.client, directory)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup
        assert engine.status() is None, engine.log
        assert engine.calls() == []
        assert engine.metric("renvoi_active_calls") == 0
    finally:
        status = engine.stop()
    assert status == 0, engine.log
    assert not engine.complaints()


async def reaches(setup: Setup, line: str, kind: str, user: str) -> None:
    """One call to the line reaches that server with that user part."""
    call = await setup.call(line)
    away = await setup.server(kind).incoming(user)
    await connect(call, away)
    await part(call, away)


async def test_a_changed_rule_is_in_force_when_the_engine_says_so(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    setup.change(line, forwards={"unconditional": to_voicemail(line)})
    await reaches(setup, line, "voicemail", line)
    target = numbers.outside_number()
    setup.change(line, forwards={"unconditional": to_number(target)})
    await setup.settle()
    await reaches(setup, line, "number", target)
    setup.change(line, forwards={})
    await setup.settle()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_a_changed_registration_is_in_force_within_a_second(setup: Setup) -> None:
    line, old = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await old.incoming()
    await connect(call, ring)
    await part(call, ring)
    new = await setup.endpoint()
    setup.redis.delete(f"reg:{line}")
    setup.register(line, new.uri())
    await setup.settle()
    call = await setup.call(line)
    ring = await new.incoming()
    await connect(call, ring)
    await part(call, ring)
    assert len(old.invited()) == 1


async def test_a_line_that_appears_and_goes_is_known(setup: Setup) -> None:
    line = numbers.line_number()
    call = await setup.call(line)
    assert (await call.final()).code == 404
    setup.line(number=line, forwards={"unconditional": to_voicemail(line)})
    await setup.settle()
    await reaches(setup, line, "voicemail", line)
    setup.redis.delete(f"line:{line}")
    await setup.settle()
    call = await setup.call(line)
    assert (await call.final()).code == 404


async def test_a_target_that_is_no_longer_allowed_is_off(setup: Setup) -> None:
    box = setup.line()
    line = setup.line(forwards={"unconditional": to_voicemail(box)})
    await reaches(setup, line, "voicemail", box)
    setup.change(box, fleet="globex")
    await setup.settle()
    call = await setup.call(line)
    assert (await call.final()).code == 480


@pytest.mark.parametrize(
    "garbage",
    ["{not json", "[]", '{"number": 7}', '{"fleet": "acme"}', '{"forwards": {"busy": 1}}'],
)
async def test_a_bad_document_is_refused_and_the_last_good_one_serves(
    setup: Setup, garbage: str
) -> None:
    line = numbers.line_number()
    setup.line(number=line, forwards={"unconditional": to_voicemail(line)})
    await reaches(setup, line, "voicemail", line)
    before = setup.engine.metric("renvoi_documents_refused_total", kind="line")
    setup.redis.set(f"line:{line}", garbage)
    await setup.settle()
    await reaches(setup, line, "voicemail", line)
    assert setup.engine.metric("renvoi_documents_refused_total", kind="line") > before


@pytest.mark.parametrize("kind", ["string", "list", "member"])
async def test_a_bad_registration_does_no_harm(setup: Setup, kind: str) -> None:
    line = setup.line(forwards={})
    phone = await setup.endpoint()
    setup.change(line, forwards={"unreachable": to_voicemail(line)})
    if kind == "string":
        setup.redis.set(f"reg:{line}", "sip:x@y")
    elif kind == "list":
        setup.redis.rpush(f"reg:{line}", "sip:x@y")
    else:
        setup.register(line, "not a uri <<>>\x00")
        setup.register(line, phone.uri())
        call = await setup.call(line)
        ring = await phone.incoming()
        await connect(call, ring)
        await part(call, ring)
        return
    await reaches(setup, line, "voicemail", line)


async def test_a_line_never_seen_good_is_refused_and_others_are_served(setup: Setup) -> None:
    line = numbers.line_number()
    setup.redis.set(f"line:{line}", json.dumps({"number": line, "fleet": 3}))
    call = await setup.call(line)
    assert (await call.final()).code in (404, 500)
    other = numbers.line_number()
    setup.line(number=other, forwards={"unconditional": to_voicemail(other)})
    await reaches(setup, other, "voicemail", other)


async def test_redis_killed_under_traffic_loses_no_call_to_a_known_line(
    lone: Setup, server: RedisServer
) -> None:
    lines: list[tuple[str, Endpoint]] = []
    for _ in range(20):
        line, phone = await lone.line_with_phone()
        limit = {"max_calls": 10} if len(lines) % 2 else {}  # it gets ten calls
        lone.change(line, forwards={"busy": to_voicemail(line)}, **limit)
        lines.append((line, phone))
    placed: list[str] = []

    async def one(index: int) -> None:
        line, phone = lines[index % len(lines)]
        call = await lone.call(line)
        placed.append(call.call_id)
        # this may take long on a slow machine, but the call must arrive
        ring = await phone.incoming(wait_s=5)
        if index % 3 == 0:
            ring.respond(486)
            away = await lone.server("voicemail").incoming(line, wait_s=5)
            await connect(call, away)
            await part(call, away)
        else:
            await connect(call, ring)
            await part(ring, call)

    for line, phone in lines:
        call = await lone.call(line)
        ring = await phone.incoming()
        await connect(call, ring)
        await part(call, ring)
    calls: list[asyncio.Task[None]] = []
    for index in range(200):  # 4 seconds of traffic: Redis is down from 1 to 2.5
        calls.append(asyncio.create_task(one(index)))
        if index == 50:
            server.kill()
        if index == 125:
            await asyncio.to_thread(server.start)
        await asyncio.sleep(0.02)
    results = await asyncio.gather(*calls, return_exceptions=True)
    lost = [result for result in results if result is not None]
    assert not lost, f"{len(lost)} of 200 lost: {lost[:3]}"

    # every record is in Redis, once, now that it is back
    deadline = time.monotonic() + within(10)
    while lone.engine.metric("renvoi_redis_up") != 1 and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    assert lone.engine.metric("renvoi_redis_up") == 1
    line, phone = lines[0]
    lone.change(line, forwards={"unconditional": to_voicemail(line)})
    await lone.settle()
    await reaches(lone, line, "voicemail", line)
    for call_id in placed:
        await lone.record(call_id)  # the last ones are written shortly after their end
    ids = [record["call_id"] for record in lone.records()]
    assert [ids.count(call_id) for call_id in placed] == [1] * 200


async def test_while_redis_is_away_known_lines_go_on_and_unknown_ones_get_503(
    lone: Setup, server: RedisServer
) -> None:
    line = numbers.line_number()
    lone.line(number=line, forwards={"unconditional": to_voicemail(line)})
    await reaches(lone, line, "voicemail", line)
    server.kill()
    await reaches(lone, line, "voicemail", line)
    call = await lone.call(numbers.line_number())
    final = await call.final()
    assert (final.code, final.one("Retry-After")) == (503, "0")
    deadline = time.monotonic() + within(4)
    while lone.engine.metric("renvoi_redis_up") != 0 and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    assert lone.engine.metric("renvoi_redis_up") == 0
    assert lone.engine.get("/readyz")[0] == 200
    await asyncio.sleep(1)
    assert lone.engine.metric("renvoi_rules_age_seconds") >= 1
    await reaches(lone, line, "voicemail", line)
    server.start()


async def test_a_redis_that_hangs_delays_no_call_to_a_known_line(
    lone: Setup, server: RedisServer, stalls: Stalls
) -> None:
    line, phone = await lone.line_with_phone(max_calls=3)
    call = await lone.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    stalls.watch(lone.engine.pid)
    server.pause()
    try:
        for _ in range(5):
            start = time.monotonic()
            call = await lone.call(line)
            ring = await phone.incoming()
            assert time.monotonic() - start < 0.3 + stalls.total_s
            await connect(call, ring)
            await part(call, ring)
    finally:
        server.resume()
    await lone.record(call.call_id, wait_s=10)


async def test_cancel_comes_before_a_look_up_in_progress(lone: Setup, server: RedisServer) -> None:
    line, phone = await lone.line_with_phone()
    before = lone.engine.metric("renvoi_races_total", kind="cancel_in_lookup")
    server.pause()
    try:
        call = await lone.call(line)
        call.cancel()
        await call.receive(200, "CANCEL")
        assert (await call.final()).code == 487
    finally:
        server.resume()
    await asyncio.sleep(0.3)
    assert not phone.invited()
    await lone.ended(call.call_id, condition="none", outcome="cancelled", code=487)
    assert lone.engine.metric("renvoi_races_total", kind="cancel_in_lookup") == before + 1


async def test_a_change_made_while_the_connection_was_cut_is_not_missed(
    lone: Setup, server: RedisServer
) -> None:
    line = numbers.line_number()
    lone.line(number=line, forwards={"unconditional": to_voicemail(line)})
    await reaches(lone, line, "voicemail", line)
    target = numbers.outside_number()
    with lone.redis.pipeline(transaction=True) as pipe:
        pipe.client_kill_filter(_type="normal", skipme=True)
        pipe.client_kill_filter(_type="pubsub")
        pipe.set(
            f"line:{line}",
            json.dumps(
                {
                    "number": line,
                    "fleet": "acme",
                    "forwards": {"unconditional": to_number(target)},
                }
            ),
        )
        pipe.execute()
    await lone.settle()
    await reaches(lone, line, "number", target)
