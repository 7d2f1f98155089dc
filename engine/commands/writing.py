"""How commands write documents: all of a change or nothing, with its entries in the log of changes.

A change is one transaction, which gives up when a document that was read for it has changed
meanwhile: the caller looks again and tries again. In a Redis Cluster, which has no transaction over
several keys, that holds for each document by itself.
"""

from __future__ import annotations

import getpass
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import redis
from redis.exceptions import WatchError

from engine.changes import audit

ATTEMPTS = 20
Read = Callable[[Iterable[str]], dict[str, bytes]]
Entries = Mapping[str, audit.Entries]  # by the name of the document


class Writing(ABC):
    """One attempt at a change of documents that have a prefix in common. They are named by what
    follows it: a line's number, a fleet's name."""

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @abstractmethod
    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """The stored texts of those that there are."""

    @abstractmethod
    def write(self, texts: Mapping[str, bytes | None], entries: Entries) -> bool:
        """Write these documents (None = delete), and tell of it in the log of changes. Whether all
        was carried out."""


def begin(client: Any, prefix: str) -> Writing:
    """An attempt at a change of the documents under `prefix`."""
    is_cluster = not isinstance(client, redis.Redis)
    return _Compared(client, prefix) if is_cluster else _Transaction(client, prefix)


class _Transaction(Writing):
    """A change that Redis carries out whole, unless something that was read has changed."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._prefix = prefix
        self._pipeline = client.pipeline()

    def __exit__(self, *_: object) -> None:
        self._pipeline.reset()

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        keys = {self._prefix + name: name for name in names}
        if not keys:
            return {}
        self._pipeline.watch(*keys)
        values = self._pipeline.mget(list(keys))
        return {n: bytes(v) for n, v in zip(keys.values(), values, strict=True) if v is not None}

    def write(self, texts: Mapping[str, bytes | None], entries: Entries) -> bool:
        self._pipeline.multi()
        for name, text in texts.items():
            if text is None:
                self._pipeline.delete(self._prefix + name)
            else:
                self._pipeline.set(self._prefix + name, text)
            for stream, fields in entries[name]:
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


class _Compared(Writing):
    """The same on a Cluster, where keys are on several nodes: each document is written only over
    the one that was read. One that was not written makes the caller try again; those that were
    written by then are written again, as they are."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._prefix = prefix
        self._client = client
        self._seen: dict[str, bytes | None] = {}

    def __exit__(self, *_: object) -> None:
        self._seen.clear()

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """See Writing; as they were when they were read first."""
        keys = {self._prefix + name: name for name in names}
        new = [key for key in keys if key not in self._seen]
        if new:
            self._seen.update(zip(new, self._client.mget_nonatomic(new), strict=True))
        found = ((name, self._seen[key]) for key, name in keys.items())
        return {name: bytes(text) for name, text in found if text is not None}

    def write(self, texts: Mapping[str, bytes | None], entries: Entries) -> bool:
        """See Writing. The log lives on other nodes, and follows."""
        for name, text in texts.items():
            key = self._prefix + name
            before = self._seen.get(key)
            arguments = [text or b""] if before is None else [text or b"", before]
            if not self._client.execute_command("EVAL", _COMPARE_AND_SET, 1, key, *arguments):
                return False
            for stream, fields in entries[name]:
                self._client.xadd(stream, fields, maxlen=audit.KEPT, approximate=True)
        return True


def myself() -> str:
    """Who types the command, for the log of changes."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "?"
