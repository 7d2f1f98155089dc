"""A Redis client from `redis.url`, for every form of URL that the configuration takes.

Clients retry once, at once, what was sent over a connection that had been dropped while it was
idle, and wait for nothing longer than the socket limits they are given. Whatever is written
through them must therefore be harmless when it is written twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, NoScriptError, SlotNotCoveredError
from redis.retry import Retry

Client = redis.asyncio.Redis
"""What `connect` gives. For a cluster it is no Redis by its class (it is a RedisCluster) and is one
by its methods, for commands and scripts about one key."""

SENTINEL_PORT, PORT = 26379, 6379
_SENTINEL_S = 0.5
"""How long one sentinel may take to say who the master is; then the next is asked."""
_CLUSTER_S = 0.9
"""How long a node of a cluster may be silent before the others are asked who has its keys. Under
the time that a writer gives Redis, else it would never ask."""
_CLUSTER_RETRIES = 2
_LOST = (redis.ConnectionError, redis.TimeoutError, ClusterDownError, SlotNotCoveredError)
# Names in a URL -> redis-py's.
_TLS = {
    "ca": "ssl_ca_certs",
    "cert": "ssl_certfile",
    "key": "ssl_keyfile",
    "verify": "ssl_cert_reqs",
    "check_hostname": "ssl_check_hostname",
}


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
    kind, settings = _read(url)
    if kind == "sentinel":
        master, hosts, asking = _split_sentinel(settings)
        sentinel: Any = redis.asyncio.sentinel.Sentinel
        manager = sentinel(hosts, sentinel_kwargs=asking)
        settings = {"retry": AsyncRetry(NoBackoff(), 1), **options, **settings}
        client: _SentinelClient = manager.master_for(
            master, redis_class=_SentinelClient, **settings
        )
        client.manager = manager
        return client
    if kind == "cluster":
        nodes = [redis.asyncio.cluster.ClusterNode(*host) for host in settings.pop("hosts")]
        settings = {**_cluster_limits(options), **settings}
        cluster: Any = redis.asyncio.cluster.RedisCluster(
            startup_nodes=nodes, retry=AsyncRetry(NoBackoff(), _CLUSTER_RETRIES), **settings
        )
        return cast(Client, cluster)
    options = {"retry": AsyncRetry(NoBackoff(), 1), **options}
    return redis.asyncio.Redis.from_url(settings["url"], **options)


def connect_blocking(url: str, **options: Any) -> redis.Redis:
    """The same as `connect`, for the commands that run outside a loop."""
    kind, settings = _read(url)
    if kind == "sentinel":
        master, hosts, asking = _split_sentinel(settings)
        sentinel: Any = redis.sentinel.Sentinel
        manager = sentinel(hosts, sentinel_kwargs=asking)
        client: redis.Redis = manager.master_for(
            master, retry=Retry(NoBackoff(), 1), **{**options, **settings}
        )
        return client
    if kind == "cluster":
        node: Any = redis.cluster.ClusterNode
        nodes = [node(*host) for host in settings.pop("hosts")]
        cluster: Any = redis.cluster.RedisCluster(
            startup_nodes=nodes,
            retry=Retry(NoBackoff(), _CLUSTER_RETRIES),
            **{**options, **settings},
        )
        return cast(redis.Redis, cluster)
    return redis.Redis.from_url(settings["url"], retry=Retry(NoBackoff(), 1), **options)


class Script:
    """A script about one key, on a Redis of any shape."""

    def __init__(self, client: Client, text: str) -> None:
        self._client: Any = client
        self._text = text
        self._sha = hashlib.sha1(text.encode()).hexdigest()

    async def __call__(self, key: str, *args: Any) -> Any:
        """Run it; sent whole when that Redis, or that node, does not know it. Raises RedisError."""
        try:
            return await self._client.execute_command("EVALSHA", self._sha, 1, key, *args)
        except NoScriptError:
            return await self._client.execute_command("EVAL", self._text, 1, key, *args)


async def exchange(client: Client, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Send commands, each about one key, in as few round trips as the shape of Redis allows.

    Returns their replies in order; what was refused, or could not be delivered because its node of
    a cluster is away, has its exception as its reply. Raises RedisError, OSError when all of Redis
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


def add_options(url: str, **options: Any) -> str:
    """The URL with what it does not say itself about TLS, from `redis.tls_*` of the configuration.

    `options`: ca, cert, key (paths), verify (bool); None = nothing to add. A URL without TLS stays
    as it is.
    """
    parts = urlsplit(url)
    if not parts.scheme.startswith("rediss"):
        return url
    given = dict(parse_qsl(parts.query))
    for name, value in options.items():
        if value is not None and name not in given and _TLS[name] not in given:
            given[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return _with_query(url, given)


def _read(url: str) -> tuple[str, dict[str, Any]]:
    """The shape of Redis, and what redis-py has to know."""
    parts = urlsplit(url)
    scheme, _, shape = parts.scheme.partition("+")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    settings = _tls(query) if scheme == "rediss" else {}
    if not shape:
        # redis-py reads the rest of the URL itself.
        return "single", {"url": _with_query(url, {**query, **settings})}
    if scheme == "rediss":
        settings["ssl"] = True
        settings["ssl_check_hostname"] = settings.get("ssl_check_hostname", "true") == "true"
    secret, _, places = parts.netloc.rpartition("@")
    settings["hosts"] = [
        _host(place, SENTINEL_PORT if shape == "sentinel" else PORT) for place in places.split(",")
    ]
    if secret:
        user, colon, password = secret.partition(":")
        settings["password"] = unquote(password if colon else user)
        if colon and user:
            settings["username"] = unquote(user)
    for name in ("username", "password", "sentinel_username", "sentinel_password"):
        if name in query:
            settings[name] = query.pop(name)
    if query:
        raise ValueError(f"redis.url: unknown option {next(iter(query))}")
    if shape == "sentinel":
        master, _, database = parts.path.strip("/").partition("/")
        settings |= {"master": master, "db": int(database or 0)}
    return shape, settings


def _split_sentinel(
    settings: dict[str, Any],
) -> tuple[str, list[tuple[str, int]], dict[str, Any]]:
    """Takes what is for the sentinels out: the master's name, their addresses, how to ask them."""
    asking = {"socket_timeout": _SENTINEL_S, "socket_connect_timeout": _SENTINEL_S}
    asking |= {name: value for name, value in settings.items() if name.startswith("ssl")}
    for name in ("username", "password"):
        if (value := settings.pop(f"sentinel_{name}", None)) is not None:
            asking[name] = value
    return settings.pop("master"), settings.pop("hosts"), asking


