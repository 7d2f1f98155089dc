"""Reading documents and registrations from Redis, many numbers in one round trip."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from rules.connection import Command, Connection

_MOST_CONTACTS = 32


class Unavailable(Exception):
    """Redis does not answer, and nothing is known without it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Redis holds for a number, unread.

    Attributes:
        document: None when there is none; a ResponseError when the key is no string.
        members: pairs of contact and expiry (unix seconds), latest expiry first; a ResponseError
            when the key is no sorted set.
    """

    document: bytes | ResponseError | None
    members: Sequence[tuple[bytes, float]] | ResponseError


class Reader:
    """One connection, used by one task at a time.

    A connection that was dropped while it was idle costs a second attempt, not an error. A Redis
    that is silent for `patience_s` seconds is unavailable.
    """

    def __init__(self, redis: Redis, patience_s: float) -> None:
        self._redis = redis
        self._patience_s = patience_s
        self._connection: Connection | None = None

    async def read(self, numbers: Sequence[str], unix_now: float) -> list[Answer]:
        """The documents and unexpired registrations of some numbers.

        Raises:
            Unavailable: Redis does not answer.
        """
        commands: list[Command] = []
        for number in numbers:
            commands.append(("GET", f"line:{number}"))
            commands.append(
                (
                    "ZREVRANGEBYSCORE",
                    f"reg:{number}",
                    "+inf",
                    f"({unix_now}",
                    "WITHSCORES",
                    "LIMIT",
                    0,
                    _MOST_CONTACTS,
                )
            )
        replies = await self._ask(commands)
        _check(replies)
        return [
            Answer(document, _pairs(members))
            for document, members in zip(replies[::2], replies[1::2], strict=True)
        ]

    async def read_usage(self, keys: Sequence[str]) -> list[float]:
        """Seconds deducted from a plan, of some `usage:` keys. What is no number counts as 0.

        Raises:
            Unavailable: Redis does not answer.
        """
        replies = await self._ask([("HGET", key, "deducted") for key in keys])
        _check(replies)
        return [_seconds(reply) for reply in replies]

    async def touch(self, key: str, ttl_s: int) -> bool:
        """Write a key that means nothing, so that its invalidation comes back.

        Returns:
            False when Redis answers but refuses the write: a read-only replica, no memory left.

        Raises:
            Unavailable: Redis does not answer.
        """
        (reply,) = await self._ask([("SET", key, "1", "EX", ttl_s)])
        return not isinstance(reply, ResponseError)

    async def close(self) -> None:
        """Close the connection; it opens again by itself when needed."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._ask_twice(commands)
        except (RedisError, OSError, TimeoutError) as error:
            await self.close()
            raise Unavailable(str(error) or "no answer") from error

    async def _ask_twice(self, commands: Sequence[Command]) -> list[Any]:
        if self._connection is not None and self._connection.is_open:
            try:
                return await self._connection.ask(commands)
            except (RedisError, OSError):
                # Dropped while idle, most likely: one attempt on a new connection.
                await self.close()
        connection = self._connection = Connection(self._redis)
        await connection.open()
        return await connection.ask(commands)


def _check(replies: Sequence[Any]) -> None:
    """A key of the wrong type is bad data; any other refusal means that Redis cannot serve us."""
    for reply in replies:
        if isinstance(reply, ResponseError) and not str(reply).startswith("WRONGTYPE"):
            raise Unavailable(str(reply)) from reply


def _pairs(reply: Any) -> Sequence[tuple[bytes, float]] | ResponseError:
    if isinstance(reply, ResponseError):
        return reply
    return [(reply[i], float(reply[i + 1])) for i in range(0, len(reply), 2)]


def _seconds(reply: object) -> float:
    if not isinstance(reply, bytes):
        return 0.0
    try:
        seconds = float(reply)
    except ValueError:
        return 0.0
    # Not a number fails every comparison, and is no use of a plan either.
    return seconds if seconds > 0 else 0.0
