"""Many lines: how long an import takes; look-ups and memory as the number of lines grows."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from benchmarks.cases import Settings
from benchmarks.figures import Result
from benchmarks.load import report
from benchmarks.lookups import number_of
from benchmarks.processes import BenchmarkError, yardstick_ms
from tests.redis.servers import RedisServer

COUNTS, QUICK_COUNTS = (1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000)
CACHES = (1_000, 200_000)
_FLEET = 50


def run_lines(settings: Settings) -> Iterator[Result]:
    """Each number of lines on its own Redis; the largest is imported twice, under look-ups."""
    counts = QUICK_COUNTS if settings.quick else COUNTS
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="rb") as name:
            server = RedisServer(Path(name))
            server.start()
            try:
                yield from _measure(settings, server, Path(name), count, count == counts[-1])
            finally:
                server.kill()


def _measure(
    settings: Settings, server: RedisServer, folder: Path, count: int, last: bool
) -> Iterator[Result]:
    files = [folder / "one.jsonl", folder / "two.jsonl"]
    for place, file in enumerate(files if last else files[:1]):
        with file.open("wb") as out:
            for n in range(count):
                out.write(orjson.dumps(_document(n, f"{place}")) + b"\n")
    yard = yardstick_ms(settings.cores[0])
    done = json.loads(_run(server, [*_RENVOI, "line", "import", str(files[0]), "--json"]))
    report(f"lines {count:,}: imported in {done['seconds']} s, Redis busy {done['redis_busy_s']} s")
    yield _result(count, "import", yard, done, f"Redis busy {1e3 * done['redis_busy_s']:.0f} ms")
    for cache in CACHES:
        visits = min(3 * count, 2 * cache + 20_000)
        words = [sys.executable, "-m", "benchmarks.lookups", server.url, count, cache, visits]
        found = json.loads(_run(server, list(map(str, words))))
        report(f"lines {count:,}: {found}")
        cold = found.get("redis_us")
        remark = f"{found['resident_mb']:.0f} MB, memory p99 {found['memory_us']['p99']} us" + (
            f", Redis p50 {cold['p50']:.0f} p99 {cold['p99']:.0f} us" if cold else ""
        )
        yield _result(count, f"cache {cache}", yard, found, remark)
    if last:
        command = shlex.join([*_RENVOI, "line", "import", str(files[1]), "--json"])
        words = [sys.executable, "-m", "benchmarks.lookups", server.url, count, CACHES[-1], 300_000]
        found = json.loads(_run(server, [*map(str, words), command]))
        report(f"lines {count:,}: {found}")
        busy_ms = 1e3 * found["import"]["redis_busy_s"]
        remark = (
            f"all changed under look-ups: Redis busy {busy_ms:.0f} ms, "
            f"loop {found['worst_lag_ms']} ms late, look-up of a hot line "
            f"{found['worst_lookup_ms']} ms, at most {found['peak_mb']:.0f} MB"
        )
        yield _result(count, "import again", yard, found, remark)


_RENVOI = (sys.executable, "-m", "engine.cli")


def _run(server: RedisServer, command: list[str]) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "RENVOI_REDIS_URL": server.url},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"lines: {shlex.join(command)}: {done.stderr.strip()[-300:]}")
    return done.stdout


def _document(n: int, label: str) -> dict[str, Any]:
    """A typical line: three forwards, in a fleet of fifty."""
    box = number_of(n // _FLEET * _FLEET)
    outside = {"kind": "number", "number": f"+336{n % 100_000_000:08d}"}
    return {
        "number": number_of(n),
        "fleet": f"fleet{n // _FLEET}",
        "label": f"Line {n} {label}",
        "max_calls": 2,
        "offer": {
            "fax": n % 10 == 0,
            "mobile": "hours" if n % 3 == 0 else "none",
            "mobile_hours": 2,
        },
        "forwards": {
            "busy": {"on": True, "to": outside},
            "no_answer": {"on": True, "after_s": 20, "to": {"kind": "voicemail"}},
            "unreachable": {"on": n % 2 == 0, "to": {"kind": "voicemail", "number": box}},
        },
    }


def _result(count: int, what: str, yard: float, more: dict[str, Any], remark: str) -> Result:
    return Result(
        bench=f"lines {count:,}",
        command="python -m benchmarks lines",
        seconds=float(more.get("seconds", 0)),
        yardstick_ms=yard,
        remark=f"{what}: {remark}",
        more={"what": what, **more},
    )
