"""`renvoi serve`, watched from inside: counts that the engine does not publish, in a file.

Run as `python -m tests.campaigns.watched --config X`. CAMPAIGN_WATCH names the file; it holds one
JSON object, replaced several times a second. With CAMPAIGN_HURRY set PJSIP's timers run sixteen
times faster (T1 31 ms, 64*T1 2 s), so that what waits for a time-out is seen to end. Its value is
T4 in ms: for so long an ended call still acknowledges a 2xx that comes again.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from engine import cli, worker
from sip import dispatch, pjsip, wire

PERIOD_S = 0.1
HURRY_MS = {"t1": 31, "t2": 250, "t4": 312, "td": 2000}  # in the order of pjsip_cfg()->tsx
WATCH = "CAMPAIGN_WATCH"
HURRY = "CAMPAIGN_HURRY"


def counts(watched: worker.Worker) -> dict[str, Any]:
    """What must be back to zero when nothing goes on, and what was found odd on the way."""
    sip = watched.endpoint
    return {
        "calls": len(watched.calls),
        "legs": len(sip.legs),
        "dialogs": sip.dialogs,
        "transactions": sip.transactions,
        "forwards": len(watched.forwards),
        "tasks": len(watched.calls.tasks),
        "cdr_backlog": watched.recorder.backlog,
        "odd": dict(sip.illegal_counts),
        "open": list(OPEN.values())[:20],
    }


async def report(watched: worker.Worker, path: Path) -> None:
    """Write the counts again and again; a reader never sees half a file."""
    draft = path.with_suffix(".draft")
    turn = 0
    while True:
        turn += 1
        draft.write_text(json.dumps({**counts(watched), "turn": turn}), encoding="utf-8")
        draft.replace(path)
        await asyncio.sleep(PERIOD_S)


def watch(path: Path) -> None:
    """Let every worker that starts report to `path`."""
    start = worker.Worker.start

    async def start_and_report(self: worker.Worker) -> None:
        await start(self)
        self._reporter = self.loop.create_task(report(self, path))  # type: ignore[attr-defined]

    worker.Worker.start = start_and_report  # type: ignore[method-assign]


OPEN: dict[int, str] = {}  # transactions of dialogs that are not over, as far as they were told


def trace_transactions() -> None:
    """Keep `OPEN`: to see what a transaction that never ends is waiting for."""
    inner = dispatch.Dispatch.on_tsx_state

    def on_tsx_state(self: dispatch.Dispatch, tsx: Any, event: Any) -> None:
        key = int(pjsip.ffi.cast("uintptr_t", tsx))
        if tsx.state >= pjsip.TSX_TERMINATED:
            OPEN.pop(key, None)
        else:
            name = pjsip.ffi.buffer(tsx.method.name.ptr, tsx.method.name.slen)[:].decode("latin-1")
            role = ("client", "server")[tsx.role]
            OPEN[key] = f"{role} {name[:20]} state {tsx.state} status {tsx.status_code}"
        inner(self, tsx, event)

    dispatch.Dispatch.on_tsx_state = on_tsx_state  # type: ignore[method-assign]


def hurry(t4_ms: int) -> None:
    """Shorten PJSIP's timers after its settings were checked and before they are used."""
    timers = HURRY_MS | {"t4": t4_ms}
    check = pjsip.check_version_and_settings

    def check_and_hurry(c_ffi: Any = pjsip.ffi, c_lib: Any = pjsip.lib) -> None:
        check(c_ffi, c_lib)
        for place, milliseconds in enumerate(timers.values()):
            pjsip.lib.pjsip_sip_cfg_var[pjsip.CFG_T1 + place] = milliseconds

    pjsip.check_version_and_settings = check_and_hurry
    wire.CANCEL_TIMEOUT_S = 2.0


if __name__ == "__main__":
    if t4_ms := int(os.environ.get(HURRY, "0")):
        hurry(t4_ms)
        trace_transactions()
    watch(Path(os.environ[WATCH]))
    sys.argv[1:1] = ["serve"]
    cli.main()
