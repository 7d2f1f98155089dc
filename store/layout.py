"""Which server holds which key: a single server, a master that Sentinel names, or a cluster.

A layout follows the reports of the servers. When keys move, or a master changes, the shards
concerned reconnect and everything read from them is in doubt.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.crc import key_slot
from redis.exceptions import AskError, ResponseError

from store import background_tasks
from store.connection import Connection, dial_like, dial_node
from store.redis_errors import REDIS_ERRORS
from store.shard import Shard

SLOTS = 16384
_POLL_S = 0.5
_ANSWER_S = 1.0
_SEEK_S = 0.25

Client = Redis | RedisCluster
MakeShard = Callable[..., Shard]
Address = tuple[str, int]


class Layout:
    """A single server, or the master that Sentinel names.

    Args:
        client: the engine's Redis client.
        make: makes a shard from its name, its dial and more arguments of `Shard`.
    """

    def __init__(self, client: Redis, make: MakeShard) -> None:
        pool = client.connection_pool
        self._sentinel = pool if isinstance(pool, SentinelConnectionPool) else None
        self._only = make("redis", dial_like(client))
        self._watch: asyncio.Task[None] | None = None
        self.shards: Sequence[Shard] = (self._only,)

    async def start(self) -> None:
        """Connect, and wait until Redis has answered or has been found away (1 s at most)."""
        self._only.start()
        if self._sentinel is not None:
            self._watch = asyncio.create_task(self._follow(), name="rules: sentinel")
        await self._only.tried()

    async def close(self) -> None:
        """Close every shard."""
        await background_tasks.end([self._watch])
        await self._only.close()

    def shard_of(self, key: str) -> Shard | None:
        """Who holds a key; None when nobody is known to."""
        return self._only

    def redirect(self, error: AskError) -> Shard | None:
        """The shard to which a shard redirects a key; None here."""
        return None

    def answers(self, shard: Shard, replies: Sequence[Any]) -> None:
        """Handle a shard's replies to its questions."""

    async def _follow(self) -> None:
        """Sentinel may name another master while the old one hangs or still answers."""
        assert self._sentinel is not None
        manager, name = self._sentinel.sentinel_manager, self._sentinel.service_name
        known: object = None
        while True:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    master = await manager.discover_master(name)
                if known is not None and master != known:
                    self._only.restart()
                known = master
            except REDIS_ERRORS:
                pass  # it is asked again
            except Exception as error:
                background_tasks.report("rules: Sentinel was not asked", error)
            await asyncio.sleep(_POLL_S if self._only.up else _SEEK_S)


