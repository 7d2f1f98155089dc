"""`renvoi serve` with internal counts that the engine does not expose, in a file.

Run as `python -m tests.campaigns.watched --config X`. CAMPAIGN_WATCH names the file; it holds one
JSON object, replaced several times a second. With CAMPAIGN_HURRY set the timers of transactions run
sixteen times faster (T1 31 ms, 64*T1 2 s), so that a run includes the time-outs.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from engine import cli, worker
from sip import layer

PERIOD_S = 0.1
HURRY_TIMES = 16
WATCH = "CAMPAIGN_WATCH"
HURRY = "CAMPAIGN_HURRY"


def counts(watched: worker.Worker) -> dict[str, Any]:
    """Counts that must be zero when nothing is in progress, and unexpected events."""
    sip = watched.endpoint
    return {
        "calls": len(watched.calls),
        "legs": len(sip.legs),
        "dialogs": sip.dialogs,
        "transactions": sip.transactions,
        "forwards": len(watched.forwards),
        "tasks": len(watched._tasks),
        "cdr_backlog": watched.recorder.backlog,
        "odd": dict(sip.illegal_counts),
        "open": [repr(one) for one in list(sip.layer.clients.values())[:20]],
    }


async def report(watched: worker.Worker, path: Path) -> None:
    """Write the counts periodically; a reader never sees an incomplete file."""
    draft = path.with_suffix(".draft")
    turn = 0
    while True:
        turn += 1
        draft.write_text(json.dumps({**counts(watched), "turn": turn}), encoding="utf-8")
        draft.replace(path)
        await asyncio.sleep(PERIOD_S)


def watch(path: Path) -> None:
    """Make every worker that starts report to `path`."""
    start = worker.Worker.start

    async def start_and_report(self: worker.Worker) -> None:
        await start(self)
        reporter = asyncio.get_running_loop().create_task(report(self, path))
        self._reporter = reporter  # type: ignore[attr-defined]

    worker.Worker.start = start_and_report  # type: ignore[method-assign]


def hurry() -> None:
    """Make the clock of transactions and dialogs faster, before it starts."""
    now_ms = layer._now_ms
    vars(layer)["_now_ms"] = lambda: now_ms() * HURRY_TIMES


if __name__ == "__main__":
    if os.environ.get(HURRY):
        hurry()
    watch(Path(os.environ[WATCH]))
    sys.argv[1:1] = ["serve"]
    cli.main()
