"""A Redis client from `redis.url`, for every form of URL that the configuration takes.

Clients retry once, at once, what was sent over a connection that had been dropped while it was
idle, and wait for nothing longer than the socket limits they are given. Whatever is written
through them must therefore be harmless when it is written twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, SlotNotCoveredError
from redis.retry import Retry

from store.url import read_url

Client = redis.asyncio.Redis
"""What `connect` gives. For a cluster it is no Redis by its class (it is a RedisCluster) and is one
by its methods, for commands and scripts about one key."""

_SENTINEL_S = 0.5
"""How long one sentinel may take to say who the master is; then the next is asked."""
_ASKING = {"socket_timeout": _SENTINEL_S, "socket_connect_timeout": _SENTINEL_S}
_CLUSTER_S = 0.9
"""How long a node of a cluster may be silent before the others are asked who has its keys. Under
the time that a writer gives Redis, else it would never ask."""
_CLUSTER_RETRIES = 2
_LOST = (redis.ConnectionError, redis.TimeoutError, ClusterDownError, SlotNotCoveredError)


class _SentinelClient(redis.asyncio.Redis):
    """The client of a master; closing it closes the connections to the sentinels too."""

    manager: Any = None

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        if self.manager is not None:
            await self.manager.aclose()


def connect(url: str, **options: Any) -> Client:
    """An asyncio client; `options` go to redis-py. Opens no connection yet.

    `embedded` has no URL of its own: give that of `EmbeddedRedis`. Raises ValueError.
    """
    place = read_url(url)
    if place.shape == "sentinel":
        sentinel: Any = redis.asyncio.sentinel.Sentinel
        manager = sentinel(place.hosts, sentinel_kwargs={**_ASKING, **place.asking})
        settings = {"retry": _once(), **options, **place.settings}
        client: _SentinelClient = manager.master_for(
            place.master, redis_class=_SentinelClient, **settings
        )
        client.manager = manager
        return client
    if place.shape == "cluster":
        nodes = [redis.asyncio.cluster.ClusterNode(*host) for host in place.hosts]
        cluster: Any = redis.asyncio.cluster.RedisCluster(
            startup_nodes=nodes,
            retry=AsyncRetry(NoBackoff(), _CLUSTER_RETRIES),
            **{**_cluster_limits(options), **place.settings},
        )
        return cast(Client, cluster)
    options = {"retry": _once(), **options}
    return redis.asyncio.Redis.from_url(place.url, **options)


def connect_blocking(url: str, **options: Any) -> redis.Redis:
    """The same as `connect`, for the commands that run outside a loop."""
    place = read_url(url)
    options = {**options, **place.settings}
    if place.shape == "sentinel":
        sentinel: Any = redis.sentinel.Sentinel
        manager = sentinel(place.hosts, sentinel_kwargs={**_ASKING, **place.asking})
        client: redis.Redis = manager.master_for(place.master, retry=_once_blocking(), **options)
        return client
    if place.shape == "cluster":
        node: Any = redis.cluster.ClusterNode
        nodes = [node(*host) for host in place.hosts]
        cluster: Any = redis.cluster.RedisCluster(
            startup_nodes=nodes, retry=Retry(NoBackoff(), _CLUSTER_RETRIES), **options
        )
        return cast(redis.Redis, cluster)
    return redis.Redis.from_url(place.url, retry=_once_blocking(), **options)


async def exchange(client: Client, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Send commands, each about one key, in as few round trips as the shape of Redis allows.

    Returns their replies in order; what was refused, or could not be delivered because its node of
    a cluster is away, has its exception as its reply. Raises REDIS_ERRORS when all of Redis
    is away.
    """
    pipe: Any = client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    replies: list[Any] = await pipe.execute(raise_on_error=False)
    cluster: Any = client
    lost = any(isinstance(reply, _LOST) for reply in replies)
    if lost and isinstance(cluster, redis.asyncio.cluster.RedisCluster):
        # A pipeline does not look around by itself for who has the keys now.
        await cluster.nodes_manager.initialize()
    return replies


def _once() -> AsyncRetry:
    """One more attempt at once when a connection is lost; none when Redis is silent. The client
    repeats at the address it had: after a fail-over only the next command finds the new master."""
    return AsyncRetry(NoBackoff(), 1, (redis.ConnectionError,))


def _once_blocking() -> Retry:
    return Retry(NoBackoff(), 1, (redis.ConnectionError,))


def _cluster_limits(options: dict[str, Any]) -> dict[str, Any]:
    limits = {
        name: min(_CLUSTER_S, options.get(name) or _CLUSTER_S)
        for name in ("socket_timeout", "socket_connect_timeout")
    }
    return {**options, **limits}
