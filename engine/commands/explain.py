"""`renvoi explain`: what would happen to a call now, step by step, and why.

The engine's own decision is asked (`rules.decide`), on what Redis holds at this moment.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import click
import redis

from engine.commands.context import Failed, open_redis, read_number, with_config, with_json
from engine.commands.documents import Documents
from engine.commands.output import print_json
from engine.config import Config
from rules.decide import Decision, ForwardTo, Ring, Situation, explain
from rules.model import Condition, DocumentError, Line, load_line
from rules.numbers import Numbering

LATER = (Condition.BUSY, Condition.NO_ANSWER, Condition.UNREACHABLE)
_IF = {
    Condition.BUSY: "if the phone is busy or declines",
    Condition.NO_ANSWER: "if nobody answers",
    Condition.UNREACHABLE: "if no phone reacts",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One decision on the call's way: at which line, when, the steps to it, and itself."""

    number: str
    when: str
    steps: tuple[str, ...]
    decision: Decision


@click.command("explain", short_help="Say what would happen to a call, and why.")
@click.argument("n")
@click.option("--from", "caller", metavar="CALLER", help="The caller's number.")
@with_config
@with_json
def explain_call(n: str, caller: str | None, config: Config, as_json: bool) -> None:
    """Say what would happen to a call to line N now, step by step, and why.

    Calls in progress, registrations and the month's usage are those that Redis holds now.

    \b
    Examples:
      renvoi explain 0972101001
      renvoi explain 0972101001 --from 0612345678
    """
    numbering = Numbering(config.numbering.country)
    number = read_number("N", n, numbering)
    known = read_number("--from", caller, numbering) if caller is not None else None
    with open_redis(config) as client:
        documents = Documents(client, numbering)
        raw = documents.raw(number)
        try:
            line = load_line(raw, number, numbering)
        except DocumentError as error:
            raise Failed(f"line {number}: its document is refused: {error}") from None
        stages = Walk(documents, client, config).call(line, known)
    if as_json:
        print_json(
            {"number": number, "caller": known, "stages": [_plain(stage) for stage in stages]}
        )
        return
    click.echo(f"A call to {number} from {known or 'a caller without a number'}:")
    for stage in stages:
        if stage.when:
            click.echo(f"{stage.when}:")
        for step in stage.steps[:-1]:
            click.echo(f"    {step}")
        click.echo(f"  -> {stage.steps[-1]}")


class Walk:
    """Follows one call through the lines of one Redis."""

    def __init__(self, documents: Documents, client: redis.Redis, config: Config) -> None:
        self._documents = documents
        self._redis: Any = client
        self._config = config

    def call(self, line: Line, caller: str | None) -> list[Stage]:
        """What happens when the call arrives and, if the line rings, each way that can end."""
        limits = self._config.limits
        arriving = Situation(
            caller=caller,
            max_diversions=limits.max_diversions,
            forwards_per_line=limits.forwards_per_line,
        )
        stages = self._follow(line, arriving, "")
        if isinstance(stages[0].decision, Ring):
            for trigger in LATER:
                if trigger is Condition.NO_ANSWER and stages[0].decision.after_s is not None:
                    when = f"if nobody answers for {stages[0].decision.after_s} s"
                else:
                    when = _IF[trigger]
                stages += self._follow(line, replace(arriving, trigger=trigger), when)
        return stages

    def _follow(self, line: Line, situation: Situation, when: str) -> list[Stage]:
        """The decision at `line` and, when it forwards to another line, those there."""
        targets = self._documents.lines(line.target_numbers())
        now = self._now(line, situation)
        explanation = explain(line, now, targets)
        stages = [Stage(line.number, when, tuple(explanation.steps), explanation.decision)]
        decision = explanation.decision
        if isinstance(decision, ForwardTo) and decision.kind == "line":
            target = targets.get(decision.number)
            if target is not None:
                arriving = replace(
                    situation,
                    trigger=None,
                    visited=now.visited,
                    diversions=situation.diversions + 1,
                )
                stages += self._follow(target, arriving, f"  then at {target.number}")
        return stages

    def _now(self, line: Line, situation: Situation) -> Situation:
        """The situation with what Redis knows of this line."""
        now = time.time()
        left = None
        if line.offer.mobile == "hours":
            month = datetime.fromtimestamp(now, ZoneInfo(self._config.numbering.timezone))
            used = self._redis.hget(f"usage:{line.number}:{month:%Y-%m}", "deducted")
            try:
                left = line.offer.mobile_hours * 3600 - float(used or 0)
            except ValueError:
                left = None
        return replace(
            situation,
            calls_in_progress=int(self._redis.zcount(f"live:{line.number}", f"({now}", "+inf")),
            registered=bool(self._redis.zcount(f"reg:{line.number}", f"({now}", "+inf")),
            visited=(*situation.visited, line.number),
            plan_left_s=left,
        )


def _plain(stage: Stage) -> dict[str, Any]:
    name = {"Ring": "ring", "ForwardTo": "forward", "Reject": "reject"}
    action = name[type(stage.decision).__name__]
    return {
        "number": stage.number,
        "when": stage.when.strip(),
        "steps": list(stage.steps),
        "decision": {"action": action, **asdict(stage.decision)},
    }
