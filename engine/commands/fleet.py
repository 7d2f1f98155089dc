"""`renvoi fleet`: the cap and the suspension of a customer's lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from zoneinfo import ZoneInfo

import click
import orjson

from engine.commands.context import (
    Failed,
    Wrong,
    myself,
    open_redis,
    with_config,
    with_json,
    with_strict,
)
from engine.commands.fleets import hint, require_fleet
from engine.commands.line import INPUT_BYTES, parse_input, unread_in
from engine.commands.output import print_json, print_table, warn, warn_of
from engine.commands.still_named import StillNamed, still_named
from engine.commands.usage import CLASSES, capped, duration, of_key
from engine.config import Config
from rules.billing import month_of
from rules.fleet import Fleet, FleetDocument, check_fleet, load_fleet
from rules.model import DocumentError
from rules.notify import read_notify
from rules.numbers import Numbering
from store.documents import FLEETS, attempts_blocking
from store.keys import FLEET, fleet_key, fleet_usage_key

IN_FORCE = "in force within one second"
_FIGURES = {"month": str, "usage": dict}  # that `show` and `list` print beside the document


@click.group("fleet")
def fleet_group() -> None:
    """Write, show, list and delete fleets.

    A fleet is named by the `fleet` of its lines. Its document is optional: it may cap the seconds
    out of plan and abroad that all its lines use in a month, say in which countries their targets
    may be, and suspend them all.

    \b
    Examples:
      echo '{"name": "acme", "cap_seconds": 36000}' | renvoi fleet set -
      renvoi fleet show acme
    """


@fleet_group.command("set", short_help="Write the fleet documents in FILE.")
@click.argument("file", type=click.File("rb"))
@with_strict
@with_config
@with_json
def set_fleets(file: Any, strict: bool, config: Config, as_json: bool) -> None:
    """Write the fleet documents in FILE (- = standard input): one, a list, or one per line.

    They are checked before any is written, and all are written or none. A fleet that exists is
    replaced. Unknown fields are kept and reported, because they may be misspelt. The month and the
    usage that `show --json` and `list --json` print are not written.

    \b
    name               as in the lines' `fleet`, at most 64 characters without braces
    cap_seconds        seconds out of plan and abroad a month, all lines together; null = no cap
    suspended          true: calls to its lines get 403
    forward_countries  list of ISO codes: where the targets of its lines may be, besides the fleet;
                       narrows numbering.forward_countries, and never widens it; null = the same
    calendars          by name: zone, weekly, holidays, closed, open; forwards name them in `when`
    lists              by name: numbers and prefixes; forwards name them in `callers`
    label              for people
    notify             whom webhooks and e-mails tell what: renvoi notify --help

    \b
    Examples:
      echo '{"name": "acme", "suspended": true}' | renvoi fleet set -
      renvoi fleet show acme --json | jq '.cap_seconds = 7200' | renvoi fleet set -
    """
    documents = parse_input(file.read(INPUT_BYTES), getattr(file, "name", "-"))
    documents = [_without_figures(document) for document in documents]
    numbering = config.numbering.plan()
    fleets: dict[str, dict[str, Any] | None] = {}
    idle = []  # countries in the list that the engine does not allow
    for place, document in enumerate(documents, 1):
        which = f"document {place}, fleet" if len(documents) > 1 else "fleet"
        if isinstance(called := document.get("name"), str) and called.isprintable():
            which += f" {called:.64}"
        try:
            fleet = check_fleet(document, numbering)
            orjson.dumps(document)
        except (DocumentError, orjson.JSONEncodeError) as error:
            raise Wrong(f"{which}: {error}") from None
        if fleet.name in fleets:
            raise Wrong(f"{which}: name: is given twice (got {fleet.name!r})")
        fleets[fleet.name] = document
        allowed = config.numbering.forward_countries
        extra = fleet.forward_countries or frozenset()
        idle += [
            f"fleet {fleet.name}: forward_countries: {code} has no effect, "
            "numbering.forward_countries does not have it"
            for code in sorted(extra.difference(extra if allowed is None else allowed))
        ]
    unread = unread_in(documents, FleetDocument, "fleet", "name", strict)
    with open_redis(config) as client:
        still = _change(client, fleets, numbering)
    idle += [each.in_words() for each in still]
    for text in idle:
        warn(text)
    warn_of(unread.in_words())
    if as_json:
        named = [asdict(each) for each in still]
        print_json({"written": list(fleets), "unread": unread.plain(), "still_named": named})
    else:
        click.echo(f"{', '.join(fleets)}: written, {IN_FORCE}")


@fleet_group.command("show")
@click.argument("name")
@with_config
@with_json
def show_fleet(name: str, config: Config, as_json: bool) -> None:
    """Show fleet NAME: its cap, and what its lines have used this month. One without a document has
    no cap and is not suspended.

    Calls in progress are counted when they end.

    \b
    Example:
      renvoi fleet show acme
    """
    month, _ = month_of(time.time(), ZoneInfo(config.numbering.timezone))
    with open_redis(config) as client:
        redis: Any = client
        raw = redis.get(fleet_key(name))
        used = of_key(redis, fleet_usage_key(name, month))
        if raw is None:
            require_fleet(client, name)
    if as_json:
        document = {"name": name} if raw is None else _stored(name, raw)
        print_json({**document, "month": month, "usage": used})
        return
    fleet = Fleet(name) if raw is None else _read(name, raw, config.numbering.plan())
    notify = read_notify(raw, of_fleet=True)
    spent = capped(used)
    left = None if fleet.cap_seconds is None else max(0, fleet.cap_seconds - spent)
    facts = [
        ("name", fleet.name),
        ("label", fleet.label or "-"),
        ("suspended", "yes" if fleet.suspended else "no"),
        ("cap a month", "none" if fleet.cap_seconds is None else duration(fleet.cap_seconds)),
        ("left", "-" if left is None else duration(left)),
        ("countries", _countries_in_words(fleet.forward_countries)),
        ("calendars", ", ".join(sorted(fleet.calendars)) or "-"),
        ("lists", ", ".join(sorted(fleet.lists)) or "-"),
        ("notifies", "-" if notify is None else notify.in_words()),
        *((f"{name} {month}", duration(used.get(name, 0))) for name in CLASSES),
    ]
    for what, value in facts:
        click.echo(f"{what:<29} {value}")


@fleet_group.command("list")
@with_config
@with_json
def list_fleets(config: Config, as_json: bool) -> None:
    """List the fleets that have a document, with their use this month."""
    numbering = config.numbering.plan()
    month, _ = month_of(time.time(), ZoneInfo(config.numbering.timezone))
    found = []
    with open_redis(config) as client:
        redis: Any = client
        for key in sorted({bytes(key) for key in redis.scan_iter(FLEET + "*", count=1000)}):
            name = key.decode("utf-8", "replace").removeprefix(FLEET)
            raw = redis.get(key)
            if raw is not None:
                found.append((name, raw, of_key(redis, fleet_usage_key(name, month))))
    if as_json:
        print_json([{**_stored(name, raw), "usage": used} for name, raw, used in found])
        return
    if not found:
        click.echo("no fleet has a document: renvoi fleet set --help shows how to write one")
        return
    rows = []
    for name, raw, used in found:
        spent = duration(capped(used))
        try:
            fleet = load_fleet(raw, name, numbering)
        except DocumentError as error:
            rows.append([name, f"REFUSED {error}", "-", spent])
            continue
        cap = "none" if fleet.cap_seconds is None else duration(fleet.cap_seconds)
        rows.append([name, "SUSPENDED" if fleet.suspended else "on", cap, spent])
    print_table(["NAME", "STATE", "CAP", f"USED OF IT {month}"], rows)


@fleet_group.command("delete", short_help="Delete the document of fleet NAME.")
@click.argument("name")
@with_config
@with_json
def delete_fleet(name: str, config: Config, as_json: bool) -> None:
    """Delete the document of fleet NAME: no cap, not suspended, no calendars, no lists. Its lines
    and usage stay."""
    with open_redis(config) as client:
        still = _change(client, {name: None}, config.numbering.plan())
    for each in still:
        warn(each.in_words())
    if as_json:
        print_json({"deleted": name, "still_named": [asdict(each) for each in still]})
    else:
        click.echo(f"{name}: deleted, {IN_FORCE}")


def _change(
    client: Any, fleets: Mapping[str, dict[str, Any] | None], numbering: Numbering
) -> list[StillNamed]:
    """Write these documents (None = delete an existing one), all or none, and the fleets' logs of
    changes. Returns the deleted calendars and lists that lines still name. Raises Wrong if a
    document to delete does not exist."""
    for attempt in attempts_blocking(client, FLEETS):
        before = attempt.read(fleets)
        for name, document in fleets.items():
            if document is None and name not in before:
                raise Wrong(f"fleet {name}: has no document, {_others(client, name)}")
        if attempt.write(fleets, myself(), "cli"):
            return still_named(client, before, fleets, numbering)
    raise Failed("fleet: changed by others all the time, nothing was written")


def _without_figures(document: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in document.items()
        if name not in _FIGURES or not isinstance(value, _FIGURES[name])
    }


def _others(client: Any, name: str) -> str:
    keys = client.scan_iter(FLEET + "*", count=1000)
    names = {bytes(key).decode("utf-8", "replace").removeprefix(FLEET) for key in keys}
    return hint(name, names) if names else "nor has any other"


def _countries_in_words(countries: frozenset[str] | None) -> str:
    if countries is None:
        return "all of numbering.forward_countries"
    return ", ".join(sorted(countries)) or "none"


def _read(name: str, raw: bytes, numbering: Numbering) -> Fleet:
    try:
        return load_fleet(raw, name, numbering)
    except DocumentError as error:
        raise Failed(f"fleet {name}: its document is refused: {error}") from None


def _stored(name: str, raw: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict):
        return document
    return {"name": name, "refused": "is no JSON object", "text": raw.decode(errors="replace")}
