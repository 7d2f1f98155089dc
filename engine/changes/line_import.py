"""Imports many lines: checks them as a whole, compares them with the present ones, and applies them
in one step.

On a single Redis the step is one transaction: the server queues its commands until the last has
arrived, and executes them together. An import that ends early leaves nothing behind, because the
server drops a transaction with its connection. A Cluster has no transaction over several slots:
there the lines change slot by slot.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, BinaryIO

import msgspec
import orjson
import redis

from engine.changes.import_step import BATCH, Progress, Switch, slot_of
from engine.changes.line_file import RowError, read_rows
from rules.fleet import Fleet, fleet_of
from rules.line_document import LineDocument, load_line
from rules.model import DocumentError, Line, Offer
from rules.numbers import Numbering
from rules.unread import UnreadFields, unread_fields
from rules.validate import canonical, check_line, check_names, check_targets, lines_needed
from store import audit
from store.keys import LINE, audit_key, fleet_key, line_key
from store.redis_errors import REDIS_ERRORS


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, with its line in the file."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


@dataclass(slots=True)
class Counts:
    """Numbers of lines of a fleet, or of all fleets."""

    added: int = 0
    updated: int = 0
    deleted: int = 0


@dataclass(slots=True)
class Plan:
    """The changes of an import.

    Attributes:
        faults: the first faults; with any, nothing may be written.
        fault_count: of all.
        deleted: numbers of lines that are not in the file.
        probes: a changed line on each server, to ask engines whether the import is in force.
        size: bytes of the documents that are written.
        fleets: how many lines of each fleet are added, updated and deleted.
        unread: fields that nothing reads.
    """

    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0
    lines: int = 0
    added: int = 0
    updated: int = 0
    deleted: list[str] = field(default_factory=list)
    probes: dict[str, str] = field(default_factory=dict)
    size: int = 0
    fleets: dict[str, Counts] = field(default_factory=dict)
    unread: UnreadFields = field(default_factory=lambda: UnreadFields(LineDocument))

    @property
    def unchanged(self) -> int:
        return self.lines - self.added - self.updated

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.updated or self.deleted)


class LineImport:
    """One import, as a context manager that deletes its working files."""

    def __init__(
        self,
        client: redis.Redis,
        numbering: Numbering,
        *,
        replace: bool = False,
        strict: bool = False,
        faults_shown: int = 20,
        progress: Progress = lambda what, count: None,
    ) -> None:
        self._client: Any = client
        self._is_cluster = not isinstance(client, redis.Redis)
        self._numbering = numbering
        self._replace = replace
        self._strict = strict
        self._faults_shown = faults_shown
        self._progress = progress
        self._fleets: dict[str, int] = {}
        self._names: list[str] = []
        self._read_fleets: dict[str, Fleet] = {}
        self._known: dict[str, int] = {}  # number -> index of its fleet, and whether it has fax
        self._outside: dict[str, Line | None] = {}
        self._slots: list[tuple[int, int]] = []  # slot and position in the file of each change
        # Unlinked at once, so that they never remain.
        self._checked: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        self._changes: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        self.plan = Plan()

    def __enter__(self) -> LineImport:
        return self

    def __exit__(self, *_: object) -> None:
        self._checked.close()
        self._changes.close()

    # Checking

    def check(self, file: BinaryIO, form: str) -> Plan:
        """Read and check the whole file, and determine its changes. Raises RedisError."""
        self._read(file, form)
        self._compare()
        if self._replace and not self.plan.fault_count:
            self._find_deleted()
        return self.plan

    def _read(self, file: BinaryIO, form: str) -> None:
        """Check each document by itself."""
        for place, row in read_rows(file, form):
            if isinstance(row, RowError):
                self._fault(place, row)
                continue
            try:
                line = load_line(orjson.dumps(row), None, self._numbering)
                fleet = self._fleet(line.fleet)
                needs = bool(lines_needed(line, fleet.forward_countries))
                if needs:
                    check_names(line, row, fleet)
                else:
                    check_line(line, row, {}, fleet)
            except (DocumentError, TypeError) as error:
                self._fault(place, error)
                continue
            self._look_for_unread(place, row)
            if line.number in self._known:
                self._fault(place, f"number: is given twice (got {row['number']!r})")
                continue
            self._remember(line)
            text = orjson.dumps(canonical(row, line))
            # With the parsed line if others must be checked, because parsing is slow.
            head = b"%d\t%s\t%s\t" % (
                place, _for_targets(line) if needs else b"", line.number.encode(),
            )  # fmt: skip
            self._checked.write(head + text + b"\n")
            self.plan.lines += 1
            if self.plan.lines % BATCH == 0:
                self._progress("checked", self.plan.lines)

    def _look_for_unread(self, place: int, row: dict[str, Any]) -> None:
        """Report unknown fields, or with `strict` count them as faults."""
        if not self._strict:
            self.plan.unread.note(f"line {place}", row)
            return
        for one in unread_fields(row, LineDocument):
            self._fault(place, one)

    def _compare(self) -> None:
        """Compare each document with the lines that it names, and with the present one."""
        self._checked.seek(0)
        count, offset = 0, 0
        for batch in _batches(self._checked):
            numbers = [number for _, _, number, _ in batch]
            stored = self._values(numbers)
            self._check_targets(batch)
            for (_, _, number, text), before in zip(batch, stored, strict=True):
                if before == text or _says_the_same(before, text):
                    continue
                fleet = self._names[self._known[number] >> 1]
                if before is None:
                    self.plan.added += 1
                    self._count(fleet).added += 1
                else:
                    self.plan.updated += 1
                    self._count(fleet).updated += 1
                    if (was := _fleet_of(before)) != fleet:
                        self._count(was).deleted += 1
                self.plan.size += len(text)
                self.plan.probes[self._server_of(number)] = number
                record = number.encode() + b"\t" + text + b"\n"
                self._changes.write(record)
                if self._is_cluster:
                    self._slots.append((slot_of(number), offset))
                    offset += len(record)
            count += len(batch)
            self._progress("compared", count)

    def _check_targets(self, batch: list[Checked]) -> None:
        lines = {number: line for _, line, number, _ in batch if line is not None}
        missing = {
            target
            for line in lines.values()
            for target in lines_needed(line, self._fleet(line.fleet).forward_countries)
            if target not in self._known and target not in self._outside
        }
        if len(self._outside) > 100_000:
            self._outside.clear()
        self._read_outside(sorted(missing))
        others = _Others(self._known, self._names, self._outside)
        for place, _, number, text in batch:
            if number not in lines:
                continue
            line = lines[number]
            try:
                check_targets(line, _Lazily(text), others, self._fleet(line.fleet))
            except DocumentError as error:
                self._fault(place, error)

    def _read_outside(self, numbers: list[str]) -> None:
        """Read lines that are named but not in the file; with `replace` they will be deleted."""
        for number, raw in zip(numbers, self._values(numbers), strict=True):
            try:
                line = load_line(raw, number, self._numbering) if raw else None
            except DocumentError:
                line = None
            self._outside[number] = None if self._replace else line

    def _find_deleted(self) -> None:
        for key in self._client.scan_iter(LINE + "*", count=BATCH):
            number = bytes(key).decode(errors="surrogateescape").removeprefix(LINE)
            if number not in self._known:
                self.plan.deleted.append(number)
        self.plan.deleted = sorted(set(self.plan.deleted))
        for start in range(0, len(self.plan.deleted), BATCH):
            for raw in self._values(self.plan.deleted[start : start + BATCH]):
                self._count(_fleet_of(raw)).deleted += 1
        for number in self.plan.deleted[:BATCH]:
            self.plan.probes.setdefault(self._server_of(number), number)

    def _count(self, fleet: str) -> Counts:
        return self.plan.fleets.setdefault(fleet, Counts())

    def _remember(self, line: Line) -> None:
        place = self._fleets.setdefault(line.fleet, len(self._fleets))
        if place == len(self._names):
            self._names.append(line.fleet)
        self._known[line.number] = place << 1 | line.offer.fax

    def _fleet(self, name: str) -> Fleet:
        """The fleet of this name, read once."""
        if name not in self._read_fleets:
            raw = self._client.get(fleet_key(name))
            self._read_fleets[name] = fleet_of(raw, name, self._numbering)
        return self._read_fleets[name]

    def _fault(self, place: int, text: object) -> None:
        self.plan.fault_count += 1
        if len(self.plan.faults) < self._faults_shown:
            self.plan.faults.append(Fault(place, str(text)))

    def _server_of(self, number: str) -> str:
        if not self._is_cluster:
            return ""
        return str(self._client.get_node_from_key(line_key(number)).name)

    def _values(self, numbers: list[str]) -> list[bytes | None]:
        if not numbers:
            return []
        keys = [line_key(number) for number in numbers]
        read = self._client.mget_nonatomic if self._is_cluster else self._client.mget
        return list(read(keys))

    def carry_out(self, parts: int = 0, *, who: str = "", file: str = "") -> float:
        """Write everything; as `Switch.carry_out`. `who` and `file` are for the log of changes,
        where the import is one entry, written in the same step (with `parts` in the first, in a
        Cluster before). The entries of the fleets concerned follow."""
        plan = self.plan
        lines = plan.added + plan.updated
        counts = {"added": plan.added, "updated": plan.updated, "deleted": len(plan.deleted)}
        counted = {"fleets": len(plan.fleets), **counts} | ({"parts": parts} if parts else {})
        switch = Switch(
            self._client,
            self._changes,
            plan.deleted,
            lines,
            plan.size,
            self._progress,
            audit.command(audit_key(), audit.imported(who, file, counted)),
        )
        took = switch.slots(self._slots) if self._is_cluster else switch.carry_out(parts)
        with contextlib.suppress(*REDIS_ERRORS):  # it is done, and one entry records it
            self._log_in_fleets(who, file)
        return took

    def _log_in_fleets(self, who: str, file: str) -> None:
        pipe = self._client.pipeline(transaction=False)
        for place, (fleet, counts) in enumerate(self.plan.fleets.items(), 1):
            if fleet:
                pipe.execute_command(
                    *audit.command(audit_key(fleet), audit.imported(who, file, asdict(counts)))
                )
            if place % BATCH == 0 or place == len(self.plan.fleets):
                pipe.execute()


Checked = tuple[int, Line | None, str, bytes]
"""A document that is valid by itself: line of the file, the parsed line if others must be checked,
number, text."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def _for_targets(line: Line) -> bytes:
    """A line with all that `check_targets` needs."""
    bare: dict[str, Any] = {"calendars": {}, "lists": {}}
    profiles = {name: replace(profile, **bare) for name, profile in line.profiles.items()}
    return _encode(replace(line, profiles=profiles, profile=(), **bare))


