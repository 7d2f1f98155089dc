"""A Redis client from `redis.url`, for every form of URL that the configuration takes.

A command over a connection that was dropped while idle is retried once, at once. No command waits
longer than the given socket limits. So every write through these clients must be harmless when
repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any, cast

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, ResponseError, SlotNotCoveredError
from redis.retry import Retry

from store.redis_errors import REDIS_ERRORS, kind_of
from store.url import read_url

Client = redis.asyncio.Redis
"""The result of `connect`. For a cluster it is a RedisCluster, which has the same methods for
commands and scripts about one key."""

_SENTINEL_S = 0.5
"""Seconds that one sentinel may take to name the master; then the next is asked."""
_ASKING = {"socket_timeout": _SENTINEL_S, "socket_connect_timeout": _SENTINEL_S}
_CLUSTER_S = 0.9
"""Seconds that a cluster node may be silent before the others are asked for the owner of its keys.
Must be shorter than a writer's timeout, or they would never be asked."""
_CLUSTER_RETRIES = 2
_CONNECTIONS = 1_000
"""Connections at once. redis-py 8 allows 100 by default and refuses further commands, as if Redis
were away; a page about 200 fleets sends more."""
ANSWER_S = 3.0
"""Seconds that Redis has to answer a new client (`unreachable`)."""
RENEW_S = 5.0
"""Seconds between two attempts to find a master by its name while Redis is read-only."""
_LOST = (redis.ConnectionError, redis.TimeoutError, ClusterDownError, SlotNotCoveredError)


class _Renewed(AbstractConnection):
    """A connection that is made anew before its next use after Redis has refused a write as
    read-only: a master that became a replica keeps its connections, and by then its name may lead
    to the new one."""

    _is_read_only = False
    _made_at = 0.0

    async def connect(self) -> None:
        """As redis-py, whose pool calls it before each use."""
        if self._is_read_only and time.monotonic() - self._made_at > RENEW_S:
            await self.disconnect(nowait=True)
        if not self.is_connected:
            self._is_read_only, self._made_at = False, time.monotonic()
        parent: Any = super()
        await parent.connect()

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py."""
        parent: Any = super()
        try:
            return await parent.read_response(*args, **options)
        except ResponseError as error:
            self._is_read_only = self._is_read_only or kind_of(error) == "read_only"
            raise


class _RenewedTcp(_Renewed, redis.asyncio.Connection):
    pass


class _RenewedTls(_Renewed, redis.asyncio.SSLConnection):
    pass


class _RenewedUnix(_Renewed, redis.asyncio.UnixDomainSocketConnection):
    pass


_RENEWED: dict[type[AbstractConnection], type[AbstractConnection]] = {
    redis.asyncio.Connection: _RenewedTcp,
    redis.asyncio.SSLConnection: _RenewedTls,
    redis.asyncio.UnixDomainSocketConnection: _RenewedUnix,
}


class _SentinelClient(redis.asyncio.Redis):
    """The client of a master; closing it closes the connections to the sentinels too."""

    manager: Any = None

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        if self.manager is not None:
            await self.manager.aclose()


def connect(url: str, **options: Any) -> Client:
    """Make an asyncio client; `options` go to redis-py. Opens no connection yet.

    `embedded` has no URL of its own: give that of `EmbeddedRedis`. Raises ValueError.
    """
    place = read_url(url)
    options = {"max_connections": _CONNECTIONS, **options}
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
    single = redis.asyncio.Redis.from_url(place.url, **{"retry": _once(), **options})
    pool = single.connection_pool
    pool.connection_class = _RENEWED[pool.connection_class]
    return single


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


async def close(client: Client) -> None:
    """Close its connections. redis-py raises when one takes long, as it may on a busy machine; such
    a connection is left to the system, for nothing more is sent on it."""
    with contextlib.suppress(*REDIS_ERRORS):
        await client.aclose()


async def unreachable(url: str) -> str:
    """Why Redis does not answer a new client within ANSWER_S; empty if it does. Without it no
    process of the engine starts."""
    options = {"socket_connect_timeout": ANSWER_S, "socket_timeout": ANSWER_S}
    try:
        client = connect(url, **options)
        try:
            await asyncio.wait_for(client.ping(), ANSWER_S)
        finally:
            await close(client)
    except (*REDIS_ERRORS, ValueError) as error:
        return str(error) or "no answer"
    return ""


async def exchange(client: Client, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Send commands, each about one key, in as few round trips as the deployment allows.

    Returns their replies in order. The reply of a refused command, or of one whose cluster node is
    away, is an exception. Raises REDIS_ERRORS if all of Redis is away.
    """
    pipe: Any = client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    replies: list[Any] = await pipe.execute(raise_on_error=False)
    cluster: Any = client
    lost = any(isinstance(reply, _LOST) for reply in replies)
    if lost and isinstance(cluster, redis.asyncio.cluster.RedisCluster):
        # A pipeline does not look for the present owner of the keys by itself.
        await cluster.nodes_manager.initialize()
    return replies


def _once() -> AsyncRetry:
    """Retry once, at once, if a connection is lost; not if Redis is silent. The client retries at
    the old address: after a fail-over only the next command finds the new master."""
    return AsyncRetry(NoBackoff(), 1, (redis.ConnectionError,))


def _once_blocking() -> Retry:
    return Retry(NoBackoff(), 1, (redis.ConnectionError,))


def _cluster_limits(options: dict[str, Any]) -> dict[str, Any]:
    limits = {
        name: min(_CLUSTER_S, options.get(name) or _CLUSTER_S)
        for name in ("socket_timeout", "socket_connect_timeout")
    }
    return {**options, **limits}
