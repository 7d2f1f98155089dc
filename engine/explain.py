"""What would happen to a call now, step by step, and why: data for `renvoi explain` and the page.

The engine's own decision is asked (`rules.decide`), on what Redis holds at this moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

from redis.asyncio import Redis

from engine.config import Config
from rules.billing import month_of
from rules.decide import Decision, ForwardTo, Ring, Situation, explain
from rules.model import Condition, DocumentError, Line, load_line
from rules.numbers import Numbering

LATER = (Condition.BUSY, Condition.NO_ANSWER, Condition.UNREACHABLE)
_IF = {
    Condition.BUSY: "if the phone is busy or declines",
    Condition.NO_ANSWER: "if nobody answers",
    Condition.UNREACHABLE: "if no phone reacts",
}


class UnknownLine(ValueError):
    """The number called is no line of ours."""


class RefusedLine(ValueError):
    """The line's document cannot be read; the text names the field and the value."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One decision on the call's way: at which line, when, the steps to it, and itself."""

    number: str
    when: str
    steps: tuple[str, ...]
    decision: Decision


@dataclass(frozen=True, slots=True)
class Told:
    """What would happen to a call from `caller` (None = without a number) to line `number`."""

    number: str
    caller: str | None
    stages: tuple[Stage, ...]


async def explain_call(
    redis: Redis,
    config: Config,
    number: str,
    caller: str | None = None,
    lines: Mapping[str, Line] | None = None,
) -> Told:
    """Follow a call to line `number` (E.164) through the rules as they are now.

    Calls in progress, registrations and usage are those that Redis holds. `lines` stand in for
    what Redis has: documents that are not written yet.

    Raises:
        UnknownLine, RefusedLine: there is no such line, or its document is refused.
        RedisError, OSError: Redis is away.
    """
    walk = _Walk(redis, config, lines or {})
    return Told(number, caller, tuple(await walk.call(await walk.line(number), caller)))


def plain(told: Told) -> dict[str, Any]:
    """The same, ready for JSON."""
    return {
        "number": told.number,
        "caller": told.caller,
        "stages": [_plain(stage) for stage in told.stages],
    }


class _Walk:
    """Follows one call through the lines of one Redis."""

    def __init__(self, redis: Redis, config: Config, lines: Mapping[str, Line]) -> None:
        self._redis: Any = redis
        self._config = config
        self._numbering = Numbering(config.numbering.country)
        self._given = lines

    async def line(self, number: str) -> Line:
        """Raises UnknownLine or RefusedLine."""
        if number in self._given:
            return self._given[number]
        raw = await self._redis.get(f"line:{number}")
        if raw is None:
            raise UnknownLine(f"line {number}: unknown line")
        try:
            return load_line(raw, number, self._numbering)
        except DocumentError as error:
            raise RefusedLine(f"line {number}: its document is refused: {error}") from None

    async def call(self, line: Line, caller: str | None) -> list[Stage]:
        """What happens when the call arrives and, if the line rings, each way that can end."""
        limits = self._config.limits
        arriving = Situation(
            caller=caller,
            max_diversions=limits.max_diversions,
            forwards_per_line=limits.forwards_per_line,
        )
        stages = await self._follow(line, arriving, "")
        if isinstance(stages[0].decision, Ring):
            for trigger in LATER:
                if trigger is Condition.NO_ANSWER and stages[0].decision.after_s is not None:
                    when = f"if nobody answers for {stages[0].decision.after_s} s"
                else:
                    when = _IF[trigger]
                stages += await self._follow(line, replace(arriving, trigger=trigger), when)
        return stages

    async def _follow(self, line: Line, situation: Situation, when: str) -> list[Stage]:
        """The decision at `line` and, when it forwards to another line, those there."""
        targets = await self._lines(line.target_numbers())
        now = await self._now(line, situation)
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
                stages += await self._follow(target, arriving, f"  then at {target.number}")
        return stages

    async def _lines(self, numbers: Iterable[str]) -> dict[str, Line | None]:
        """The lines of these numbers; None = no line of ours, or a refused document."""
        wanted = list(numbers)
        found = await asyncio.gather(*map(self.line, wanted), return_exceptions=True)
        result: dict[str, Line | None] = {}
        for number, line in zip(wanted, found, strict=True):
            if isinstance(line, UnknownLine | RefusedLine):
                result[number] = None
            elif isinstance(line, BaseException):
                raise line
            else:
                result[number] = line
        return result

    async def _now(self, line: Line, situation: Situation) -> Situation:
        """The situation with what Redis knows of this line."""
        now = time.time()
        left = None
        if line.offer.mobile == "hours":
            month, _ = month_of(now, ZoneInfo(self._config.numbering.timezone))
            used = await self._redis.hget(f"usage:{line.number}:{month}", "deducted")
            try:
                left = max(0.0, line.offer.mobile_hours * 3600 - float(used or 0))
            except ValueError:
                left = None
        live = await self._redis.zcount(f"live:{line.number}", f"({now}", "+inf")
        registered = await self._redis.zcount(f"reg:{line.number}", f"({now}", "+inf")
        return replace(
            situation,
            calls_in_progress=int(live),
            registered=bool(registered),
            visited=(*situation.visited, line.number),
            plan_left_s=left,
        )


def _plain(stage: Stage) -> dict[str, Any]:
    name = {"Ring": "ring", "ForwardTo": "forward", "Reject": "reject"}
    action = name[type(stage.decision).__name__]
    decision = {
        name: value for name, value in asdict(stage.decision).items() if name != "prevented"
    }
    return {
        "number": stage.number,
        "when": stage.when.strip(),
        "steps": list(stage.steps),
        "decision": {"action": action, **decision},
    }
