"""The fleets: those that a line names, and those that have a document."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import msgspec
import redis

from engine.commands.context import Wrong
from store.documents import read_blocking
from store.keys import FLEET, LINE, fleet_key

_BATCH = 1000
_NAMED = 5  # in a hint


class _Line(msgspec.Struct):
    fleet: str = ""


_decoder = msgspec.json.Decoder(_Line)


def require_fleet(client: redis.Redis, name: str, otherwise: str = "") -> None:
    """Raises Wrong, with a hint, if no line names this fleet and it has no document. Without a
    document it reads all lines. `otherwise`: an alternative for the hint."""
    some: Any = client
    if some.exists(fleet_key(name)):
        return
    names = set()
    batch: list[bytes] = []
    for key in some.scan_iter(LINE + "*", count=_BATCH):
        batch.append(key)
        if len(batch) == _BATCH:
            names |= _fleets_of(some, batch)
            batch.clear()
        if name in names:
            return
    names |= _fleets_of(some, batch)
    if name in names:
        return
    for key in some.scan_iter(FLEET + "*", count=_BATCH):
        names.add(bytes(key).decode("utf-8", "replace").removeprefix(FLEET))
    raise Wrong(f"fleet {name}: unknown fleet, {hint(name, names)}{otherwise}")


def hint(name: str, names: set[str]) -> str:
    """The hint for a name that is not one of these."""
    if alike := get_close_matches(name, sorted(names), 1):
        return f"did you mean {alike[0]}?"
    if not names:
        return "there is none yet: a fleet is named by the `fleet` of its lines"
    some = sorted(names)[:_NAMED]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"there are {', '.join(some)}{more}"


def _fleets_of(client: Any, keys: list[bytes]) -> set[str]:
    """The fleets of these lines; an invalid document has none."""
    names = set()
    for raw in read_blocking(client, keys):
        try:
            names.add(_decoder.decode(raw or b"{}").fleet)
        except (msgspec.DecodeError, UnicodeError):
            continue
    return names - {""}
