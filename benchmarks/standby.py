"""What `calls.standby: redis` costs: two engines side by side, one with it, take turns.

Each call is held, so that it is written to Redis after its answer and removed after its end; one
that is over within a tenth of a second is never written. The delay is from the answer, by the time
in the engine's own entry, until a client that reads a thousand times a second finds the call in
Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cases import Settings
from benchmarks.figures import Result, total
from benchmarks.load import Plan, Run, report, run
from benchmarks.processes import BenchmarkError, CpuMeter, cpu_s, yardstick_ms
from benchmarks.rig import HOST, LINES, Rig
from engine.call_entry import ActiveCall, decode
from store.client import close, connect
from store.keys import STANDBY
from store.standby import Head, StandbyCalls

RATE = 100.0
HOLD_S = 2.0
DELAY_RATE = 20.0
ENTRIES = 20
_IDLE_S = 3.0
_LOOK_S = 0.001


@dataclass
class Case:
    """One engine, and what was measured on it, per call."""

    standby: str
    rig: Rig
    idle_share: float = 0.0
    cpu_us: list[float] = field(default_factory=list)
    redis_us: list[float] = field(default_factory=list)
    commands: list[float] = field(default_factory=list)
    calls: int = 0
    lost: int = 0


def run_standby(settings: Settings) -> Iterator[Result]:
    """Only ratios within one round are compared."""
    rounds = 2 if settings.quick else 6
    with contextlib.ExitStack() as stack:
        cases = [_open(stack, settings, standby) for standby in ("none", "redis")]
        yardstick = yardstick_ms(cases[0].rig.engine_core)
        for number in range(rounds):
            for case in cases if number % 2 else reversed(cases):
                _measure(case, settings)
                report(f"{case.standby} {number + 1}/{rounds}: {case.cpu_us[-1]:.0f} us/call")
        delays, sizes = _delays(cases[1].rig, settings)
        write_us = asyncio.run(_writes(cases[1].rig, round(statistics.median(sizes))))
    without, with_it = cases
    for case in cases:
        ratios = [mine / its for mine, its in zip(case.cpu_us, without.cpu_us, strict=True)]
        more: dict[str, Any] = {"ratios": [round(ratio, 3) for ratio in ratios]}
        remark = f"calls.standby: {case.standby}"
        if case is with_it:
            shown = " ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
            commands = statistics.median(case.commands) - statistics.median(without.commands)
            middle_ms = statistics.median(delays) * 1000
            redis = statistics.median(case.redis_us) - statistics.median(without.redis_us)
            remark += (
                f": {shown} times without; Redis {redis:+.0f} us and {commands:+.2f} commands a "
                f"call; in Redis {middle_ms:.0f} ms after the answer, at most "
                f"{max(delays) * 1000:.0f} ms; {statistics.median(sizes):.0f} bytes a call; "
                f"a write {write_us[1]:.0f} us of CPU with one call, "
                f"{write_us[ENTRIES]:.0f} us with {ENTRIES}"
            )
            more |= {"redis_us": redis, "commands": commands, "delays_s": sorted(delays)}
            more |= {"write_us": write_us}
        yield Result(
            bench=f"standby-{case.standby}",
            command="python -m benchmarks standby",
            calls=case.calls,
            failed=case.lost,
            cpu_us=statistics.median(case.cpu_us),
            idle_share=case.idle_share,
            yardstick_ms=yardstick,
            remark=remark,
            more=more,
        )


def _open(stack: contextlib.ExitStack, settings: Settings, standby: str) -> Case:
    rig = Rig(settings.subject, cores=settings.cores, standby=standby, start_s=60.0)
    case = Case(standby, stack.enter_context(rig))
    run(rig, Plan(rate=300.0, calls=LINES), "warm-up")
    rig.wait_until_idle(5)
    time.sleep(0.5)
    meter = CpuMeter(_pid(rig))
    time.sleep(_IDLE_S)
    case.idle_share = meter.used_s() / meter.elapsed_s()
    return case


def _measure(case: Case, settings: Settings) -> None:
    rate = settings.rate or RATE
    calls = settings.calls or round(rate * (4 if settings.quick else 20))
    plan = Plan(rate=rate, calls=calls, hold_s=settings.hold_s or HOLD_S)
    redis = [case.rig.children[0].pid]
    redis_before, commands_before = cpu_s(redis), _commands(case.rig)
    meter = CpuMeter(_pid(case.rig))
    outcome = run(case.rig, plan, f"standby {case.standby}")
    time.sleep(0.5)  # the last records are written
    used_s = meter.used_s() - case.idle_share * meter.elapsed_s()
    started = max(outcome.last.started, 1)
    case.calls += started
    case.lost += outcome.lost
    case.cpu_us.append(used_s / started * 1e6)
    case.redis_us.append((cpu_s(redis) - redis_before) / started * 1e6)
    case.commands.append((_commands(case.rig) - commands_before) / started)


def _commands(rig: Rig) -> int:
    """The scripts that Redis has run so far. The engine's other regular commands are the same in
    both."""
    with rig.redis_client() as client:
        stats: Any = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))


def _delays(rig: Rig, settings: Settings) -> tuple[list[float], list[float]]:
    """Seconds from the answer of each call until it is in Redis, and the bytes of its entry."""
    calls = round(DELAY_RATE * (3 if settings.quick else 15))
    running = Run(rig, Plan(rate=DELAY_RATE, calls=calls, hold_s=HOLD_S), "standby, delay")
    found: dict[bytes, float] = {}
    sizes: list[float] = []
    with rig.redis_client() as client:
        (key,) = list(client.scan_iter(f"{STANDBY}*:*-*", _type="HASH"))
        load = threading.Thread(target=_to_the_end, args=(running,))
        load.start()
        while load.is_alive():
            ids: Any = client.hkeys(key)
            now = time.time()
            for id_ in ids:
                if id_ and id_ not in found:
                    whole: Any = client.hget(key, id_)
                    entry = decode(whole)
                    assert isinstance(entry, ActiveCall)
                    assert entry.answered is not None
                    found[id_] = now - entry.answered
                    sizes.append(len(whole))
            time.sleep(_LOOK_S)
    outcome = running.finish()
    if not found:
        raise BenchmarkError(f"standby: no call came to Redis: {outcome.errors}")
    left = total(rig.metrics(), "renvoi_standby_waiting")
    report(f"standby: {len(found)} of {outcome.last.started} calls seen, {left:.0f} changes wait")
    return list(found.values()), sizes


async def _writes(rig: Rig, size: int) -> dict[int, float]:
    """CPU of this process, in us, for one write of so many calls of that size."""
    redis = connect(f"redis://{HOST}:{rig.redis_port}/0")
    calls, found = StandbyCalls(redis, 60), {}
    for count in (1, ENTRIES):
        entries = {f"0-bench-{n}": bytes(size) for n in range(count)}
        rounds = 2000 // count
        for timed in (False, True):
            began = time.process_time()
            for _ in range(rounds):
                head = Head(0, time.time(), time.monotonic())
                await calls.write("bench", "0-bench", head, entries, [])
            if timed:
                found[count] = (time.process_time() - began) / rounds * 1e6
    await calls.forget("bench", "0-bench")
    await close(redis)
    return found


def _to_the_end(running: Run) -> None:
    while running.step():
        pass


def _pid(rig: Rig) -> int:
    assert rig.engine is not None
    return rig.engine.pid
