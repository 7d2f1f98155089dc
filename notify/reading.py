"""Reads what happened: the stream of records, the logs of changes, and usage where it matters.

Nothing here is on the path of a call: engines write records and logs as they do without it. Records
are looked at twice a second; a log is read when Redis reports that it has changed. What a part of a
stream leads to is written together with the new position (`notify.ledger`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from engine.config import Config
from engine.records.record import CallRecord, read_entry
from notify import occurrences, prevented_forwards
from notify.attempts import Drop
from notify.deliveries import Delivery, FleetFacts, LineFacts, deliveries, wanted
from notify.documents import Documents, Found
from notify.ledger import Commit, Kept, Ledger
from notify.prevented_forwards import Prevented
from notify.usage import Usage, is_counted
from rules.notify import Event
from store import audit
from store.client import exchange
from store.index_changes import KeyChanges
from store.keys import AUDIT, RECORDS

_POLL_S = 0.5
_PAGE = 500  # entries of one read
_STREAMS_AT_ONCE = 50
_DUE_EVERY_S = 5.0
_Entries = Sequence[tuple[bytes, dict[bytes, bytes]]]


class Reader:
    """Reads from where the last process stopped.

    Args:
        admits: why a delivery cannot wait for its target; None if it can. Called with how many more
            wait for it by the same write.
        on_waiting: called with deliveries that wait now.
        on_dropped: called with a delivery that is dropped, and why.
    """

    def __init__(
        self,
        client: Any,
        config: Config,
        ledger: Ledger,
        kept: Kept,
        *,
        admits: Callable[[Delivery, int], Drop | None],
        on_waiting: Callable[[Iterable[Delivery]], None],
        on_dropped: Callable[[Delivery, Drop], None],
    ) -> None:
        self._client = client
        self._config = config
        self._documents = Documents(client)
        self._usage = Usage(self._documents, ZoneInfo(config.numbering.timezone))
        self._ledger = ledger
        self._began = kept.began
        self._positions = kept.positions
        self._prevented = Prevented(kept.prevented)
        self._admits = admits
        self._on_waiting = on_waiting
        self._on_dropped = on_dropped
        self._changed_logs: set[str] = set()
        self._rescan = True
        self._wake = asyncio.Event()
        self._next_due = 0.0
        self._behind_at: float | None = None

    @property
    def lag_s(self) -> float:
        """How old the oldest record is that has not been read, as far as is known."""
        return 0.0 if self._behind_at is None else max(0.0, time.time() - self._behind_at)

    @property
    def watched(self) -> int:
        """Forwards that have prevented themselves."""
        return len(self._prevented)

    async def run(self) -> None:
        """Read until cancelled. Raises REDIS_ERRORS and LostLease."""
        name = f"notify-{secrets.token_hex(8)}"
        changes = KeyChanges(self._client, (AUDIT,), name, self._on_keys)
        try:
            await changes.start()
            while True:
                more = await self._read_records()
                await self._read_logs()
                await self._look_at_prevented()
                if not more:
                    self._wake.clear()
                    try:
                        async with asyncio.timeout(_POLL_S):
                            await self._wake.wait()
                    except TimeoutError:
                        pass
        finally:
            await changes.close()

    def _on_keys(self, keys: Sequence[bytes] | None) -> None:
        if keys is None:
            self._rescan = True
        else:
            self._changed_logs |= {key.decode("utf-8", "replace") for key in keys}
        self._wake.set()

    # Records

    async def _read_records(self) -> bool:
        """Read one page of records; whether there may be more."""
        entries: _Entries = await self._client.xrange(
            RECORDS, f"({self._position(RECORDS)}", "+", _PAGE
        )
        if not entries:
            self._behind_at = None
            return False
        self._behind_at = _at(entries[0][0])
        watched = {number.encode() for number in self._prevented.lines()}
        # By the call's id, not the entry's: engines write again what Redis has lost.
        records = [
            (f"{RECORDS} {record.id}", record)
            for _, fields in entries
            if (record := interesting(fields, watched)) is not None
        ]
        found = await self._of_records(records) if records else []
        await self._write(found, {RECORDS: entries[-1][0].decode()})
        return len(entries) == _PAGE

    async def _of_records(self, records: Sequence[tuple[str, CallRecord]]) -> Found:
        numbers = {record.called for _, record in records if occurrences.is_missed(record)}
        numbers |= {p.line for _, record in records for p in record.prevented}
        numbers |= {f.line for _, record in records for f in record.forwards if is_counted(f)}
        lines, fleets = await self._documents.facts(numbers)
        found: Found = []
        for key, record in records:
            line = lines.get(record.called)
            if line is not None and occurrences.is_missed(record):
                fleet = fleets[line.fleet]
                found.append((occurrences.missed(record, line.fleet, key), line, fleet))
            self._note_prevented(record, lines, fleets)
        return found + await self._usage.of_calls(records, lines, fleets)

    def _note_prevented(
        self,
        record: CallRecord,
        lines: dict[str, LineFacts | None],
        fleets: dict[str, FleetFacts],
    ) -> None:
        for number, condition in prevented_forwards.carried_out(record):
            self._prevented.carried_out(number, condition)
        for each in record.prevented:
            line = lines.get(each.line)
            if line is None or not wanted(Event.FORWARD_PREVENTED, line, fleets[line.fleet]):
                continue
            self._prevented.prevented(each.line, each.condition, each.reason, record.received)

    # Logs of changes

    async def _read_logs(self) -> None:
        if self._rescan:
            self._rescan = False
            keys = {key async for key in self._client.scan_iter(AUDIT + "*", count=1000)}
            self._changed_logs |= {key.decode("utf-8", "replace") for key in keys}
        while self._changed_logs:
            logs = sorted(self._changed_logs)[:_STREAMS_AT_ONCE]
            self._changed_logs.difference_update(logs)
            commands = [
                ("XRANGE", log, f"({self._position(log)}", "+", "COUNT", _PAGE) for log in logs
            ]
            pages = await exchange(self._client, commands)
            for log, page in zip(logs, pages, strict=True):
                if isinstance(page, list) and page:  # not a key of another type
                    await self._read_log(log, page)
                    if len(page) == _PAGE:
                        self._changed_logs.add(log)

    async def _read_log(self, log: str, page: Any) -> None:
        name = log.removeprefix(AUDIT)
        changes = [
            (f"{log} {key.decode()}", change)
            for key, fields in page
            if (change := audit.read_entry(key, _as_dict(fields))) is not None
        ]
        found: Found = []
        if changes and name:
            found = await self._of_changes(name, changes)
        await self._write(found, {log: page[-1][0].decode()})

    async def _of_changes(self, name: str, changes: Sequence[tuple[str, audit.Change]]) -> Found:
        numbers = {change.line for _, change in changes if change.line}
        lines, fleets = await self._documents.facts(numbers, [name])
        found: Found = []
        caps_changed = 0.0
        for key, change in changes:
            what = occurrences.changed(change, name, key)
            if what is not None:
                line = lines.get(change.line)
                # Of a line that left the fleet, the new fleet's log has the same entry.
                found.append((what, line if line and line.fleet == name else None, fleets[name]))
                self._prevented.changed_line(change.line)
            if change.what == "fleet" and "cap_seconds" in change.after:
                caps_changed = change.at
        if caps_changed and wanted(Event.CAP_USED, None, fleets[name]):
            found += await self._usage.of_cap(fleets[name], caps_changed)
        return found

    # Forwards that prevent themselves

    async def _look_at_prevented(self) -> None:
        now = time.time()
        if now < self._next_due:
            return
        after_s = self._config.notify.prevented_s
        self._next_due = now + min(_DUE_EVERY_S, after_s / 4)
        due = prevented_forwards.by_line(self._prevented.due(now, after_s))
        if not due and not self._prevented.changed:
            return
        lines, fleets = await self._documents.facts(due)
        found: Found = []
        for number, of_line in due.items():
            line = lines[number]
            if line is None:
                self._prevented.changed_line(number)
                continue
            for condition, watched in of_line:
                self._prevented.notified(number, condition)
                if condition not in line.on:  # it has ended, or another program turned it off
                    continue
                what = prevented_forwards.happened(number, condition, watched, line.fleet, now)
                found.append((what, line, fleets[line.fleet]))
        await self._write(found, {})

    # What all of them need

    def _position(self, stream: str) -> str:
        return self._positions.get(stream, self._began)

    async def _write(self, found: Found, positions: dict[str, str]) -> None:
        """Write what was found with the positions, and pass on what waits now."""
        now = time.time()
        commit = Commit(positions, prevented=self._prevented.take())
        made: dict[str, Delivery] = {}
        more: dict[tuple[str, str], int] = {}
        for what, line, fleet in found:
            fit = []
            for delivery in deliveries(what, line, fleet):
                place = delivery.channel, delivery.target
                why = self._admits(delivery, more.get(place, 0))
                if why is not None:
                    self._on_dropped(delivery, why)
                    continue
                more[place] = more.get(place, 0) + 1
                fit.append(delivery)
            made |= {delivery.id: delivery for delivery in fit}
            if fit:
                commit.notified.append((what.once, fit))
        if commit:
            waiting = await self._ledger.commit(commit, now)
            self._positions |= positions
            self._on_waiting([each for each in made.values() if each.id in waiting])


def interesting(fields: dict[bytes, bytes], watched: Container[bytes]) -> CallRecord | None:
    """The record, if it may be of interest; most are calls that were answered by a phone.

    Args:
        watched: lines with a forward that has prevented itself: what rings beside them may work
            again.
    """
    if (
        fields.get(b"outcome") == b"answered"
        and fields.get(b"destination") != b"voicemail"
        and fields.get(b"forwards") == b"[]"
        and fields.get(b"prevented", b"[]") == b"[]"
        and fields.get(b"called") not in watched
    ):
        return None
    try:
        return read_entry(fields)
    except ValueError:  # another program's
        return None


def _at(key: bytes) -> float:
    return int(key.partition(b"-")[0]) / 1000


def _as_dict(fields: Any) -> dict[bytes, bytes]:
    """The fields of an entry, from a flat list in the replies of commands without a parser."""
    if isinstance(fields, dict):
        return fields
    return dict(zip(fields[::2], fields[1::2], strict=True))
