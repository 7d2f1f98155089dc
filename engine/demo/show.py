"""`renvoi demo`: real SIP calls through a real engine on this machine, each compared with what is
expected of it.

It does not touch the operator's data: the engine runs on free ports with its own Redis and
directory, which are deleted afterwards.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from redis.exceptions import RedisError

from engine.config import Config
from engine.demo.cases import AFTER_S, Case, Played, all_cases
from engine.demo.engine import DemoEngine, EngineFailed
from engine.demo.softphone import PhoneMissing, SoftPhones
from engine.demo.stage import Stage

STAGGER_S = 0.03  # between calls, so that they do not slow each other's set-up


def run(
    _config: Config,
    *,
    as_json: bool = False,
    cases: Sequence[Case] | None = None,
    pjsua2: bool = False,
) -> int:
    """Play every case and print a row for each as it ends. Returns the exit status, 1 if one
    differs.

    The configuration is not used: the demo's engine has its own. `as_json` prints one object a line
    instead of a table, `cases` replaces the calls that are played. With `pjsua2` the phones use
    PJSIP, an independent SIP stack.
    """
    report = _Json() if as_json else _Table()
    try:
        return asyncio.run(_run(all_cases() if cases is None else cases, report, pjsua2))
    except (EngineFailed, RedisError, OSError, PhoneMissing) as error:
        print(f"renvoi: demo: {error}", file=sys.stderr)
    except asyncio.CancelledError:
        print("renvoi: demo: stopped by a signal", file=sys.stderr)
    return 1


async def _run(cases: Sequence[Case], report: _Table, pjsua2: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    # SIGTERM is handled like Ctrl-C, because the engine must not outlive the demo.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="renvoi-demo-") as directory:
        engine = DemoEngine(Path(directory))
        stage = Stage(engine, SoftPhones() if pjsua2 else None)
        try:
            await engine.start(await stage.open())
            stage.write(cases)
            report.start(cases, f"{engine.sip[0]}:{engine.sip[1]}")
            different = await _play_all(cases, stage, report)
            calls = sum(2 if case.occupied else 1 for case in cases)
            records = await stage.records(calls)
            report.end(len(cases), different, calls, records, time.monotonic() - start)
            return 1 if different or records != calls else 0
        finally:
            await engine.stop()
            await stage.close()


async def _play_all(cases: Sequence[Case], stage: Stage, report: _Table) -> int:
    """Play all calls; returns how many differed. Raises EngineFailed."""

    async def play(place: int, case: Case) -> bool:
        await asyncio.sleep(place * STAGGER_S)
        played = await stage.play(case, f"case-{place}")
        report.row(played)
        return bool(played.differences)

    ended = asyncio.create_task(stage.engine.ended())
    calls = asyncio.gather(*(play(place, case) for place, case in enumerate(cases)))
    waited: tuple[asyncio.Future[Any], ...] = (ended, calls)
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise ended.result()
        return sum(await calls)
    finally:
        for future in waited:
            future.cancel()
        await asyncio.gather(*waited, return_exceptions=True)


class _Table:
    """Columns for people."""

    def start(self, cases: Sequence[Case], address: str) -> None:
        self._widths = [
            max(4, *(len(case.name) for case in cases)),
            *[max(8, *(len(str(case.expected)) for case in cases))] * 2,
        ]
        print(
            f"renvoi demo: {len(cases)} SIP calls at once through a real engine on {address}.\n"
            f"A no-answer forward waits {AFTER_S} s; set-up is from INVITE to final answer.\n"
        )
        self._print("", "call", "expected", "got", "set-up ms")

    def row(self, played: Played) -> None:
        case, differences = played.case, played.differences
        setup = f"{played.setup_s * 1000:9.1f}"
        verdict = "DIFF" if differences else "ok"
        self._print(verdict, case.name, str(case.expected), str(played.got), setup)
        for difference in differences:
            print(f"      {difference}", flush=True)

    def end(self, played: int, different: int, calls: int, records: int, elapsed_s: float) -> None:
        print(
            f"\n{played - different} of {played} as expected, {different} different; "
            f"{records} of {calls} calls on record in Redis; {elapsed_s:.1f} s"
        )

    def _print(self, verdict: str, *cells: str) -> None:
        columns = [cell.ljust(width) for cell, width in zip(cells, self._widths, strict=False)]
        print("  ".join((verdict.ljust(4), *columns, cells[-1])), flush=True)


class _Json(_Table):
    """One JSON object a line for programs: the calls, then a summary."""

    def start(self, cases: Sequence[Case], address: str) -> None:
        pass

    def row(self, played: Played) -> None:
        self._write(
            {
                "call": played.case.name,
                "ok": not played.differences,
                "expected": played.case.expected,
                "got": played.got,
                "setup_ms": round(played.setup_s * 1000, 1),
                "differences": played.differences,
            }
        )

    def end(self, played: int, different: int, calls: int, records: int, elapsed_s: float) -> None:
        self._write(
            {
                "cases": played,
                "different": different,
                "calls": calls,
                "records": records,
                "elapsed_s": round(elapsed_s, 1),
            }
        )

    def _write(self, value: object) -> None:
        print(orjson.dumps(value).decode(), flush=True)