class ClusterLayout(Layout):
    """A cluster: a shard for each master that has slots.

    Every master is asked twice a second for its view of the cluster. The view of the latest epoch
    counts: a node that is cut off from the majority has an older one.
    """

    _QUESTIONS = (("CLUSTER", "SLOTS"), ("CLUSTER", "INFO"))

    def __init__(self, client: RedisCluster, make: MakeShard) -> None:
        self._client = client
        self._make = make
        self._seeds: list[Address] = [(node.host, int(node.port)) for node in client.startup_nodes]
        self._shards: dict[Address, Shard] = {}
        self._ranges: dict[Address, tuple[tuple[int, int], ...]] = {}
        self._slots: list[Shard | None] = [None] * SLOTS
        self._epoch = -1
        self._closing: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self.shards: Sequence[Shard] = ()

    async def start(self) -> None:
        """Ask the nodes of the URL for the slots, then continue as for a single server."""
        await self._seek_once()
        self._watch = background_tasks.keep(
            self._seek, "rules: no master was looked for", name="rules: cluster"
        )
        await asyncio.gather(*(shard.tried() for shard in self.shards))

    async def close(self) -> None:
        """Close every shard."""
        await background_tasks.end([self._watch])
        await asyncio.gather(*self._closing, *(shard.close() for shard in self.shards))

    def shard_of(self, key: str) -> Shard | None:
        """Who holds a key; None when nobody is known to."""
        return self._slots[key_slot(key.encode())]

    def redirect(self, error: AskError) -> Shard | None:
        """The shard to which a shard redirects a key, if it is known. Also updates the view of the
        cluster."""
        for shard in self.shards:
            shard.probe()
        return self._shards.get((error.host, error.port))

    def answers(self, shard: Shard, replies: Sequence[Any]) -> None:
        """Handle a master's view of the cluster."""
        slots, info = replies
        if isinstance(slots, ResponseError) or isinstance(info, ResponseError):
            return
        address = next((a for a, known in self._shards.items() if known is shard), None)
        if address is not None:
            self._see(slots, info, address)

    def _see(self, slots: Any, info: bytes, source: Address) -> None:
        epoch = _epoch_of(info)
        if epoch < self._epoch:
            return
        self._epoch = epoch
        ranges: dict[Address, list[tuple[int, int]]] = {}
        for first, last, (host, port, *_), *_ in slots:
            address = (host.decode() if host else source[0], int(port))
            ranges.setdefault(address, []).append((int(first), int(last)))
        found = {address: tuple(sorted(theirs)) for address, theirs in ranges.items()}
        if found and found != self._ranges:
            self._apply(found)

    def _apply(self, found: dict[Address, tuple[tuple[int, int], ...]]) -> None:
        """Apply other masters or slots: new shards start, changed ones forget, old ones end."""
        before = self._ranges
        gone = [shard for address, shard in self._shards.items() if address not in found]
        kept = {a: shard for a, shard in self._shards.items() if a in found}
        self._shards = {}
        self._slots = [None] * SLOTS
        for address, ranges in found.items():
            shard = kept.get(address)
            if shard is None:
                host, port = address
                shard = self._make(
                    f"{host}:{port}",
                    dial_node(self._client, host, port),
                    questions=self._QUESTIONS,
                    every_s=_POLL_S,
                )
                shard.start()
            elif before.get(address) != ranges:
                shard.doubt()
            self._shards[address] = shard
            for first, last in ranges:
                self._slots[first : last + 1] = [shard] * (last + 1 - first)
            shard.canary.key = _key_in(shard.canary.prefix, ranges)
            shard.canary.expect_nothing()
        self.shards = tuple(self._shards.values())
        self._ranges = found  # not before: an error above leaves it to the next view
        for shard in gone:
            # Not awaited: the shard that reported this may be the one that ends.
            task = asyncio.create_task(shard.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _seek(self) -> None:
        """If no known master answers, ask the nodes of the URL and all nodes known before."""
        while True:
            await asyncio.sleep(_SEEK_S)
            if not any(shard.up for shard in self.shards):
                await self._seek_once()

    async def _seek_once(self) -> None:
        for address in dict.fromkeys((*self._seeds, *self._shards)):
            connection = Connection(dial_node(self._client, *address))
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await connection.open()
                    slots, info = await connection.ask(self._QUESTIONS)
                if not isinstance(slots, ResponseError) and not isinstance(info, ResponseError):
                    self._see(slots, info, address)
                    if self.shards:
                        return
            except REDIS_ERRORS:
                continue
            except Exception as error:  # the others may have a view that can be used
                background_tasks.report(f"rules: the view of {address} was not used", error)
            finally:
                await connection.close()


def layout_of(client: Client, make: MakeShard) -> Layout:
    """The layout of a client's Redis."""
    if isinstance(client, RedisCluster):
        return ClusterLayout(client, make)
    return Layout(client, make)


def _epoch_of(info: bytes) -> int:
    for line in info.splitlines():
        name, _, value = line.partition(b":")
        if name == b"cluster_current_epoch":
            return int(value)
    return 0


def _key_in(prefix: str, ranges: Sequence[tuple[int, int]]) -> str:
    """Find a key with this prefix in one of the slots. Takes about as many attempts as there are
    masters."""
    number = 0
    while True:
        key = f"{prefix}:{number}"
        slot = key_slot(key.encode())
        if any(first <= slot <= last for first, last in ranges):
            return key
        number += 1
