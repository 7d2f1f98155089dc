"""Line documents in Redis, as commands read and change them (design.md 3.3).

A change is checked as a whole, together with the lines it points at, and written in one
transaction that gives up when one of them changed meanwhile: then it is checked again. Its entries
in the log of changes are part of it. In a Redis Cluster, which has no transaction over several
keys, that holds for each document by itself.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson
import redis
from redis.exceptions import WatchError

from engine.changes import audit
from engine.commands.context import Failed, Wrong
from rules.model import DocumentError, Line, load_line
from rules.numbers import Numbering
from rules.validate import canonical, check_write

PREFIX = "line:"
ATTEMPTS = 20
BATCH = 1000

Document = dict[str, Any]
Read = Callable[[Iterable[str]], dict[str, bytes]]
Entries = Mapping[str, audit.Entries]  # by the key of the document


class Documents:
    """The line documents of one Redis."""

    def __init__(self, client: redis.Redis, numbering: Numbering) -> None:
        self._redis: Any = client  # redis-py types every answer as "or an awaitable of it"
        self._is_cluster = not isinstance(client, redis.Redis)
        self._numbering = numbering

    def raw(self, number: str) -> bytes:
        """The stored text. Raises Wrong for an unknown line."""
        raw = self._redis.get(PREFIX + number)
        if raw is None:
            raise Wrong(f"line {number}: unknown line")
        return bytes(raw)

    def every(self) -> Iterator[tuple[str, bytes]]:
        """Number and stored text of every line, ordered by number."""
        keys = sorted({bytes(key) for key in self._redis.scan_iter(PREFIX + "*", count=BATCH)})
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            for key, raw in zip(batch, self._values(batch), strict=True):
                if raw is not None:  # deleted meanwhile
                    yield key.decode(errors="replace").removeprefix(PREFIX), raw

    def lines(self, numbers: Iterable[str]) -> dict[str, Line | None]:
        """The lines of these numbers; None = no line of ours, or a refused document."""
        result: dict[str, Line | None] = {}
        wanted = list(dict.fromkeys(numbers))
        for number, raw in zip(wanted, self._values([PREFIX + n for n in wanted]), strict=True):
            try:
                result[number] = load_line(raw, number, self._numbering) if raw else None
            except DocumentError:
                result[number] = None
        return result

    def put(self, documents: list[Document]) -> list[Line]:
        """Writes whole documents, all or none. Raises Wrong naming the field of the first that
        is refused.
        """
        return self._change(lambda _read: documents, None)

    def edit(
        self, number: str, change: Callable[[Document], None], with_others: bool = True
    ) -> Line:
        """Changes one document in place; what `change` does not touch stays as it is.

        `with_others` false leaves out the checks against the lines it points at: turning a
        forward off must stay possible whatever they have become. Raises Wrong.
        """

        def prepare(read: Read) -> list[Document]:
            raw = read([number]).get(number)
            if raw is None:
                raise Wrong(f"line {number}: unknown line")
            document = parse_document(raw, f"line {number}")
            change(document)
            return [document]

        return self._change(prepare, number, with_others)[0]

    def delete(self, number: str) -> None:
        """Raises Wrong for an unknown line."""
        for _ in range(ATTEMPTS):
            with self._begin() as change:
                before = change.read([number]).get(number)
                if before is None:
                    raise Wrong(f"line {number}: unknown line")
                key = PREFIX + number
                entries = {key: audit.entries(myself(), "cli", number, before, None)}
                if change.write({key: None}, entries):
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
            targets = [f.to.number for f in line.forwards.values() if f.on and f.to]
            if other != number and number in targets:
                found.append(other)
        return found

    def _change(
        self,
        prepare: Callable[[Read], list[Document]],
        number: str | None,
        with_others: bool = True,
    ) -> list[Line]:
        """Writes what `prepare` gives, which reads through the transaction it is handed.

        `number`: the key of a single document, which its content must not contradict.
        """
        for _ in range(ATTEMPTS):
            with self._begin() as change:
                documents = prepare(change.read)
                lines = self._lines(documents, number)
                if with_others:
                    self._check(documents, lines, change.read)
                if change.write(*_written(documents, lines, change.read)):
                    return lines
        raise Failed("line: changed by others all the time, nothing was written")

    def _begin(self) -> _Compared | _Transaction:
        return _Compared(self._redis) if self._is_cluster else _Transaction(self._redis)

    def _lines(self, documents: list[Document], key: str | None) -> list[Line]:
        """What the documents say by themselves, each number once. Raises Wrong."""
        lines: dict[str, Line] = {}
        for place, document in enumerate(documents):
            name = _name(documents, place)
            try:
                line = load_line(orjson.dumps(document), key, self._numbering)
            except (DocumentError, TypeError) as error:  # TypeError: what JSON cannot hold
                raise Wrong(f"{name}: {error}") from None
            if line.number in lines:
                raise Wrong(f"{name}: number: is given twice (got {document['number']!r})")
            lines[line.number] = line
        return list(lines.values())

    def _check(self, documents: list[Document], lines: list[Line], read: Read) -> None:
        """Checks documents that are written together; they may name one another. Raises Wrong."""
        own = {line.number: line for line in lines}
        named = {number for line in lines for number in line.target_numbers()}
        others: dict[str, Line | None] = {}
        for number, raw in read(sorted(named - own.keys())).items():
            try:
                others[number] = load_line(raw, number, self._numbering)
            except DocumentError as error:
                raise Wrong(f"line {number}: its own document is refused: {error}") from None
        others |= own
        for place, document in enumerate(documents):
            try:
                check_write(document, others, self._numbering, lines[place].number)
            except DocumentError as error:
                raise Wrong(f"{_name(documents, place)}: {error}") from None

    def _values(self, keys: list[Any]) -> list[bytes | None]:
        if not keys:
            return []
        read = self._redis.mget_nonatomic if self._is_cluster else self._redis.mget
        return list(read(keys))


class _Transaction:
    """A change that Redis carries out whole, unless something that was read has changed."""

    def __init__(self, client: Any) -> None:
        self._pipeline = client.pipeline()

    def __enter__(self) -> _Transaction:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline.reset()

    def read(self, numbers: Iterable[str]) -> dict[str, bytes]:
        """The stored texts of those that there are."""
        keys = {PREFIX + number: number for number in numbers}
        if not keys:
            return {}
        self._pipeline.watch(*keys)
        values = self._pipeline.mget(list(keys))
        return {n: bytes(v) for n, v in zip(keys.values(), values, strict=True) if v is not None}

    def write(self, texts: Mapping[str, bytes | None], entries: Entries) -> bool:
        """Write these documents (None = delete), and tell of it in the log of changes. Whether it
        was carried out."""
        self._pipeline.multi()
        for key, text in texts.items():
            if text is None:
                self._pipeline.delete(key)
            else:
                self._pipeline.set(key, text)
            for stream, fields in entries[key]:
                self._pipeline.xadd(stream, fields, maxlen=audit.KEPT, approximate=True)
        try:
            self._pipeline.execute()
        except WatchError:
            return False
        return True


# KEYS: a document's. ARGV: the new text (empty: delete it), and the one that it must have now
# (absent: none).
_COMPARE_AND_SET = """
local now = redis.call('GET', KEYS[1])
if now ~= (ARGV[2] or false) and now ~= ARGV[1] then return 0 end
if ARGV[1] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[1]) end
return 1
"""


class _Compared:
    """The same on a Cluster, where keys are on several nodes: each document is written only over
    the one that was read. One that was not written makes the caller try again; those that were
    written by then are written again, as they are."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._seen: dict[str, bytes | None] = {}

    def __enter__(self) -> _Compared:
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.clear()

    def read(self, numbers: Iterable[str]) -> dict[str, bytes]:
        """The stored texts of those that there are, as they were when they were read first."""
        keys = {PREFIX + number: number for number in numbers}
        new = [key for key in keys if key not in self._seen]
        if new:
            self._seen.update(zip(new, self._client.mget_nonatomic(new), strict=True))
        found = ((number, self._seen[key]) for key, number in keys.items())
        return {number: bytes(text) for number, text in found if text is not None}

    def write(self, texts: Mapping[str, bytes | None], entries: Entries) -> bool:
        """Whether all were written (None = deleted). The log lives on other nodes, and follows."""
        for key, text in texts.items():
            before = self._seen.get(key)
            arguments = [text or b""] if before is None else [text or b"", before]
            if not self._client.execute_command("EVAL", _COMPARE_AND_SET, 1, key, *arguments):
                return False
            for stream, fields in entries[key]:
                self._client.xadd(stream, fields, maxlen=audit.KEPT, approximate=True)
        return True


def _written(
    documents: list[Document], lines: list[Line], read: Read
) -> tuple[dict[str, bytes | None], Entries]:
    """The texts to write, by key, and what the log of changes is told of each."""
    before = read([line.number for line in lines])
    texts: dict[str, bytes | None] = {}
    entries = {}
    for document, line in zip(documents, lines, strict=True):
        key, written = PREFIX + line.number, canonical(document, line)
        texts[key] = orjson.dumps(written)
        told = audit.entries(myself(), "cli", line.number, before.get(line.number), written)
        entries[key] = told
    return texts, entries


def myself() -> str:
    """Who types the command, for the log of changes."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "?"


def parse_document(raw: bytes, name: str) -> Document:
    """The JSON object in `raw`. Raises Wrong."""
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Wrong(f"{name}: is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Wrong(f"{name}: expected a JSON object (got {type(document).__name__})")
    return document


def _name(documents: list[Document], place: int) -> str:
    """How an error names one of the documents."""
    number = documents[place].get("number")
    where = f" {number}" if isinstance(number, str) else ""
    return f"document {place + 1}, line{where}" if len(documents) > 1 else f"line{where}"
