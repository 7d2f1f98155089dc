"""`renvoi cdr`: the records of calls that ended, filtered, as a table, JSON lines or CSV."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import click
import msgspec

from engine.commands import moments
from engine.commands.context import (
    Named,
    Whole,
    Wrong,
    open_redis,
    read_number,
    with_config,
    with_json,
)
from engine.commands.output import print_json, warn
from engine.config import Config
from engine.records.record import FIELDS, CallRecord, read_entry
from engine.telemetry.metrics import CONDITIONS, OUTCOMES
from store.keys import RECORDS

FOLLOW_BLOCK_MS = 1000
_PAGE = 1000  # entries in one answer
_SKEW_S = 60  # how far the clocks of an engine and of Redis may differ
_TIMES = ("received", "rang", "answered", "ended")  # with --json in ISO 8601 too
_ROW = "{:<15}  {:<15}  {:<13}  {:<9}  {:<15}  {:<11}  {:>4}  {:>7}  {}"
_HEAD = (
    "CALLER",
    "CALLED",
    "CONDITION",
    "WENT TO",
    "TARGET",
    "OUTCOME",
    "CODE",
    "SECONDS",
    "BILLING",
)
_HIDDEN = "***"  # instead of a withheld number
_Stored = tuple[bytes, dict[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The filter for records: all given conditions must match. Times in unix seconds, of
    `received`."""

    line: str | None = None
    condition: str | None = None
    outcome: str | None = None
    since: float | None = None
    until: float | None = None
    withheld: bool = False  # records can be searched by a withheld number

    def fits(self, record: CallRecord) -> bool:
        return (
            (self.line is None or self.line in self._numbers(record))
            and self.condition in (None, record.condition)
            and self.outcome in (None, record.outcome)
            and (self.since is None or record.received >= self.since)
            and (self.until is None or record.received < self.until)
        )

    def _numbers(self, record: CallRecord) -> Iterator[str]:
        """The lines of a call: caller, called, payers."""
        yield record.caller
        if self.withheld:
            yield record.caller_withheld
        yield record.called
        yield record.payer
        for forward in record.forwards:
            yield forward.line


@click.command("cdr", short_help="Show the records of calls that ended.")
@click.option("--follow", is_flag=True, help="Go on with new records until Ctrl-C.")
@click.option(
    "--last",
    type=Whole(0),
    metavar="COUNT",
    help="The last COUNT that fit.  [default: 20, with --since or --until all]",
)
@click.option("--line", metavar="N", help="Line N called, was called, forwarded or pays.")
@click.option("--condition", type=Named(CONDITIONS), help="The last forward carried out.")
@click.option("--outcome", type=Named(OUTCOMES), help="How the call ended.")
@click.option("--since", metavar="WHEN", help="Received then or later.")
@click.option("--until", metavar="WHEN", help="Received before then.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with all fields.")
@click.option("--withheld", is_flag=True, help="Show the numbers of callers who withhold them.")
@with_config
@with_json
def show_records(
    follow: bool,
    last: int | None,
    line: str | None,
    condition: str | None,
    outcome: str | None,
    since: str | None,
    until: str | None,
    as_csv: bool,
    withheld: bool,
    config: Config,
    as_json: bool,
) -> None:
    """Show the records of calls that ended, oldest first; with --json one object a line,
    its times in unix seconds and, as received_at, rang_at, answered_at and ended_at, in ISO 8601.
    The table has the main fields; --json and --csv have all of docs/cdr.md, such as payer, why and
    takeovers.

    WHEN is a time ago (90s, 15m, 2h, 7d), a date and time as they are printed, in the zone of
    numbering.timezone ("2026-11-25", "2026-11-25 14:30:05"), one with its own offset, or unix
    seconds. Records are in the order in which they were written: when the calls ended, after an
    outage of Redis later.

    A caller who withholds the number is shown as "withheld", with --json and --csv as *** in
    caller_withheld. --withheld shows the number, and lets --line find the call by it; use it only
    where the law allows.

    \b
    Examples:
      renvoi cdr --last 100
      renvoi cdr --line 0972101001 --since 2h
      renvoi cdr --condition busy --since 2026-11-01 --until 2026-12-01 --csv > november.csv
      renvoi cdr --follow --outcome failed --json | jq .why
    """
    if as_csv and as_json:
        raise Wrong("--csv: does not go with --json")
    zone, now = ZoneInfo(config.numbering.timezone), time.time()
    wanted = Wanted(
        None if line is None else read_number("--line", line, config.numbering.plan()),
        condition,
        outcome,
        None if since is None else moments.read_when("--since", since, zone, now),
        None if until is None else moments.read_when("--until", until, zone, now),
        withheld,
    )
    if wanted.since is not None and wanted.until is not None and wanted.since >= wanted.until:
        raise Wrong(f"--until: is not after --since (got {until!r})")
    if last is None and wanted.since is None and wanted.until is None:
        last = 20
    with open_redis(config, start=not follow) as client:
        redis: Any = client
        newest = redis.xrevrange(RECORDS, count=1)
        seen = newest[0][0] if newest else b"0-0"
        show = _printer(zone, as_json, as_csv, withheld)
        shown = 0
        for record in _found(redis, wanted, last, seen) if newest else ():
            show(record)
            shown += 1
        if not shown and not follow and not as_json and not as_csv:
            click.echo("no such records" if newest else "no records yet")
        while follow:
            for _, entries in redis.xread({RECORDS: seen}, block=FOLLOW_BLOCK_MS) or ():
                for record in filter(wanted.fits, _records(entries)):
                    show(record)
                seen = entries[-1][0]


