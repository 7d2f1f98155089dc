"""Who reads a file slowly, or not at all, holds up nobody else."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from engine.records.record import read_entry
from manager import history_page, records
from manager.records import Met, Span
from rules.model import Line
from tests.patience import within

LINE = Line("+33972101001", "acme")
RECORD = read_entry(
    {
        "id": "1", "call_id": "c", "caller": "", "called": LINE.number, "received": "100",
        "rang": "", "answered": "", "ended": "112", "condition": "none", "destination": "line",
        "target": LINE.number, "outcome": "busy", "code": "486", "q850": "", "why": "",
        "seconds": "0", "payer": "", "billing": "", "forwards": "[]", "legs": "[]",
    }
)  # fmt: skip


async def test_a_file_that_nobody_reads_on_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def search(*_: Any) -> tuple[list[Met], str | None]:
        return [Met(RECORD, None)] * 2, "1-0"

    monkeypatch.setattr(records, "search", search)
    site = SimpleNamespace(zone=ZoneInfo("Europe/Paris"))
    visit: Any = SimpleNamespace(site=site, redis=None, say=lambda key, **_: key)
    begun = [history_page._rows(visit, LINE, Span()) for _ in range(5)]
    async with asyncio.timeout(within(5)):
        for rows in begun:  # each is left open behind its first call
            assert "when" in await anext(rows)
            assert "call_missed" in await anext(rows)
    for rows in begun:
        await rows.aclose()  # type: ignore[attr-defined]
