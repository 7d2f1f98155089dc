"""Measures a store of rules alone: look-ups among many lines, also during an import.

`python -m benchmarks.lookups URL LINES CACHE VISITS` prints one JSON line. A further argument is a
command that runs during the look-ups; the delay of the loop and the memory are then measured too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import shlex
import sys
import time
from pathlib import Path

import uvloop

from rules.numbers import Numbering
from store.client import connect
from store.lines import Store

AT_ONCE = 100
TIMED = 2000
HOT = 500
_PAGE = os.sysconf("SC_PAGE_SIZE")


def number_of(place: int) -> str:
    """The number of the nth line that the benchmark writes."""
    return f"+3397{place:07d}"


async def main(url: str, lines: int, cache: int, visits: int, command: str = "") -> None:
    """Measure, print, end."""
    client = connect(url)
    store = Store(
        client,
        numbering=Numbering("FR"),
        cache_lines=cache,
        stale_max_s=3600,
        timezone="Europe/Paris",
        canary=f"bench-{os.getpid()}",
    )
    await store.start()
    # As the engine does: otherwise the garbage collector examines all lines again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    before = _resident()
    dice = random.Random(1)
    for _ in range(visits // AT_ONCE):
        numbers = [number_of(dice.randrange(lines)) for _ in range(AT_ONCE)]
        # On a busy machine an answer may take longer than a call would wait for it.
        await asyncio.gather(*map(store.look_up, numbers), return_exceptions=True)
    hot = [number_of(dice.randrange(lines)) for _ in range(HOT)]
    for number in hot:
        await store.look_up(number)
    measured: dict[str, object] = {"lines": lines, "cache_lines": cache, "visits": visits}
    measured["resident_mb"] = round(_resident() / 1e6, 1)
    measured["cache_mb"] = round((_resident() - before) / 1e6, 1)
    measured["cached"] = len(store._cache)
    measured["memory_us"] = _shares([_peek_us(store, hot[n % HOT]) for n in range(20 * TIMED)])
    cold: list[float] = []
    while len(cold) < TIMED and lines > cache:
        number = number_of(dice.randrange(lines))
        if store.peek(number) is None:
            start = time.perf_counter()
            await store.look_up(number)
            cold.append(1e6 * (time.perf_counter() - start))
    if cold:
        measured["redis_us"] = _shares(cold)
    if command:
        measured |= await _under(store, hot, command)
    print(json.dumps(measured), flush=True)
    await store.close()
    await client.aclose()


async def _under(store: Store, hot: list[str], command: str) -> dict[str, object]:
    """Looks up hot lines while `command` runs: the delay of the loop, the size of the process."""
    child = await asyncio.create_subprocess_exec(
        *shlex.split(command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output = asyncio.ensure_future(child.communicate())
    lag_s, peak, slowest_s, asked = 0.0, _resident(), 0.0, 0
    while not output.done():
        due = time.perf_counter() + 0.002
        await asyncio.sleep(0.002)
        lag_s = max(lag_s, time.perf_counter() - due)
        number = hot[asked % HOT]
        asked += 1
        start = time.perf_counter()
        _ = store.peek(number) or await store.look_up(number)
        slowest_s = max(slowest_s, time.perf_counter() - start)
        peak = max(peak, _resident())
    return {
        "import": json.loads((await output)[0]),
        "worst_lag_ms": round(1e3 * lag_s, 1),
        "worst_lookup_ms": round(1e3 * slowest_s, 1),
        "peak_mb": round(peak / 1e6, 1),
    }


def _peek_us(store: Store, number: str) -> float:
    start = time.perf_counter()
    store.peek(number)
    return 1e6 * (time.perf_counter() - start)


def _shares(values: list[float]) -> dict[str, float]:
    values = sorted(values)
    return {name: round(values[int(len(values) * share)], 2) for name, share in _SHARES.items()}


_SHARES = {"p50": 0.5, "p99": 0.99}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


if __name__ == "__main__":
    url, *counts = sys.argv[1:5]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(url, int(counts[0]), int(counts[1]), int(counts[2]), *sys.argv[5:]))
