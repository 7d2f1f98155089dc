"""The Redis line of `renvoi check`: its deployment, whether it is usable, and possible problems."""

from __future__ import annotations

from typing import Any

import redis

from store.url import read_url

OLDEST = (6, 2)


class Unfit(Exception):
    """This Redis is not usable; the message is one line with the reason."""


def describe(client: redis.Redis, url: str) -> str:
    """Describe the Redis at `url` in one line. Raises Unfit, RedisError."""
    place = read_url(url)
    each: Any = client
    if place.shape == "cluster":
        return _cluster(each)
    info = each.info()
    text = _version(info)
    if url.startswith("rediss"):
        text += " over TLS"
    if info["role"] != "master":
        where = f"{info['master_host']}:{info['master_port']}"
        raise Unfit(f"is a replica of {where}: it takes no writes")
    if place.shape == "sentinel":
        host, port = each.connection_pool.master_address
        sentinels = 1 + each.connection_pool.sentinel_manager.sentinels[0].sentinel_master(
            place.master
        ).get("num-other-sentinels", 0)
        text += f", master {place.master} at {host}:{port} by {_many(sentinels, 'sentinel')}"
        if sentinels < 3:
            text += " (fewer than three cannot agree when one is lost)"
    replicas = info.get("connected_slaves", 0)
    if replicas or place.shape == "sentinel":
        text += f", {_many(replicas, 'replica')}"
    return text + _remarks(info)


def _cluster(client: Any) -> str:
    nodes = client.get_primaries()
    state = client.cluster_info(target_nodes=nodes[0])
    if state["cluster_state"] != "ok" or int(state["cluster_slots_ok"]) < 16384:
        raise Unfit(
            f"cluster_state {state['cluster_state']}, {state['cluster_slots_ok']} of 16384 slots"
        )
    remarks, version = set(), ""
    for node in nodes:
        info = client.info(target_nodes=node)
        version = _version(info)
        remarks.add(_remarks(info))
    replicas = len(client.get_replicas())
    text = f"{version}, a cluster of {_many(len(nodes), 'master')}"
    text += f" and {_many(replicas, 'replica')}, all slots served"
    return text + "".join(sorted(remarks))


def _version(info: dict[str, Any]) -> str:
    """Such as "Redis 7.0.15" or "Valkey 9.1.2"; Valkey also reports the Redis version that it is
    compatible with."""
    version = str(info["redis_version"])
    major, minor, *_ = (int(part) for part in version.split("."))
    if (major, minor) < OLDEST:
        raise Unfit(f"{OLDEST[0]}.{OLDEST[1]} or later needed (got {version})")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {version}"


def _remarks(info: dict[str, Any]) -> str:
    """Possible problems, as far as the user's rights allow reading them."""
    text = ""
    most, policy = info.get("maxmemory", 0), info.get("maxmemory_policy", "noeviction")
    if most and info.get("used_memory", 0) >= most and policy == "noeviction":
        raise Unfit(f"is full: used_memory has reached maxmemory ({most >> 20} MB)")
    if most and policy != "noeviction":
        text += f", maxmemory-policy {policy} (may throw lines and registrations away)"
    if info.get("aof_enabled") == 0:
        text += ", appendonly no (what was written last is lost with the server)"
    return text


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
