"""Line documents in Redis, as commands read and change them (README, "The rules").

A change is checked as a whole, together with the lines that it names, and written. If one of them
has changed meanwhile, it is checked again (`store.documents`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson
import redis

from engine.commands.context import Failed, Wrong, myself
from rules.fleet import Fleet, fleet_of
from rules.line_document import load_line
from rules.model import DocumentError, Line
from rules.numbers import Numbering
from rules.validate import canonical, check_write, numbers_named, with_changed_profiles
from store.documents import LINES, attempts_blocking, read_blocking
from store.keys import FLEET, LINE, fleet_key, line_key

BATCH = 1000

Document = dict[str, Any]
Read = Callable[[Iterable[str]], dict[str, bytes]]


class Documents:
    """The line documents of one Redis."""

    def __init__(self, client: redis.Redis, numbering: Numbering) -> None:
        self._redis: Any = client  # redis-py types every reply as "or an awaitable of it"
        self._numbering = numbering
        self._fleets: dict[str, Fleet] = {}

    def raw(self, number: str) -> bytes:
        """The stored text. Raises Wrong for an unknown line."""
        raw = self._redis.get(line_key(number))
        if raw is None:
            raise Wrong(f"line {number}: unknown line")
        return bytes(raw)

    def every(self) -> Iterator[tuple[str, bytes]]:
        """Number and stored text of every line, ordered by number."""
        return self._every(LINE)

    def every_fleet(self) -> Iterator[tuple[str, bytes]]:
        """Name and stored text of every fleet that has a document, ordered by name."""
        return self._every(FLEET)

    def _every(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        keys = sorted({bytes(key) for key in self._redis.scan_iter(prefix + "*", count=BATCH)})
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            for key, raw in zip(batch, read_blocking(self._redis, batch), strict=True):
                if raw is not None:  # deleted meanwhile
                    yield key.decode(errors="replace").removeprefix(prefix), raw

    def lines(self, numbers: Iterable[str]) -> dict[str, Line | None]:
        """The lines of these numbers; None = not one of our lines, or a refused document."""
        result: dict[str, Line | None] = {}
        wanted = list(dict.fromkeys(numbers))
        texts = read_blocking(self._redis, [line_key(number) for number in wanted])
        for number, raw in zip(wanted, texts, strict=True):
            try:
                result[number] = load_line(raw, number, self._numbering) if raw else None
            except DocumentError:
                result[number] = None
        return result

    def refused(self, line: Line) -> dict[tuple[str, str], str]:
        """The forwards of a line that are on but count as off because of their target, by condition
        and number, with the reason (`Destination.why_refused`)."""
        countries = self.fleet(line.fleet).forward_countries
        suspects = line.refused_targets(countries=countries)
        if not suspects:
            return {}
        others = self.lines(to.number for _, to, _ in suspects if not to.never)
        inside = {number for number, of in others.items() if of and of.fleet == line.fleet}
        found = line.refused_targets(inside, countries)
        return {(condition.value, to.number): why for condition, to, why in found}

    def fleet(self, name: str) -> Fleet:
        """The fleet of this name, read once (`fleet_of`)."""
        if name not in self._fleets:
            raw = self._redis.get(fleet_key(name))
            self._fleets[name] = fleet_of(raw, name, self._numbering)
        return self._fleets[name]

    def put(self, documents: list[Document]) -> list[Line]:
        """Write whole documents, all or none. Raises Wrong with the field of the first bad one."""
        return self._change(lambda _read: documents, None)

    def edit(
        self, number: str, change: Callable[[Document], None], condition: str | None = None
    ) -> Line:
        """Change one document in place; `change` leaves the rest as it is.

        Only the forward of `condition` is checked against the line that it names, because problems
        of the others, or of the offer, must not prevent this change. None = no forward is checked,
        so that turning one off is always possible. Raises Wrong.
        """

        def prepare(read: Read) -> list[Document]:
            raw = read([number]).get(number)
            if raw is None:
                raise Wrong(f"line {number}: unknown line")
            document = parse_document(raw, f"line {number}")
            change(document)
            return [document]

        def part(document: Document) -> Document | None:
            if condition is None:
                return None
            only = {**document, "forwards": {condition: document["forwards"][condition]}}
            for name in ("also_ring", "offer"):
                only.pop(name, None)
            return with_changed_profiles(only, only)

        return self._change(prepare, number, part)[0]

    def delete(self, number: str) -> None:
        """Raises Wrong for an unknown line."""
        for attempt in attempts_blocking(self._redis, LINES):
            if not attempt.read([number]):
                raise Wrong(f"line {number}: unknown line")
            if attempt.write({number: None}, myself(), "cli"):
                return
        raise Failed("line: changed by others all the time, nothing was deleted")

    def forwarding_to(self, number: str) -> list[str]:
        """The lines with a forward that is on and leads to `number` or its voicemail or fax."""
        found = []
        for other, raw in self.every():
            try:
                line = load_line(raw, other, self._numbering)
            except DocumentError:
                continue
            if other != number and number in line.target_numbers():
                found.append(other)
        return found

    def _change(
        self,
        prepare: Callable[[Read], list[Document]],
        number: str | None,
        part: Callable[[Document], Document | None] = lambda document: document,
    ) -> list[Line]:
        """Write the documents that `prepare` returns; it reads through the given attempt.

        `number`: the key of a single document, which must match its content; `part`: the part of a
        document that is checked together with the lines that it names.
        """
        for attempt in attempts_blocking(self._redis, LINES):
            documents = prepare(attempt.read)
            lines = self._lines(documents, number)
            self._check([part(document) for document in documents], lines, attempt.read)
            attempt.read(line.number for line in lines)
            pairs = zip(documents, lines, strict=True)
            written = {line.number: canonical(document, line) for document, line in pairs}
            if attempt.write(written, myself(), "cli"):
                return lines
        raise Failed("line: changed by others all the time, nothing was written")

    def _lines(self, documents: list[Document], key: str | None) -> list[Line]:
        """The lines of the documents, checked by themselves, each number once. Raises Wrong."""
        lines: dict[str, Line] = {}
        for place, document in enumerate(documents):
            name = _name(documents, place)
            try:
                line = load_line(orjson.dumps(document), key, self._numbering)
            except (DocumentError, TypeError) as error:  # TypeError: JSON cannot represent it
                raise Wrong(f"{name}: {error}") from None
            if line.number in lines:
                raise Wrong(f"{name}: number: is given twice (got {document['number']!r})")
            lines[line.number] = line
        return list(lines.values())

    def _check(self, documents: list[Document | None], lines: list[Line], read: Read) -> None:
        """Check documents that are written together; they may name one another. Forwards that are
        off are checked too. Raises Wrong."""
        parts = [document for document in documents if document is not None]
        own = {line.number: line for line in lines}
        named = {number for part in parts for number in numbers_named(part, self._numbering)}
        others: dict[str, Line | None] = {}
        for number, raw in read(sorted(named - own.keys())).items():
            try:
                others[number] = load_line(raw, number, self._numbering)
            except DocumentError as error:
                raise Wrong(f"line {number}: its own document is refused: {error}") from None
        others |= own
        self._fleets.clear()
        for place, (document, line) in enumerate(zip(documents, lines, strict=True)):
            if document is None:
                continue
            try:
                fleet = self.fleet(line.fleet)
                check_write(document, others, self._numbering, line.number, fleet)
            except DocumentError as error:
                raise Wrong(f"{_name(documents, place)}: {error}") from None


def parse_document(raw: bytes, name: str) -> Document:
    """The JSON object in `raw`. Raises Wrong."""
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Wrong(f"{name}: is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Wrong(f"{name}: expected a JSON object (got {type(document).__name__})")
    return document


def _name(documents: Sequence[Document | None], place: int) -> str:
    """The name of a document in errors."""
    number = (documents[place] or {}).get("number")
    where = f" {number}" if isinstance(number, str) else ""
    return f"document {place + 1}, line{where}" if len(documents) > 1 else f"line{where}"
