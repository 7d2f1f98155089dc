"""`renvoi usage`: the seconds a line or a fleet has forwarded in a month, by who pays."""

from __future__ import annotations

import re
import time
from typing import Any
from zoneinfo import ZoneInfo

import click

from engine.commands.context import Wrong, open_redis, read_number, with_config, with_json
from engine.commands.documents import Documents
from engine.commands.fleets import require_fleet
from engine.commands.output import print_json
from engine.config import Config
from rules.billing import month_of
from rules.line_document import load_line
from rules.model import CAPPED, Billing, DocumentError
from rules.numbers import Numbering
from store.keys import FLEET, usage_key

CLASSES = tuple(each.value for each in Billing)
_MONTH = re.compile(r"20[0-9]{2}-(0[1-9]|1[0-2])")


@click.command("usage", short_help="Show what a line or a fleet has used in a month.")
@click.argument("n")
@click.option("--month", metavar="YYYY-MM", help="Which month.  [default: this one]")
@with_config
@with_json
def show_usage(n: str, month: str | None, config: Config, as_json: bool) -> None:
    """Show the seconds that line N, or fleet:NAME, has forwarded in a month, by billing class.

    Calls in progress are counted when they end.

    \b
    Examples:
      renvoi usage 0972101001
      renvoi usage fleet:acme --month 2026-10
    """
    numbering = config.numbering.plan()
    this_month, _ = month_of(time.time(), ZoneInfo(config.numbering.timezone))
    if month is not None and not _MONTH.fullmatch(month):
        raise Wrong(f"--month: expected YYYY-MM, such as {this_month} (got {month!r})")
    asked = month or this_month
    is_fleet = n.startswith(FLEET)
    owner = n if is_fleet else _line(n, numbering)
    plan_s = None
    with open_redis(config) as client:
        used = of_key(client, usage_key(owner, asked))
        if is_fleet and not used:
            require_fleet(client, owner.removeprefix(FLEET))
        if not is_fleet:
            plan_s = _plan_s(Documents(client, numbering), owner, numbering, bool(used))
    left = None if plan_s is None else max(0, plan_s - used.get("deducted", 0))
    if as_json:
        who = {"fleet": n.removeprefix(FLEET)} if is_fleet else {"number": owner}
        seconds = {name: used.get(name, 0) for name in CLASSES}
        print_json({**who, "month": asked, "usage": seconds, "plan_s": plan_s, "plan_left_s": left})
        return
    click.echo(f"{owner} {asked}")
    for name in CLASSES:
        click.echo(f"  {name:<21} {duration(used.get(name, 0)):>12}")
    if plan_s is not None and left is not None:
        click.echo(f"  {'plan':<21} {duration(plan_s):>12}, {duration(left)} left")


def _line(n: str, numbering: Numbering) -> str:
    try:
        return read_number("N", n, numbering)
    except Wrong as error:
        if not n or any(c.isdigit() for c in n):
            raise
        raise Wrong(f"{error.message}; a fleet is asked for as {FLEET}{n}") from None


def of_key(redis: Any, key: str) -> dict[str, int]:
    """The seconds of a usage key by class, without invalid values."""
    from redis.exceptions import ResponseError

    try:
        stored = redis.hgetall(key)
    except ResponseError:
        return {}
    used = {}
    for name, value in stored.items():
        try:
            used[name.decode("utf-8", "replace")] = int(value)
        except ValueError:
            continue
    return used


def capped(used: dict[str, int]) -> int:
    """The seconds that count against a fleet's cap."""
    return sum(used.get(each, 0) for each in CAPPED)


def duration(seconds: float) -> str:
    """Such as "2 h 05 min 09 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min {rest:02d} s"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _plan_s(documents: Documents, number: str, numbering: Numbering, used: bool) -> int | None:
    """The line's plan. A deleted line may still have usage; otherwise raises Wrong."""
    try:
        return load_line(documents.raw(number), number, numbering).offer.plan_s
    except DocumentError:
        return None
    except Wrong:
        if used:
            return None
        raise
