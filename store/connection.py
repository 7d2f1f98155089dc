"""A dedicated connection to Redis, beside the client's pool.

The stream of invalidations needs its own connection, and the reader has one so that a look-up costs
one write and one read. Both are made like the client's own, so that TLS, unix sockets, passwords,
Sentinel and Cluster work the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

Command = tuple[str | bytes | int | float, ...]
Dial = Callable[[], Any]
"""Makes a connection of redis-py's that is not open yet."""

_CONNECT_S = 0.5
"""Seconds that a server may take to accept a connection. Short, because an attempt that began just
before the network came back must not delay the next one."""
_POOL_ONLY = ("maint_", "oss_", "orig_", "himport_")
_NODE_ONLY = ("max_connections", "connection_class", "response_callbacks", "event_dispatcher")


def dial_like(redis: Redis) -> Dial:
    """Connections like those of the client's pool."""
    pool = redis.connection_pool
    return _dial(pool.connection_class, pool.connection_kwargs)


def dial_node(cluster: RedisCluster, host: str, port: int) -> Dial:
    """Connections to one node, like those of the cluster client."""
    given = cluster.get_connection_kwargs()
    settings = {name: value for name, value in given.items() if name not in _NODE_ONLY}
    return _dial(given["connection_class"], {**settings, "host": host, "port": port})


def _dial(connection_class: Any, given: Mapping[str, Any]) -> Dial:
    settings = {name: value for name, value in given.items() if not name.startswith(_POOL_ONLY)}
    settings.update(
        # RESP2 is the same from Redis 6.2 to 8; one request, one attempt, no own clock.
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        health_check_interval=0,
        socket_timeout=None,
        socket_connect_timeout=_CONNECT_S,
    )
    return lambda: connection_class(**settings)


class Connection:
    """A connection that never retries and has no timeouts of its own: callers limit their
    waiting."""

    def __init__(self, dial: Dial) -> None:
        self._raw: Any = dial()

    @property
    def is_open(self) -> bool:
        return bool(self._raw.is_connected)

    async def open(self) -> None:
        """Connect and log in. Does nothing when connected.

        Raises:
            RedisError, OSError: it cannot connect.
        """
        await self._raw.connect()

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write and return their replies, as bytes, in order.

        A command that Redis refuses has its `ResponseError` as its reply. If an error or a
        cancellation interrupts this, the connection is closed, because pending replies must not
        answer the next command.

        Raises:
            RedisError, OSError: the connection is lost.
        """
        raw = self._raw
        done = False
        try:
            await self.send(commands)
            replies: list[Any] = []
            for _ in commands:
                try:
                    replies.append(await raw.read_response(disable_decoding=True))
                except ResponseError as error:
                    replies.append(error)
            done = True
            return replies
        finally:
            if not done:
                await self.close()

    async def send(self, commands: Sequence[Command]) -> None:
        """Send commands without waiting for a reply."""
        if not self.is_open:
            # Sending would reconnect silently, without the settings of this connection.
            raise RedisConnectionError("connection lost")
        # hiredis's type stub declares a tuple of length one instead of any length.
        packed = b"".join(hiredis.pack_command(c) for c in commands)  # type: ignore[arg-type]
        await self._raw.send_packed_command(packed, check_health=False)

    async def hear(self, quiet_s: float) -> Any:
        """The next message; None when there is none for `quiet_s` seconds.

        Raises:
            RedisError, OSError: the connection is lost.
        """
        return await self._raw.read_response(
            disable_decoding=True, timeout=quiet_s, disconnect_on_error=False
        )

    async def close(self) -> None:
        """Close without waiting for the peer. Never raises."""
        try:
            await self._raw.disconnect(nowait=True)
        except Exception:
            # It is not used again in any case.
            return
