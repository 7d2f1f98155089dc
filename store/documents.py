"""The documents of lines and fleets: written only over what was read, with their log of changes.

A writer makes attempts. Each reads what it needs, decides and writes. Redis executes the write only
if nothing that the attempt has read was changed meanwhile; otherwise the next attempt reads again.
A single Redis compares and writes everything in one step, all or nothing, with the entries of the
log. In a Cluster keys are on several nodes: each document is compared and written separately, and
its entries follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson
import redis
import redis.asyncio

from store import audit
from store.connection import Command
from store.keys import FLEET, LINE
from store.script import Script

ATTEMPTS = 20
"""Attempts before a writer gives up because others keep writing."""

Document = Mapping[str, Any]
Documents = Mapping[str, Document | None]
"""By a line's number or a fleet's name; None = it is deleted."""
Entries = Callable[[str, str, str, bytes | None, Document | None], audit.Entries]

# KEYS: the documents, then the logs. ARGV: how many entries a log keeps, the content in
# MessagePack, then the texts to which it refers by their positions in ARGV (0 = none).
# Document: [text that was read, whether it is written, new text, entries].
# Entry: [position of its log in KEYS, fields and values in turn].
# Returns 0 if a document was changed meanwhile. If a document already has the new text, this
# command may have written it before and lost the reply.
_SWAP = Script("""
local documents = cmsgpack.unpack(ARGV[2])
local function at(place) return place > 0 and ARGV[place] end
local now = {}
for n, document in ipairs(documents) do
  now[n] = redis.call('MGET', KEYS[n])[1]
  if now[n] ~= at(document[1]) and not (document[2] and now[n] == at(document[3])) then return 0 end
end
for n, document in ipairs(documents) do
  local new = at(document[3])
  if document[2] and now[n] ~= new then
    if new then redis.call('SET', KEYS[n], new) else redis.call('DEL', KEYS[n]) end
    for _, entry in ipairs(document[4]) do
      local words = {}
      for place = 2, #entry do words[place - 1] = at(entry[place]) end
      redis.call('XADD', KEYS[entry[1]], 'MAXLEN', '~', ARGV[1], '*', unpack(words))
    end
  end
end
return 1
""")
_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of documents: the prefix of their keys, and the log entries of a change."""

    prefix: str
    entries: Entries


LINES, FLEETS = Kind(LINE, audit.of_line), Kind(FLEET, audit.of_fleet)


@dataclass(slots=True)
class _Attempt:
    """One attempt at a change."""

    client: Any
    kind: Kind
    seen: dict[str, bytes | None] = field(default_factory=dict)

    def _unseen(self, names: Iterable[str]) -> dict[str, str]:
        """Those that have not been read yet, by key."""
        return {self.kind.prefix + name: name for name in names if name not in self.seen}

    def _found(self, names: Iterable[str]) -> dict[str, bytes]:
        found = ((name, self.seen[name]) for name in names)
        return {name: text for name, text in found if text is not None}

    def _steps(
        self, documents: Documents, who: str, how: str
    ) -> Iterator[tuple[list[str], list[Any], list[Command]]]:
        """What to send: keys and arguments of the script, and the commands after its success."""
        logged = {
            name: self.kind.entries(who, how, name, self.seen.get(name), document)
            for name, document in documents.items()
        }
        if isinstance(self.client, redis.Redis | redis.asyncio.Redis):
            yield *self._step(dict.fromkeys((*documents, *self.seen)), documents, logged), []
            return
        for name in documents:
            follow = [audit.command(log, fields) for log, fields in logged[name]]
            yield *self._step([name], documents, {}), follow

    def _step(
        self, names: Iterable[str], documents: Documents, logged: Mapping[str, audit.Entries]
    ) -> tuple[list[str], list[Any]]:
        """Keys and arguments of the script for some of the documents."""
        keys = {self.kind.prefix + name: place for place, name in enumerate(names, 1)}
        arguments: list[Any] = [audit.KEPT, b""]

        def word(text: str | bytes | None) -> int:
            if text is None:
                return 0
            arguments.append(text)
            return len(arguments)

        content = []
        for name in names:
            document = documents.get(name)
            entries = []
            for log, fields in logged.get(name, ()):
                words = [word(part) for field in fields.items() for part in field]
                entries.append((keys.setdefault(log, len(keys) + 1), *words))
            new = word(None if document is None else orjson.dumps(document))
            content.append((word(self.seen.get(name)), name in documents, new, entries))
        arguments[1] = _pack(content)
        return list(keys), arguments


class Attempt(_Attempt):
    """One attempt, on asyncio's loop. Methods raise REDIS_ERRORS."""

    async def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """The stored texts of the existing ones, as first read."""
        wanted = list(names)
        unseen = self._unseen(wanted)
        texts = await read(self.client, list(unseen))
        self.seen.update(zip(unseen.values(), texts, strict=True))
        return self._found(wanted)

    async def write(self, documents: Documents, who: str, how: str) -> bool:
        """Write all of them. False if one was changed meanwhile and nothing was written (in a
        Cluster some may be)."""
        for keys, arguments, follow in self._steps(documents, who, how):
            if not await _SWAP.run(self.client, keys, *arguments):
                return False
            for command in follow:
                await self.client.execute_command(*command)
        return True


class BlockingAttempt(_Attempt):
    """The same for commands, which run outside a loop."""

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """See Attempt."""
        wanted = list(names)
        unseen = self._unseen(wanted)
        texts = read_blocking(self.client, list(unseen))
        self.seen.update(zip(unseen.values(), texts, strict=True))
        return self._found(wanted)

    def write(self, documents: Documents, who: str, how: str) -> bool:
        """See Attempt."""
        for keys, arguments, follow in self._steps(documents, who, how):
            if not self.client.execute_command(*_SWAP.whole(keys, *arguments)):
                return False
            for command in follow:
                self.client.execute_command(*command)
        return True


def attempts(client: Any, kind: Kind) -> Iterator[Attempt]:
    """Yields attempts until the change is done; after the last one writers report that others keep
    writing."""
    return (Attempt(client, kind) for _ in range(ATTEMPTS))


def attempts_blocking(client: Any, kind: Kind) -> Iterator[BlockingAttempt]:
    """The same for commands."""
    return (BlockingAttempt(client, kind) for _ in range(ATTEMPTS))


async def read(client: Any, keys: Sequence[str]) -> list[bytes | None]:
    """The texts at some keys, in one request. Raises REDIS_ERRORS."""
    if len(keys) == 1:
        return [await client.get(keys[0])]
    if not keys:
        return []
    pipe: Any = client.pipeline(transaction=False)  # in a Cluster they are on several nodes
    for key in keys:
        pipe.get(key)
    return list(await pipe.execute())


def read_blocking(client: Any, keys: Sequence[str | bytes]) -> list[bytes | None]:
    """The same for commands."""
    if not keys:
        return []
    return list((client.mget if isinstance(client, redis.Redis) else client.mget_nonatomic)(keys))
