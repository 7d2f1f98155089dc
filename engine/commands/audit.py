"""`renvoi audit`: who changed what, from the logs of changes."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import click
import orjson

from engine.commands import moments
from engine.commands.context import Whole, open_redis, read_number, with_config, with_json
from engine.commands.fleets import require_fleet
from engine.commands.output import print_json, print_table
from engine.config import Config
from rules.model import Condition
from store.audit import Change, read_entry
from store.keys import AUDIT, audit_key

DEFAULT_LAST = 20
_PAGE = 500
_HEAD = ("FLEET", "WHO", "BY", "LINE", "CHANGE")
_ACCOUNT = {"password": "new password"}  # beside made and deleted


@dataclass(frozen=True, slots=True)
class Wanted:
    """The filter for changes: all given conditions must match. Times in unix seconds."""

    line: str | None
    who: str | None
    since: float | None
    until: float | None

    def fits(self, change: Change) -> bool:
        return self.line in (None, change.line) and self.who in (None, change.who)


@click.command("audit", short_help="Show who changed what.")
@click.option("--fleet", metavar="NAME", help="Of this fleet.  [default: of all]")
@click.option("--line", metavar="N", help="Of line N.")
@click.option("--who", metavar="NAME", help="By this user, account or phone.")
@click.option("--since", metavar="WHEN", help="Then or later.")
@click.option("--until", metavar="WHEN", help="Before then.")
@click.option(
    "--last",
    type=Whole(0),
    metavar="COUNT",
    help="The last COUNT that fit.  [default: 20, with --since or --until all]",
)
@with_config
@with_json
def show_changes(
    fleet: str | None, line: str | None, who: str | None, since: str | None, until: str | None,
    last: int | None, config: Config, as_json: bool,
) -> None:  # fmt: skip
    """Show who changed what of lines and fleets: by a command, the page, the API or a phone, oldest
    first. A fleet keeps its last 100,000 changes or so. An import of many lines is one change of
    each fleet, and one of all. What the page did with accounts is there too, and which operator saw
    it as a customer does.

    WHEN is as in `renvoi cdr`. With --json one object a change; `before` and `after` hold only what
    differs.

    \b
    Examples:
      renvoi audit --line 0972101001
      renvoi audit --fleet acme --since 7d
      renvoi audit --who marie --last 5 --json
    """
    zone, now = ZoneInfo(config.numbering.timezone), time.time()
    number = None if line is None else read_number("--line", line, config.numbering.plan())
    begin = None if since is None else moments.read_when("--since", since, zone, now)
    end = None if until is None else moments.read_when("--until", until, zone, now)
    if last is None and begin is None and end is None:
        last = DEFAULT_LAST
    wanted = Wanted(number, who, begin, end)
    found: list[tuple[str, Change]] = []
    with open_redis(config) as client:
        redis: Any = client
        if fleet is None:
            keys = sorted({bytes(key) for key in redis.scan_iter(AUDIT + "*", count=1000)})
        else:
            keys = [audit_key(fleet).encode()]
            if not redis.exists(keys[0]):
                require_fleet(client, fleet)
        streams = [_newest_first(redis, key, wanted) for key in keys]
        for of, change in heapq.merge(*streams, key=_order, reverse=True):
            if last is not None and len(found) >= last:
                break
            found.append((of, change))
    found.reverse()
    if as_json:
        print_json([_plain(of, change, zone) for of, change in found])
    elif found:
        rows = [_row(of, change, zone) for of, change in found]
        print_table((moments.head("WHEN", zone), *_HEAD), rows)
    else:
        click.echo("no such changes")


def _newest_first(redis: Any, key: bytes, wanted: Wanted) -> Iterator[tuple[str, Change]]:
    """The matching changes of one log, with its fleet: "" for all."""
    fleet = key.decode("utf-8", "replace").removeprefix(AUDIT)
    first = b"-" if wanted.since is None else b"%d-0" % max(0, int(wanted.since * 1000))
    end = b"+" if wanted.until is None else b"(%d-0" % max(1, int(wanted.until * 1000))
    while True:
        entries = redis.xrevrange(key, end, first, count=_PAGE)
        for id_, fields in entries:
            change = read_entry(id_, fields)
            if change is not None and wanted.fits(change):
                yield fleet, change
        if len(entries) < _PAGE:
            return
        end = b"(" + entries[-1][0]


def _order(found: tuple[str, Change]) -> tuple[int, ...]:
    return tuple(int(part) for part in found[1].id.split("-"))


def _plain(fleet: str, change: Change, zone: ZoneInfo) -> dict[str, Any]:
    return {
        "id": change.id, "at": change.at, "at_iso": moments.iso(change.at, zone), "fleet": fleet,
        "who": change.who, "how": change.how, "line": change.line, "what": change.what,
        "before": change.before, "after": change.after,
    }  # fmt: skip


def _row(fleet: str, change: Change, zone: ZoneInfo) -> list[object]:
    when = moments.shown(change.at, zone)
    return [when, fleet or "(all)", change.who, change.how, change.line, _change_in_words(change)]


def _change_in_words(change: Change) -> str:
    """The change as one line of text."""
    if change.what == "deleted":
        return "deleted"
    if change.what == "account":
        name, did = change.after.get("account"), str(change.after.get("did"))
        return f"account {_value(name)}: {_ACCOUNT.get(did, did)}"
    if change.what == "seen":
        account = change.after.get("account")
        as_whom = f"account {_value(account)}" if account else "its administrator"
        return f"page seen as {as_whom}"
    parts: list[str] = []
    for name in sorted(change.before.keys() | change.after.keys()):
        before, after = change.before.get(name), change.after.get(name)
        if name == "forwards":
            parts += _forwards_in_words(before or {}, after or {})
        elif change.what in ("created", "import"):
            parts.append(f"{name} {_value(after)}")
        else:
            parts.append(f"{name} {_value(before)} -> {_value(after)}")
    words = {"created": "created: ", "import": "import: ", "fleet": "fleet: "}.get(change.what, "")
    return words + ", ".join(parts)


def _forwards_in_words(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for condition in (each.value for each in Condition):
        was, now = _forward_in_words(before.get(condition)), _forward_in_words(after.get(condition))
        if was != now:
            yield f"{condition} {was} -> {now}"


def _forward_in_words(forward: object) -> str:
    if isinstance(forward, list):
        rules = [_forward_in_words(each) for each in forward]
        return "; ".join(f"[{place}] {text}" for place, text in enumerate(rules))
    if not isinstance(forward, dict) or not forward.get("on"):
        return "off"
    to = forward.get("to")
    several = to if isinstance(to, list) else [to]
    text = ", ".join(map(_target_in_words, several))
    if forward.get("ring") is not None:
        text = f"{str(forward['ring']).replace('_', ' ')} {text}"
    after_s = forward.get("after_s")
    text = text if after_s is None else f"{text} after {after_s} s"
    return text + "".join(
        f", {name} {forward[name]}" for name in ("when", "callers", "until") if forward.get(name)
    )


def _target_in_words(to: object) -> str:
    if not isinstance(to, dict):
        return "?"
    ring_s = to.get("ring_s")
    text = f"{to.get('kind')} {to.get('number') or ''}".strip()
    return text if ring_s is None else f"{text} for {ring_s} s"


def _value(value: object) -> str:
    if value is None:
        return "nothing"
    return value if isinstance(value, str) and value else orjson.dumps(value).decode()