def _found(redis: Any, wanted: Wanted, last: int | None, newest: bytes) -> Iterable[CallRecord]:
    """The matching records, up to the entry `newest`, oldest first.

    An entry's id is the time of its writing, which is after the call, so nothing written before
    `since` needs to be read.
    """
    first = b"-"
    if wanted.since is not None:
        first = b"%d-0" % max(0, int((wanted.since - _SKEW_S) * 1000))
    if last is None:
        return _forwards(redis, wanted, first, newest)
    fitting: list[CallRecord] = []
    end = newest
    while len(fitting) < last:
        entries = redis.xrevrange(RECORDS, end, first, count=_PAGE)
        fitting += filter(wanted.fits, _records(entries))
        if len(entries) < _PAGE:
            break
        end = b"(" + entries[-1][0]
    return reversed(fitting[:last])


def _forwards(redis: Any, wanted: Wanted, first: bytes, newest: bytes) -> Iterator[CallRecord]:
    start = first
    while True:
        entries = redis.xrange(RECORDS, start, newest, count=_PAGE)
        yield from filter(wanted.fits, _records(entries))
        if len(entries) < _PAGE:
            return
        start = b"(" + entries[-1][0]


def _records(entries: Iterable[_Stored]) -> Iterator[CallRecord]:
    for entry_id, entry in entries:
        try:
            yield read_entry(entry)
        except ValueError as error:
            warn(f"cdr entry {entry_id.decode()}: {error}")


def _printer(
    zone: ZoneInfo, as_json: bool, as_csv: bool, withheld: bool
) -> Callable[[CallRecord], None]:
    """The function that prints one record; the first call also prints the header. `withheld`: show
    withheld numbers."""
    head_due = not as_json
    received = moments.head("RECEIVED", zone)

    def show(record: CallRecord) -> None:
        nonlocal head_due
        if record.caller_withheld and not withheld:
            record.caller_withheld = _HIDDEN
        if as_json:
            print_json(moments.with_iso(msgspec.to_builtins(record), _TIMES, zone), indent=False)
            return
        if head_due:
            head_due = False
            click.echo(_csv(FIELDS) if as_csv else f"{received}  {_ROW.format(*_HEAD)}")
        if as_csv:
            click.echo(_csv(_flat(record)))
        else:
            when = moments.shown(record.received, zone).ljust(len(received))
            click.echo(f"{when}  {_row(record)}".rstrip())

    return show


def _csv(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _flat(record: CallRecord) -> Iterator[object]:
    """The values of `FIELDS`; forwards and legs as JSON. Text that a spreadsheet would take for a
    formula is quoted, because it came from outside."""
    for name in FIELDS:
        value = getattr(record, name)
        if isinstance(value, list):
            yield msgspec.json.encode(value).decode()
        elif isinstance(value, str) and _is_formula(value):
            yield "'" + value
        else:
            yield "" if value is None else value


def _is_formula(text: str) -> bool:
    """Whether a spreadsheet would take it for one; a number in E.164 it does not."""
    if text.startswith("+"):
        return not (text[1:].isascii() and text[1:].isdecimal())
    return text.startswith(("=", "@", "-", "\t", "\r"))


def _row(record: CallRecord) -> str:
    values = (
        record.caller or _shown(record.caller_withheld),
        record.called,
        record.condition,
        record.destination,
        record.target,
        record.outcome,
        record.code,
        record.seconds,
        record.billing,
    )
    return _ROW.format(*(_cell(value) for value in values))


def _shown(withheld: str) -> str:
    return "withheld" if withheld == _HIDDEN else withheld


def _cell(value: object) -> object:
    if isinstance(value, int):
        return value
    return "".join(c if c.isprintable() else "?" for c in str(value)) or "-"
