"""A Redis client from `redis.url`, for every form of URL that the configuration takes."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel


class UnsupportedUrl(ValueError):
    """A form of redis.url that the configuration knows and this version cannot serve yet."""


def connect(url: str, **options: Any) -> redis.asyncio.Redis:
    """An asyncio client; `options` go to redis-py. Opens no connection yet.

    `embedded` has no URL of its own: give that of `EmbeddedRedis`. Raises UnsupportedUrl.
    """
    if url.startswith("redis+sentinel://"):
        hosts, master, given = _sentinel(url)
        sentinel = redis.asyncio.sentinel.Sentinel(hosts, **options)  # type: ignore[no-untyped-call]
        given = {**options, **given}
        client: redis.asyncio.Redis = sentinel.master_for(master, **given)
        return client
    return redis.asyncio.Redis.from_url(_single(url), **options)


def connect_blocking(url: str, **options: Any) -> redis.Redis:
    """The same as `connect`, for the commands that run outside a loop."""
    if url.startswith("redis+sentinel://"):
        hosts, master, given = _sentinel(url)
        sentinel = redis.sentinel.Sentinel(hosts, **options)  # type: ignore[no-untyped-call]
        given = {**options, **given}
        client: redis.Redis = sentinel.master_for(master, **given)  # type: ignore[no-untyped-call]
        return client
    return redis.Redis.from_url(_single(url), **options)


def _single(url: str) -> str:
    if url.startswith("redis+cluster://"):
        raise UnsupportedUrl("redis.url: redis+cluster is not served by this version yet")
    return url


def _sentinel(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """redis+sentinel://[user:password@]host[:port],host[:port]/master[/database]

    The user and password are those of the Redis servers.
    """
    parts = urlsplit(url)
    secret, _, places = parts.netloc.rpartition("@")
    hosts = []
    for place in places.split(","):
        host, colon, port = place.rpartition(":")
        if not colon or place.endswith("]"):
            host, port = place, "26379"
        hosts.append((host.strip("[]"), int(port)))
    master, _, database = parts.path.strip("/").partition("/")
    options: dict[str, Any] = {"db": int(database or 0)}
    if secret:
        user, colon, password = secret.partition(":")
        options["password"] = unquote(password if colon else user)
        if colon and user:
            options["username"] = unquote(user)
    for name in ("username", "password"):
        if value := parse_qs(parts.query).get(name):
            options[name] = value[0]
    return hosts, master, options
