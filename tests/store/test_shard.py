"""A shard that is closed while somebody waits for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import redis.asyncio

from store.shard import Shard
from tests.patience import within


class _Ignores:
    """Gets the reports of a shard, and ignores them."""

    def on_keys(self, shard: Shard, keys: Sequence[bytes] | None) -> None: ...

    def on_stream(self, shard: Shard) -> None: ...

    def on_answers(self, shard: Shard, replies: Sequence[Any]) -> None: ...

    def on_shard_trouble(self, shard: Shard, error: BaseException, kind: str) -> None: ...


async def test_a_start_goes_on_when_the_server_it_waits_for_leaves_the_cluster() -> None:
    """The layout closes the shard of a master that another one's view no longer names. The engine
    and the manager wait for the shards that they found first."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        shard = Shard(
            "a server that does not answer",
            lambda: redis.asyncio.Connection(host=host, port=port),
            prefixes=("line:",),
            canary="test",
            watcher=_Ignores(),
        )
        shard.start()
        waiting = asyncio.create_task(shard.tried())
        await asyncio.sleep(0)
        await shard.close()
        async with asyncio.timeout(within(5)):
            await waiting
