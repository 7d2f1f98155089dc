"""`renvoi explain`: what would happen to a call now, step by step, and why (`engine.explain`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

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
from engine.commands.output import print_json
from engine.commands.usage import duration
from engine.config import Config

if TYPE_CHECKING:
    from engine.explain import Facts


@click.command("explain", short_help="Say what would happen to a call, and why.")
@click.argument("n")
@click.option(
    "--from", "caller", metavar="CALLER", help="The caller's number, taken as known for sure."
)
@with_config
@with_json
def explain_line(n: str, caller: str | None, config: Config, as_json: bool) -> None:
    """Show what would happen to a call to line N now, step by step, and why.

    Calls in progress, registrations and the month's usage are those in Redis now, for every line on
    the call's path. Of a line's forwards, in progress and in the last hour, Redis has only those
    beyond the workers' local quotas (an eighth of the limits), and with a single worker none.

    \b
    Examples:
      renvoi explain 0972101001
      renvoi explain 0972101001 --from 0612345678
    """
    from engine.explain import RefusedLine, Told, UnknownLine, explain_call, plain
    from store.client import connect

    numbering = config.numbering.plan()
    number = read_number("N", n, numbering)
    known = read_number("--from", caller, numbering) if caller is not None else None

    async def ask(url: str) -> Told:
        limits = {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_timeout": ANSWER_TIMEOUT_S}
        async with connect(url, **limits) as redis:
            return await explain_call(redis, config, number, known)

    with reach_redis(config) as url:
        try:
            told = asyncio.run(ask(url))
        except UnknownLine as error:
            raise Wrong(str(error)) from None
        except RefusedLine as error:
            raise Failed(str(error)) from None
    if as_json:
        print_json(plain(told))
        return
    for facts in told.lines:
        for text in _known(facts):
            click.echo(text)
    click.echo(f"A call to {number} from {known or 'a caller without a number'}:")
    for stage in told.stages:
        if stage.when:
            click.echo(f"{stage.when}:")
        for step in stage.steps[:-1]:
            click.echo(f"    {step}")
        where = f", paid by {stage.number}, sent to {stage.uri}" if stage.uri else ""
        click.echo(f"  -> {stage.steps[-1]}{where}")
    named = ", ".join(f"{name} {value or 'none'}" for name, value in told.limits.items())
    click.echo(f"Limits: {named}")


def _known(facts: Facts) -> Iterator[str]:
    """The facts of a line as text."""
    calls = "no limit on calls"  # the calls of such a line are not counted in Redis
    if facts.max_calls is not None:
        calls = f"{facts.calls} of {facts.max_calls} calls in progress"
    contacts = "no live registration"
    if facts.contacts:
        contacts = f"{facts.contacts} live registrations, the last for {facts.registered_s} s"
    yield f"{facts.number}: {contacts}; {calls}"
    if facts.plan_s is not None:
        left = "unknown" if facts.plan_left_s is None else duration(facts.plan_left_s)
        yield f"    plan to mobiles: {left} left of {duration(facts.plan_s)} this month"
    if facts.forwards or facts.forwards_last_hour:
        reached = f", {facts.reached} is reached" if facts.reached else ""
        yield (
            f"    forwards that Redis knows of: {facts.forwards} stand, "
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
