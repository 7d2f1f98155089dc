"""What would happen to a call now, step by step, and why: data for `renvoi explain` and the page.

Uses the engine's own decision (`rules.decide`) with the present data in Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from msgspec.structs import replace
from redis.asyncio import Redis

from engine.changes.acks import SKEW_S
from engine.config import Config
from engine.destinations import uri_of
from engine.forwards import LAST_HOUR, STANDING, pool_of
from rules.billing import month_begin, month_of
from rules.contact import FAR_S, read_contacts
from rules.decide import Circumstances, Decision, ForwardTo, Ring, Situation, at_limit, explain
from rules.fleet import Fleet, load_fleet
from rules.line_document import load_line
from rules.model import CAPPED, Condition, DocumentError, Line
from rules.numbers import Numbering
from rules.usage_notes import notes_of, out_of_plan_of
from store.fleets import capped_s
from store.keys import (
    FORWARDS,
    FORWARDS_LAST_HOUR,
    WORKERS,
    active_calls_key,
    fleet_key,
    fleet_usage_key,
    line_key,
    live_key,
    registrations_key,
    usage_key,
)

LIMITS = ("max_diversions", "forwards_per_line", "forwards_per_line_per_hour")
LATER = (Condition.BUSY, Condition.NO_ANSWER, Condition.UNREACHABLE)
_IF = {
    Condition.BUSY: "if the phone is busy or declines",
    Condition.NO_ANSWER: "if nobody answers",
    Condition.UNREACHABLE: "if no phone reacts",
}


class UnknownLine(ValueError):
    """The called number is not one of our lines."""


class RefusedLine(ValueError):
    """The line's document is invalid; the message names the field and the value."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One decision on the call's path: the line, the trigger, the steps and the decision; for a
    forward that leaves the fleet's lines, its Request-URI."""

    number: str
    when: str
    steps: tuple[str, ...]
    decision: Decision
    uri: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """The present data in Redis of a line on the call's path.

    Attributes:
        contacts: live registrations.
        registered_s: seconds until the last of them expires; 0 = none.
        calls: calls in progress that count on the line; only lines with `max_calls` are counted
            for all workers.
        plan_s, plan_left_s: its hours to mobiles this month; None = no such plan.
        forwards, forwards_last_hour: its forwards in progress, and those of the last hour, as far
            as they are in Redis: several workers count only those beyond their local quotas there,
            a single one none.
        reached: the shared limit on them that is reached; None = neither.
        cap_s, cap_left_s: the fleet's monthly cap out of plan and abroad, and what active calls
            leave of it; None = no cap.
        countries: the countries of the fleet's allowed targets; None = it has no list of its own.
        fleet_problem: why the fleet's document is refused; None = it is not. The explanation then
            assumes no document. Workers actually use their last good one, or answer 500 without
            one.
    """

    number: str
    fleet: str
    suspended: bool
    contacts: int
    registered_s: int
    calls: int
    max_calls: int | None
    plan_s: int | None
    plan_left_s: float | None
    fleet_suspended: bool
    cap_s: int | None
    cap_left_s: float | None
    forwards: int = 0
    forwards_last_hour: int = 0
    reached: str | None = None
    countries: tuple[str, ...] | None = None
    fleet_problem: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The result for a call from `caller` (None = without a number) to line `number`. `lines` are
    those it may reach, the called one first. `at`: the moment in unix seconds, None = now."""

    number: str
    caller: str | None
    stages: tuple[Stage, ...]
    lines: tuple[Facts, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    at: float | None = None


async def explain_call(
    redis: Redis,
    config: Config,
    number: str,
    caller: str | None = None,
    lines: Mapping[str, Line] | None = None,
    at: float | None = None,
    withheld: bool | None = None,
) -> Explanation:
    """Follow a call to line `number` (E.164) through the rules as they are now.

    Calls in progress, registrations and usage are those in Redis now.

    Args:
        caller: taken as the caller's known identity; None = a caller who withholds the number.
        lines: replace the lines in Redis, for documents that are not written yet.
        withheld: whether the number is withheld; None: if there is no `caller`.
        at: unix seconds of the moment for which calendars and the ends of forwards are looked at;
            None = now.

    Raises:
        UnknownLine, RefusedLine: the line does not exist, or its document is refused.
        REDIS_ERRORS: Redis is away.
    """
    hidden = caller is None if withheld is None else withheld
    walk = _Walk(redis, config, lines or {}, time.time() if at is None else at, hidden)
    stages = await walk.call(await walk.line(number), caller)
    limits = {name: getattr(config.limits, name) for name in LIMITS}
    return Explanation(number, caller, tuple(stages), tuple(walk.facts.values()), limits, at)


def plain(explanation: Explanation) -> dict[str, Any]:
    """The same, ready for JSON."""
    return {
        "number": explanation.number,
        "caller": explanation.caller,
        **({} if explanation.at is None else {"at": explanation.at}),
        "stages": [_plain(stage) for stage in explanation.stages],
        "lines": [asdict(facts) for facts in explanation.lines],
        "limits": dict(explanation.limits),
    }


class _Walk:
    """Follows one call through the lines of one Redis."""

    def __init__(
        self, redis: Redis, config: Config, lines: Mapping[str, Line], at: float, withheld: bool
    ) -> None:
        self._redis: Any = redis
        self._config = config
        self._numbering = config.numbering.plan()
        self._given = lines
        self._at = at
        self._withheld = withheld
        self._fleets: dict[str, Fleet] = {}
        self.facts: dict[str, Facts] = {}

    async def line(self, number: str) -> Line:
        """Raises UnknownLine or RefusedLine."""
        if number in self._given:
            return self._given[number]
        raw = await self._redis.get(line_key(number))
        if raw is None:
            raise UnknownLine(f"line {number}: unknown line")
        try:
            return load_line(raw, number, self._numbering)
        except DocumentError as error:
            raise RefusedLine(f"line {number}: its document is refused: {error}") from None

    async def call(self, line: Line, caller: str | None) -> list[Stage]:
        """The decisions when the call arrives and, if the line rings, for each possible end."""
        limits = self._config.limits
        arriving = Situation(
            caller=caller,
            max_diversions=limits.max_diversions,
            forwards_per_line=limits.forwards_per_line,
            forwards_per_line_per_hour=limits.forwards_per_line_per_hour,
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
        """The decision at `line` and, if it forwards to another line, those there."""
        numbers = line.target_numbers()
        if line.asks_for_caller and situation.caller and situation.caller != line.number:
            numbers = tuple(dict.fromkeys((*numbers, situation.caller)))
        targets = await self._lines(numbers)
        now = await self._now(line, situation)
        explanation = explain(line, now, targets)
        decision = explanation.decision
        uri = None
        if isinstance(decision, ForwardTo) and decision.kind != "line":
            uri = uri_of(self._config.destinations, decision)
        stages = [Stage(line.number, when, explanation.steps, decision, uri)]
        if isinstance(decision, ForwardTo) and decision.kind == "line" and _is_alone(decision):
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
        """The lines of these numbers; None = not one of our lines, or a refused document."""
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
        """The situation from the data in Redis for this line."""
        facts = self.facts.get(line.number)
        if facts is None:
            facts = self.facts[line.number] = await self._facts(line)
        found = replace(
            situation,
            calls_in_progress=facts.calls,
            registered=facts.contacts > 0,
            visited=(*situation.visited, line.number),
            plan_left_s=facts.plan_left_s,
            cap_left_s=facts.cap_left_s,
            fleet_suspended=facts.fleet_suspended,
            fleet_countries=None if facts.countries is None else frozenset(facts.countries),
        )
        if line.asks_for_moment:
            fleet = self._fleets[line.fleet]
            found.circumstances = Circumstances(
                self._at, self._withheld, fleet.calendars, fleet.lists
            )
        return at_limit(found, facts.reached) if facts.reached else found

    def _reached(self, standing: int, last_hour: int, workers: int) -> str | None:
        """The limit on forwards whose shared pool is full."""
        if workers < 2:
            return None
        for limit, found in ((STANDING, standing), (LAST_HOUR, last_hour)):
            most = getattr(self._config.limits, limit)
            if most > 0 and found >= pool_of(most, workers):
                return limit
        return None

    async def _facts(self, line: Line) -> Facts:
        now, zone = time.time(), ZoneInfo(self._config.numbering.timezone)
        month, _ = month_of(now, zone)
        usage = fleet_usage_key(line.fleet, month)
        pipe = self._redis.pipeline(transaction=False)
        pipe.zcount(live_key(line.number), f"({now}", "+inf")
        pipe.zrevrangebyscore(registrations_key(line.number), "+inf", f"({now}", withscores=True)
        pipe.hget(usage_key(line.number, month), "deducted")
        pipe.get(fleet_key(line.fleet))
        pipe.hmget(usage, CAPPED)
        pipe.hgetall(active_calls_key(usage))
        pipe.zcount(FORWARDS + line.number, f"({now}", "+inf")
        pipe.zcount(FORWARDS_LAST_HOUR + line.number, f"({now}", "+inf")
        pipe.zcount(WORKERS, now - SKEW_S, "+inf")
        replies = await pipe.execute()
        calls, members, deducted, raw, spent, standing, forwards, last_hour, workers = replies
        contacts, _ = read_contacts(members)  # the engine rings no others
        last = max((contact.expires for contact in contacts), default=now)
        fleet, problem = _fleet(line.fleet, raw, self._numbering)
        self._fleets[line.fleet] = fleet
        plan_s = line.offer.plan_s
        # A plan with unknown use counts as not used up (rules.billing).
        used_s = _seconds(deducted)
        left_s = None if plan_s is None or used_s is None else max(0.0, plan_s - used_s)
        cap_left_s = None
        if fleet.cap_seconds is not None:
            using_s, _ = out_of_plan_of(
                notes_of(standing, now).values(), now, month_begin(now, zone)
            )
            cap_left_s = fleet.cap_seconds - capped_s(spent) - using_s
        return Facts(
            line.number,
            line.fleet,
            line.suspended,
            len(contacts),
            round(min(last, FAR_S) - now),
            int(calls),
            line.max_calls,
            plan_s,
            left_s,
            fleet.suspended,
            fleet.cap_seconds,
            cap_left_s,
            forwards,
            last_hour,
            self._reached(forwards, last_hour, workers),
            None if fleet.forward_countries is None else tuple(sorted(fleet.forward_countries)),
            problem,
        )


def _fleet(name: str, raw: bytes | None, numbering: Numbering) -> tuple[Fleet, str | None]:
    """A fleet from its document, and why that is refused."""
    try:
        return (load_fleet(raw, name, numbering) if raw is not None else Fleet(name)), None
    except DocumentError as error:
        return Fleet(name), str(error)


def _seconds(raw: bytes | None) -> float | None:
    try:
        return max(0.0, float(raw or 0))
    except ValueError:
        return None


def _is_alone(decision: ForwardTo) -> bool:
    """Whether the forward has one target. A line among several rings, also if the others are passed
    over, and its own forwards are not followed."""
    return len(decision.targets) < 2


def _plain(stage: Stage) -> dict[str, Any]:
    name = {"Ring": "ring", "ForwardTo": "forward", "Reject": "reject"}
    action = name[type(stage.decision).__name__]
    decision = {
        name: value
        for name, value in asdict(stage.decision).items()
        if name != "prevented" and (value or name not in ("also", "targets"))
    }
    if isinstance(stage.decision, ForwardTo):
        decision |= {"payer": stage.number, "uri": stage.uri}
        if not stage.decision.targets:
            del decision["ring"]
    return {
        "number": stage.number,
        "when": stage.when.strip(),
        "steps": list(stage.steps),
        "decision": {"action": action, **decision},
    }