class _Lazily(Mapping[str, Any]):
    """A document that is parsed only for an error."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def __getitem__(self, name: str) -> Any:
        return orjson.loads(self._text)[name]

    def __iter__(self) -> Iterator[str]:
        yield from orjson.loads(self._text)

    def __len__(self) -> int:
        return len(orjson.loads(self._text))


class _Others(Mapping[str, Line | None]):
    """The lines that documents may name: those in the file, then those in Redis."""

    def __init__(
        self, known: dict[str, int], fleets: list[str], outside: dict[str, Line | None]
    ) -> None:
        self._known, self._fleets, self._outside = known, fleets, outside

    def __getitem__(self, number: str) -> Line | None:
        place = self._known.get(number)
        if place is None:
            return self._outside[number]
        return Line(number, self._fleets[place >> 1], offer=Offer(fax=bool(place & 1)))

    def __iter__(self) -> Iterator[str]:
        yield from self._known
        yield from self._outside

    def __len__(self) -> int:
        return len(self._known) + len(self._outside)


def _says_the_same(before: bytes | None, text: bytes) -> bool:
    """Whether two documents differ only in the order of their fields."""
    try:
        return before is not None and bool(orjson.loads(before) == orjson.loads(text))
    except orjson.JSONDecodeError:
        return False


def _fleet_of(document: bytes | None) -> str:
    """The fleet of a stored document; "" if it is not known."""
    try:
        found = orjson.loads(document or b"{}")
    except orjson.JSONDecodeError:
        return ""
    fleet = found.get("fleet") if isinstance(found, dict) else None
    return fleet if isinstance(fleet, str) else ""


def _batches(file: Iterable[bytes]) -> Iterator[list[Checked]]:
    batch: list[Checked] = []
    for record in file:
        place, line, number, text = record.rstrip(b"\n").split(b"\t", 3)
        batch.append((int(place), _decode(line) if line else None, number.decode(), text))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
