"""Which keys of a configuration changed, and what each of them needs.

The table is with the keys, in `engine/config.py` (`change=`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from engine.config import SECTIONS, Config


@dataclass(frozen=True, slots=True)
class Changes:
    """Paths of the keys that differ, by what a new value needs (`_key` in engine/config.py)."""

    live: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.live or self.restart or self.fixed)


def changes(old: Config, new: Config) -> Changes:
    """The keys in which `new` differs from `old`."""
    found: dict[str, list[str]] = {"live": [], "restart": [], "fixed": []}
    for item in fields(Config):
        if item.name not in SECTIONS:
            places = [(item.name, item, getattr(old, item.name), getattr(new, item.name))]
        else:
            before, after = getattr(old, item.name), getattr(new, item.name)
            places = [
                (f"{item.name}.{key.name}", key, *(getattr(x, key.name) for x in (before, after)))
                for key in fields(before)
            ]
        for path, key, was, will_be in places:
            if was != will_be:
                found[_need(path, key.metadata["change"], old, new)].append(path)
    return Changes(*(tuple(found[need]) for need in ("live", "restart", "fixed")))


def _need(path: str, change: Any, old: Config, new: Config) -> str:
    """The embedded Redis belongs to this process, which must be restarted to change it."""
    if path.startswith("redis.") and (old.redis.embedded or new.redis.embedded):
        return "fixed"
    return str(change)


def with_live(old: Config, new: Config) -> Config:
    """`old` with the values that `new` has for the keys that can change live."""
    config = old
    for path in changes(old, new).live:
        section, _, key = path.partition(".")
        changed = replace(getattr(config, section), **{key: getattr(getattr(new, section), key)})
        config = replace(config, **{section: changed})
    return config
