"""The log of changes: one Redis stream per fleet, written together with the change, and one stream
for imports of many lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from store.connection import Command
from store.keys import audit_key

KEPT = 100_000  # changes kept per fleet, about

Json = dict[str, Any]
Fields = dict[str, bytes]
Entries = Sequence[tuple[str, Fields]]  # the stream and the fields of each


def entry(who: str, how: str, line: str, what: str, before: Json, after: Json) -> dict[str, bytes]:
    """The fields of a stream entry.

    Args:
        who: the account, the line whose phone it was, or the user of the command.
        how: page | api | phone | cli.
        what: forwards | line | created | deleted | import | fleet.
        before: only what has changed, see `differing`; likewise `after`.
    """
    fields = {"who": who, "how": how, "line": line, "what": what}
    return {
        **{name: value.encode("utf-8", "backslashreplace") for name, value in fields.items()},
        "from": _json(before),
        "to": _json(after),
    }


def _json(part: Json) -> bytes:
    """A part of a document; of one that is nested more deeply than JSON is written the names of its
    fields alone, so that it can be replaced and deleted."""
    try:
        return orjson.dumps(part)
    except orjson.JSONEncodeError:
        return orjson.dumps(dict.fromkeys(part))


def of_line(
    who: str, how: str, number: str, before: bytes | None, after: Mapping[str, Any] | None
) -> Entries:
    """The log entries for one document written or deleted: stream and fields, one for each fleet
    concerned; none if nothing has changed. `before` is the stored document, None = there was none;
    `after` None = it is deleted."""
    was, now = _readable(before), without_secrets(after or {})
    kept, given = _stored(before).get("credentials"), (after or {}).get("credentials")
    if after is not None and kept != given:
        # That they changed and for which user, but nothing from which a password could be derived.
        was |= {"credentials": {"user": kept.get("user")}} if isinstance(kept, dict) else {}
        if isinstance(given, dict):
            now |= {"credentials": {"user": given.get("user"), "password": "new"}}
    if was == now and after is not None and before is not None:
        return []
    what = "deleted" if after is None else "created" if before is None else "line"
    if what == "line" and (was | {"forwards": 0}) == (now | {"forwards": 0}):
        what = "forwards"
    change = entry(who, how, number, what, *differing(was, now))
    fleets = dict.fromkeys(d["fleet"] for d in (now, was) if isinstance(d.get("fleet"), str))
    return [(audit_key(fleet), change) for fleet in fleets]


def of_fleet(
    who: str, how: str, name: str, before: bytes | None, after: Mapping[str, Any] | None
) -> Entries:
    """The same for a fleet's own document: its cap, its suspension. The entry names no line."""
    was, now = _readable(before), dict(after or {})
    if was == now and (before is None) == (after is None):
        return []
    return [(audit_key(name), entry(who, how, "", "fleet", *differing(was, now)))]


def imported(who: str, file: str, counts: Mapping[str, int]) -> dict[str, bytes]:
    """The log entry of an import of many lines: the file's name, and how many lines of the fleet,
    or of all fleets, were added, updated and deleted."""
    return entry(who, "cli", "", "import", {}, {"file": file, **counts})


def command(log: str, fields: Fields) -> Command:
    """The command that adds an entry to a log."""
    words: list[str | bytes | int] = ["XADD", log, "MAXLEN", "~", KEPT, "*"]
    return tuple(words + [word for pair in fields.items() for word in pair])


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `at` in unix seconds; `before` and `after` hold only what has changed."""

    id: str
    at: float
    who: str
    how: str  # page | api | phone | cli
    line: str
    what: str  # forwards | line | created | deleted | import | fleet | account | seen
    before: Json
    after: Json


def read_entry(key: bytes, fields: Mapping[bytes, bytes]) -> Change | None:
    """The change in a stream entry; None if another program wrote the entry."""
    try:
        text = {name: fields[name.encode()].decode() for name in ("who", "how", "line", "what")}
        before, after = orjson.loads(fields[b"from"]), orjson.loads(fields[b"to"])
        at = int(key.partition(b"-")[0]) / 1000
    except (KeyError, ValueError):
        return None
    if not (_is_document(before) and _is_document(after)):
        return None
    return Change(id=key.decode(), at=at, before=before, after=after, **text)


def _is_document(value: object) -> bool:
    """Whether it can be part of a document."""
    if not isinstance(value, dict):
        return False
    return value.get("forwards") is None or isinstance(value["forwards"], dict)


def _readable(stored: bytes | None) -> Json:
    """A stored document as it may be logged; empty if it is not a document."""
    return without_secrets(_stored(stored))


def _stored(stored: bytes | None) -> Json:
    try:
        document = orjson.loads(stored or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def without_secrets(document: Mapping[str, Any]) -> Json:
    """The document as it may be shown and logged."""
    return {name: value for name, value in document.items() if name != "credentials"}


def differing(before: Json, after: Json) -> tuple[Json, Json]:
    """Only what differs: of forwards, only those that do."""
    was: Json = {}
    now: Json = {}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if name == "forwards" and isinstance(old, dict) and isinstance(new, dict):
            old, new = differing(old, new)
        was |= {name: old} if name in before else {}
        now |= {name: new} if name in after else {}
    return was, now
