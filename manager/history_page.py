"""All calls of a line: missed, answered, forwarded; by date, searched, as a page and as CSV."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from urllib.parse import urlencode

from starlette.responses import Response, StreamingResponse

from manager import records
from manager.line_page import destination_of
from manager.records import Met, Span
from manager.rule_words import target_in_words
from manager.web import Visit
from rules.model import Line

_A_PAGE = 50
_MOST_ROWS = 10_000
_MOST_PAGES = 60  # searches of 5,000 entries each
KINDS = ("missed", "answered", "forwarded")
# Each reads much of the stream: two at a time, the rest wait.
_exporting = asyncio.Semaphore(2)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Asked:
    """The requested calls; `wrong`: the invalid fields."""

    first: date | None
    last: date | None
    kind: str
    words: str
    wrong: tuple[str, ...]

    def query(self, **more: str) -> str:
        parts = {
            "from": self.first.isoformat() if self.first else "",
            "to": self.last.isoformat() if self.last else "",
            "kind": self.kind,
            "q": self.words,
        } | more
        return urlencode({name: value for name, value in parts.items() if value})


async def page(visit: Visit) -> Response:
    """A page of calls, the newest first."""
    line = (await visit.site.lines.read(visit.who, visit.number)).line
    asked = _asked(visit)
    before = visit.query("before")
    found, older = await records.search(
        visit.redis,
        line,
        _A_PAGE,
        before if records.is_place(before) else "+",
        _span(visit, asked),
    )
    return visit.page(
        "history.html",
        422 if asked.wrong else 200,
        line=line,
        asked=asked,
        kinds=KINDS,
        calls=[(met, kind_of(met), _where(visit, line, met)) for met in found],
        caller=lambda met: _caller(visit, line, met),
        seconds=_seconds,
        older=older,
    )


async def download(visit: Visit) -> Response:
    """The same as CSV, at most 10,000 calls."""
    line = (await visit.site.lines.read(visit.who, visit.number)).line
    span = _span(visit, _asked(visit))
    name = f"{line.number.removeprefix('+')}-calls.csv"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
    }
    return StreamingResponse(_rows(visit, line, span), 200, headers, "text/csv; charset=utf-8")


async def _rows(visit: Visit, line: Line, span: Span) -> AsyncIterator[str]:
    say = visit.say
    heads = ("when", "caller", "call_kind", "to_where", "seconds_long", "cost")
    yield "\ufeff" + _row([say(head) for head in heads])  # so that spreadsheets read UTF-8
    written, place = 0, "+"
    for _ in range(_MOST_PAGES):
        # Not while rows are sent: whoever reads them slowly, or never, would hold up the others.
        async with _exporting:
            found, older = await records.search(visit.redis, line, 500, place, span)
        for met in found[: _MOST_ROWS - written]:
            moment = datetime.fromtimestamp(met.record.received, visit.site.zone)
            yield _row(
                [
                    moment.isoformat(timespec="seconds"),
                    _caller(visit, line, met),
                    say(f"call_{kind_of(met)}"),
                    _where(visit, line, met),
                    str(_seconds(met)),
                    say(met.forward.billing) if met.forward else "",
                ]
            )
        written += len(found)
        if older is None or written >= _MOST_ROWS:
            return
        place = older


def kind_of(met: Met) -> str:
    """One of KINDS."""
    if met.forward is not None:
        return "forwarded"
    return "answered" if met.record.outcome == "answered" else "missed"


def _row(values: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow([_cell(value) for value in values])
    return text.getvalue()


def _cell(value: str) -> str:
    """A cell without formula, because a caller's text may end up in a spreadsheet."""
    plain = value.replace("\u00a0", " ")
    is_number = plain.startswith("+") and plain[1:].replace(" ", "").isdecimal()
    return f"'{plain}" if plain.startswith(_FORMULA) and not is_number else plain


def _caller(visit: Visit, line: Line, met: Met) -> str:
    record = met.record
    if not record.caller_withheld:
        if not record.caller:
            return visit.say("caller_hidden")
        return visit.places.line(line.fleet, record.caller)
    hidden = visit.say("caller_hidden")
    if visit.who.operator:
        hidden += f" {visit.site.shown.number(record.caller_withheld)}"
    return hidden


def _where(visit: Visit, line: Line, met: Met) -> str:
    return target_in_words(visit, line, destination_of(met)) if met.forward is not None else ""


def _seconds(met: Met) -> int:
    return met.forward.seconds if met.forward is not None else met.record.seconds


def _asked(visit: Visit) -> Asked:
    wrong, days = [], []
    for name in ("from", "to"):
        text = visit.query(name)
        try:
            days.append(date.fromisoformat(text) if text else None)
        except ValueError:
            days.append(None)
            wrong.append(name)
    kind = visit.query("kind")
    return Asked(
        days[0], days[1], kind if kind in KINDS else "", visit.query("q")[:40], tuple(wrong)
    )


def _span(visit: Visit, asked: Asked) -> Span:
    zone = visit.site.zone
    start = end = None
    if asked.first is not None:
        start = datetime.combine(asked.first, time(), zone).timestamp()
    if asked.last is not None:
        try:
            end = datetime.combine(asked.last + timedelta(days=1), time(), zone).timestamp()
        except OverflowError:
            end = None  # after the last possible day
    digits = "".join(c for c in asked.words if c.isdecimal() or c == "+")
    national = visit.site.shown.national

    def wanted(met: Met) -> bool:
        if asked.kind and kind_of(met) != asked.kind:
            return False
        if not asked.words:
            return True
        record = met.record
        numbers = [met.forward.number if met.forward else ""]
        if not record.caller_withheld:
            numbers.append(record.caller)
        elif visit.who.operator:
            numbers.append(record.caller_withheld)
        return bool(digits) and any(digits in f"{n} {national(n)}" for n in numbers)

    return Span(start, end, wanted)
