"""`renvoi explain`: what would happen to a call now, step by step, and why (`engine.explain`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import click

from engine.commands.context import (
    ANSWER_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    Failed,
    Wrong,
    reach_redis,
    read_number,
    with_config,
    with_json,
)
from engine.commands.moments import iso, read_when
from engine.commands.output import print_json
from engine.commands.usage import duration
from engine.config import Config
from rules.shared_document import LATEST

if TYPE_CHECKING:
    from engine.explain import Facts


@click.command("explain", short_help="Say what would happen to a call, and why.")
@click.argument("n")
@click.option(
    "--from", "caller", metavar="CALLER", help="The caller's number, taken as known for sure."
)
@click.option(
    "--at", "moment", metavar="ISO8601",
    help="What would happen then: 2026-12-25T10:00, in numbering.timezone unless it has an offset.",
)  # fmt: skip
@with_config
@with_json
def explain_line(
    n: str, caller: str | None, moment: str | None, config: Config, as_json: bool
) -> None:
    """Show what would happen to a call to line N now, step by step, and why.

    A call without --from withholds its number. With --at, calendars and the ends of forwards are
    looked at for that moment; all else stays as it is now.

    Calls in progress, registrations and the month's usage are those in Redis now, for every line on
    the call's path. Of a line's forwards, in progress and in the last hour, Redis has only those
    beyond the workers' local quotas (an eighth of the limits), and with a single worker none.

    \b
    Examples:
      renvoi explain 0972101001
      renvoi explain 0972101001 --from 0612345678
      renvoi explain 0972101001 --at 2026-12-25T10:00
    """
    from engine.explain import Explanation, RefusedLine, UnknownLine, explain_call, plain
    from store.client import connect

    numbering = config.numbering.plan()
    number = read_number("N", n, numbering)
    known = read_number("--from", caller, numbering) if caller is not None else None

    zone = ZoneInfo(config.numbering.timezone)
    at = None if moment is None else read_when("--at", moment, zone)
    if at is not None and not 0 <= at < LATEST:
        raise Wrong(f"--at: expected a date from 1970 to 9998 (got {moment!r})")

    async def ask(url: str) -> Explanation:
        limits = {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_timeout": ANSWER_TIMEOUT_S}
        async with connect(url, **limits) as redis:
            return await explain_call(redis, config, number, known, at=at)

    with reach_redis(config) as url:
        try:
            explanation = asyncio.run(ask(url))
        except UnknownLine as error:
            raise Wrong(str(error)) from None
        except RefusedLine as error:
            raise Failed(str(error)) from None
    if as_json:
        print_json(plain(explanation))
        return
    for facts in explanation.lines:
        for text in _known(facts):
            click.echo(text)
    then = "" if at is None else f" at {iso(at, zone)}"
    click.echo(f"A call to {number} from {known or 'a caller without a number'}{then}:")
    for stage in explanation.stages:
        if stage.when:
            click.echo(f"{stage.when}:")
        for step in stage.steps[:-1]:
            click.echo(f"    {step}")
        where = f", paid by {stage.number}, sent to {stage.uri}" if stage.uri else ""
        click.echo(f"  -> {stage.steps[-1]}{where}")
    named = ", ".join(f"{name} {value or 'none'}" for name, value in explanation.limits.items())
    click.echo(f"Limits: {named}")


def _known(facts: Facts) -> Iterator[str]:
    """The facts of a line as text."""
    calls = "no limit on calls"  # the calls of such a line are not counted in Redis
    if facts.max_calls is not None:
        calls = f"{facts.calls} of {facts.max_calls} calls in progress"
    contacts = "no live registration"
    if facts.contacts:
        word = "registration" if facts.contacts == 1 else "registrations"
        contacts = f"{facts.contacts} live {word}, the last for {facts.registered_s} s"
    yield f"{facts.number}: {contacts}; {calls}"
    if facts.plan_s is not None:
        left = "unknown" if facts.plan_left_s is None else duration(facts.plan_left_s)
        yield f"    plan to mobiles: {left} left of {duration(facts.plan_s)} this month"
    if facts.forwards or facts.forwards_last_hour:
        reached = f", {facts.reached} is reached" if facts.reached else ""
        yield (
            f"    forwards that Redis knows of: {facts.forwards} in progress, "
            f"{facts.forwards_last_hour} in the last hour{reached}"
        )
    if facts.fleet_problem is not None:
        yield (
            f"    fleet {facts.fleet}: its DOCUMENT IS REFUSED: {facts.fleet_problem}. "
            "Workers that know a good one go by that, the others refuse the call (500)"
        )
        return
    fleet = f"    fleet {facts.fleet}: {'SUSPENDED' if facts.fleet_suspended else 'not suspended'}"
    if facts.cap_s is None or facts.cap_left_s is None:
        yield f"{fleet}, no cap"
    else:
        left = duration(max(0.0, facts.cap_left_s))
        yield f"{fleet}, {left} left of {duration(facts.cap_s)} out of plan and abroad this month"
    if facts.countries is not None:
        yield f"    its targets may be in: {', '.join(facts.countries) or 'no country'}"