def _cluster_limits(options: dict[str, Any]) -> dict[str, Any]:
    limits = {
        name: min(_CLUSTER_S, options.get(name) or _CLUSTER_S)
        for name in ("socket_timeout", "socket_connect_timeout")
    }
    return {**options, **limits}


def _tls(query: dict[str, str]) -> dict[str, Any]:
    """The TLS options of a URL, taken out of its query, by redis-py's names."""
    settings: dict[str, Any] = {}
    for name, theirs in _TLS.items():
        value = query.pop(theirs, None) or query.pop(name, None)
        if value is not None:
            settings[theirs] = value
    verify = settings.get("ssl_cert_reqs", "required")
    verified = {"true": "required", "false": "none"}.get(verify, verify)
    if verified not in ("required", "optional", "none"):
        raise ValueError(f"redis.url: verify is true or false (got {verify!r})")
    settings["ssl_cert_reqs"] = verified
    if verified == "none":
        settings["ssl_check_hostname"] = "false"
    return settings


def _with_query(url: str, query: dict[str, Any]) -> str:
    return url.partition("?")[0] + (f"?{urlencode(query)}" if query else "")


def _host(place: str, port: int) -> tuple[str, int]:
    host, colon, text = place.rpartition(":")
    if not colon or place.endswith("]"):
        return place.strip("[]"), port
    return host.strip("[]"), int(text)
