"""SIGHUP: the configuration is read again, and all its changes are applied, or none.

What the change of a key needs is in `engine/config.py` (`change=`): nothing, a rolling restart of
the workers, or a restart of the whole engine, without which it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from engine.config import SECTIONS, Config, ConfigError, build, load_document
from engine.stderr import say
from engine.telemetry.log import FilteringBoundLogger


@dataclass(frozen=True, slots=True)
class Changes:
    """Paths of the keys that differ, by what a new value needs (`_key` in engine/config.py)."""

    live: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.live or self.restart or self.fixed)


def reload(
    old: Config,
    path: Path | None,
    log: FilteringBoundLogger,
    *,
    adopt: Callable[[Config, object], object],
    roll_out: Callable[[], None] | None = None,
) -> None:
    """Read the configuration again and refuse its changes, apply them live, or do a rolling
    restart.

    Args:
        old: the configuration in force.
        path: its file; None = as for `load_document`.
        adopt: called with the new configuration and its document, unless it is refused.
        roll_out: replaces every worker, in turn; None if this process is the only one.
    """
    try:
        document = load_document(path)
        new = build(document)
    except ConfigError as error:
        _refuse(log, str(error))
        return
    found = changes(old, new)
    if refused := found.fixed if roll_out is not None else found.restart + found.fixed:
        _refuse(log, f"{', '.join(refused)}: a change needs a restart")
        return
    adopt(new, document)
    if roll_out is None or (found.live and not found.restart):
        log.info("reload.done", keys=found.live)
    else:
        # Without any change too: it is how the workers are replaced on purpose.
        log.info("roll.start", keys=found.live + found.restart)
        roll_out()


def _refuse(log: FilteringBoundLogger, reason: str) -> None:
    log.error("reload.refused", error=reason)
    say(f"renvoi: reload refused: {reason}")


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
