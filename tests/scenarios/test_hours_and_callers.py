"""Hours and ends of forwards: every worker switches at the exact second, without a write. Forwards
for certain callers."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Endpoint, Headers
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup
from tests.scenarios.worker_pool import WorkerPool

WORKERS = 2
AHEAD_S, AFTER_S = 12, 4
BLOCKED, AWAY = 603, 480
REJECT: dict[str, Any] = {"on": True, "to": {"kind": "reject"}}


@pytest.fixture(scope="module")
def running_engine(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    shared_redis.client.flushall()
    directory = tmp_path_factory.mktemp("hours")
    pool = WorkerPool(directory, shared_redis.url, WORKERS, {})
    pool.start()
    try:
        yield RunningEngine(pool, shared_redis.client, directory)
        assert pool.status() is None, pool.log
    finally:
        status = pool.stop()
    assert status == 0, pool.log


@pytest.fixture
async def setup(running_engine: RunningEngine) -> AsyncIterator[Setup]:
    async with Setup(running_engine) as setup:
        yield setup


async def call_until(
    caller: Endpoint, address: Any, line: str, end: float, headers: Headers
) -> list[tuple[float, float, int]]:
    """Place calls one by one: returns when each was sent and answered, and the result."""
    calls: list[tuple[float, float, int]] = []
    # Until the end, and until one was sent after the moment, however slow the machine is.
    while (sent := time.time()) < end or calls[-1][0] < end - AFTER_S:
        call = caller.start(address, line, body=OFFER_BYTES, headers=headers)
        code = (await call.final()).code
        calls.append((sent, time.time(), code))
        await asyncio.sleep(0.02)
    return calls


async def test_two_workers_switch_at_the_same_second_without_a_write(setup: Setup) -> None:
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    at = math.ceil(time.time()) + AHEAD_S
    moment = datetime.fromtimestamp(at, UTC)
    opened = f"{moment:%Y-%m-%dT%H:%M:%S}/2099-01-01T00:00:00"
    spam = numbers.outside_number()
    document = {
        "name": "acme",
        "calendars": {"open": {"zone": "UTC", "open": [opened]}},
        "lists": {"spam": [spam[:-2] + "*"]},
    }
    setup.redis.set("fleet:acme", json.dumps(document))
    await setup.know_fleet("acme", *map(pool.address_of, range(WORKERS)))
    asserted = [("P-Asserted-Identity", f"<sip:{spam}@renvoi.test>")]
    # The forward, whether it applies before the moment, and the caller's headers
    cases: list[tuple[Any, bool, Headers]] = [
        (REJECT | {"until": moment.isoformat()}, True, []),
        (REJECT | {"when": "open"}, False, []),
        ([REJECT | {"when": "beach"}, REJECT | {"when": "not open"}], True, []),
        (REJECT | {"when": "open", "callers": "list:spam"}, False, asserted),
    ]
    lines = [setup.line(forwards={"unconditional": rules}) for rules, _, _ in cases]
    blocks = {"forwards": {"unconditional": REJECT}}
    for profile, before in (
        ([{"use": "blocks", "until": moment.isoformat()}], True),
        ([{"use": "free", "until": moment.isoformat()}, {"use": "blocks"}], False),
        ([{"use": "blocks", "when": "open"}, {"use": "free"}], False),
    ):
        profiles = {"blocks": blocks, "free": {}}
        own = {} if before else blocks["forwards"]
        lines.append(setup.line(profiles=profiles, profile=profile, forwards=own))
        cases.append((None, before, []))
    tasks, keys = [], []
    for line, (_, before, headers) in zip(lines, cases, strict=True):
        for worker in range(WORKERS):
            caller = await setup.endpoint()
            end = at + AFTER_S
            tasks.append(call_until(caller, pool.address_of(worker), line, end, headers))
            keys.append((line, worker, before))
    results = await asyncio.gather(*tasks)
    for (line, worker, before), calls in zip(keys, results, strict=True):
        first, then = (BLOCKED, AWAY) if before else (AWAY, BLOCKED)
        early = {code for _, answered, code in calls if answered < at}
        late = {code for sent, _, code in calls if sent >= at}
        assert (early, late) == ({first}, {then}), (line, worker)


async def test_who_calls_is_decided_by_the_trusted_identity(setup: Setup) -> None:
    """Each of several lines refuses one class of callers."""
    friend, stranger = numbers.outside_number(), numbers.outside_number()
    setup.redis.set("fleet:hosts", json.dumps({"name": "hosts", "lists": {"vip": [friend]}}))
    await setup.know_fleet("hosts")
    peer = setup.line(fleet="hosts")
    other = setup.line(fleet="globex")
    classes = ("fleet", "outside", "withheld", "list:vip", "not list:vip")
    lines = {
        callers: setup.line(
            fleet="hosts", forwards={"unconditional": REJECT | {"callers": callers}}
        )
        for callers in classes
    }

    def asserted(number: str, *more: tuple[str, str]) -> Headers:
        return [("P-Asserted-Identity", f"<sip:{number}@renvoi.test>"), *more]

    anonymous = '"Anonymous" <sip:anonymous@anonymous.invalid>'
    private = ("Privacy", "id")
    calls: list[tuple[dict[str, Any], set[str]]] = [
        ({"headers": asserted(peer)}, {"fleet", "not list:vip"}),
        ({"headers": asserted(other)}, {"outside", "not list:vip"}),
        ({"headers": asserted(stranger)}, {"outside", "not list:vip"}),
        ({"headers": asserted(friend)}, {"outside", "list:vip"}),
        ({"headers": asserted(friend, private)}, {"withheld", "not list:vip"}),
        ({"headers": asserted(peer, private)}, {"withheld", "not list:vip"}),
        ({"from_": anonymous}, {"withheld", "not list:vip"}),
        # A From has a number, but proves nothing.
        ({"caller": friend}, {"outside", "not list:vip"}),
        ({"caller": peer}, {"outside", "not list:vip"}),
    ]
    caller = await setup.endpoint()
    own, phone = await setup.line_with_phone(fleet="hosts")
    callers_at = [(caller, fields, expected) for fields, expected in calls]
    # From counts in a call from a registered phone of that line, which is not in memory yet.
    callers_at.append((phone, {"caller": own}, {"fleet", "not list:vip"}))
    for endpoint, fields, expected in callers_at:
        found = set()
        for callers, line in lines.items():
            call = endpoint.start(setup.engine.address, line, body=OFFER_BYTES, **fields)
            code = (await call.final()).code
            assert code in (BLOCKED, AWAY)
            found |= {callers} if code == BLOCKED else set()
        assert found == expected, fields
