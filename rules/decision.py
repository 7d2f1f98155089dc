"""What a decision depends on, and what it may be: frozen data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from rules.calendar import Calendar
from rules.callers import CallerList
from rules.model import FLEET_COUNTRIES, Billing, Condition, Ringing
from rules.numbers import REFUSALS

PREVENTED = (
    "no_target",
    *REFUSALS,
    FLEET_COUNTRIES,
    "self",
    "not_ours",
    "other_fleet",
    "no_fax",
    "caller_is_target",
    "loop",
    "forwards_per_line",
    "forwards_per_line_per_hour",
    "fleet_cap",
    "max_diversions",
)
"""Why a forward that is on does not happen (`prevented` of a decision)."""


class No(NamedTuple):
    """Why a forward does not happen: one of PREVENTED ("" if it is off), and in words."""

    reason: str
    text: str


ALSO_RING = "also_ring"
"""In place of the condition: what rings beside the line's phones was prevented."""

BLOCKED = "blocked"
"""Why a caller is refused by a forward to a rejection."""


class Circumstances(msgspec.Struct):
    """What only the forwards of `Line.rules` depend on. For other lines nobody finds it out.

    Attributes:
        at: now, in unix seconds.
        withheld: the caller withholds the number, or shows none.
        calendars: the fleet's.
        lists: the fleet's lists of callers.
    """

    at: float
    withheld: bool = False
    calendars: Mapping[str, Calendar] = {}
    lists: Mapping[str, CallerList] = {}


class Situation(msgspec.Struct):  # which C makes, at each decision
    """All that a decision depends on besides the rules.

    Attributes:
        trigger: the condition that has just been met; None when the call arrives at the line.
        calls_in_progress: calls that count on this line now, without this one.
        registered: the line has a live registration.
        caller: the caller in E.164; None if it is withheld or not a number.
        visited: the lines on this call's path, including this line.
        forwarded: the lines that forwarded it before it came back from outside.
        diversions: forwards so far: the larger of Diversion and History-Info received, plus ours.
        max_diversions: how many forwards one call may have; 0 = no limit.
        forwards_in_progress: forwarded calls of this line in progress.
        forwards_per_line: how many may be in progress at once; 0 = no limit.
        forwards_last_hour: forwards of this line in the last hour.
        forwards_per_line_per_hour: how many there may be; 0 = no limit.
        plan_left_s: seconds left of the month's hours to mobiles; None = unknown or no such plan.
        cap_left_s: seconds left of what the fleet may use out of plan in the month; None = no cap.
        fleet_suspended: the line's fleet is suspended, and with it all its lines.
        fleet_countries: the countries of allowed targets of the fleet; None = it has no list.
        circumstances: None for lines without `Line.rules`.
    """

    trigger: Condition | None = None
    calls_in_progress: int = 0
    registered: bool = True
    caller: str | None = None
    visited: tuple[str, ...] = ()
    forwarded: tuple[str, ...] = ()
    diversions: int = 0
    max_diversions: int = 5
    forwards_in_progress: int = 0
    forwards_per_line: int = 0
    forwards_last_hour: int = 0
    forwards_per_line_per_hour: int = 0
    plan_left_s: float | None = None
    cap_left_s: float | None = None
    fleet_suspended: bool = False
    fleet_countries: frozenset[str] | None = None
    circumstances: Circumstances | None = None


def at_limit(situation: Situation, limit: str) -> Situation:
    """The situation when all workers together have reached a limit on a line's forwards,
    `forwards_per_line` or `forwards_per_line_per_hour`."""
    if limit == "forwards_per_line":
        return replace(situation, forwards_in_progress=situation.forwards_per_line)
    return replace(situation, forwards_last_hour=situation.forwards_per_line_per_hour)


# These are made at each decision, and not frozen, because that takes 35 ns for each field.


@dataclass(slots=True)
class Target:
    """One of several targets that ring for a line, each checked by itself.

    Attributes:
        kind: "line" (a line of the fleet), "voicemail", "fax" or "number".
        number: in E.164.
        billing: the class of a leg there, which the line pays.
        ring_s: seconds for which it rings.
        passed_over: of PREVENTED: why it is not dialled; None if it is.
    """

    kind: str
    number: str
    billing: Billing
    ring_s: int
    passed_over: str | None = None


@dataclass(slots=True)
class Ring:
    """Ring the line's contacts, and `also`, which may all be dialled, at the same time.

    Attributes:
        after_s: seconds until no_answer; None = no such timer.
        prevented: of PREVENTED, for each forward that is on, was due and did not happen.
        also: what else rings as if it were the line (`also_ring`); the line pays. With some the
            line may have no registration. Their `ring_s` is of no meaning.
    """

    after_s: int | None
    prevented: tuple[str, ...] = field(default=(), compare=False)
    also: tuple[Target, ...] = ()


@dataclass(slots=True)
class ForwardTo:
    """Forward the call.

    Attributes:
        kind: "line" (a line of the fleet, whose own rules apply), "voicemail", "fax", "number"; of
            several targets that of the first that may be dialled, as `number` and `billing`.
        number: the target in E.164.
        cause: History-Info and RFC 4458 cause: 302, 486, 408 or 503.
        reason: Diversion reason (RFC 5806).
        targets: the targets if the forward has a list of them, or a time to ring; at least one is
            not passed over. Empty for a forward to one target, which rings for `max_ring_s`.
        ring: how several targets ring.
        rule: the forward's place in the list of its condition; 0 if that has no list.
    """

    condition: Condition
    kind: str
    number: str
    billing: Billing
    cause: int
    reason: str
    prevented: tuple[str, ...] = field(default=(), compare=False)
    targets: tuple[Target, ...] = ()
    ring: Ringing = Ringing.IN_TURN
    rule: int = 0


@dataclass(slots=True)
class Reject:
    """Answer the caller with `code`. `why` is one of a closed set of short words.

    BLOCKED (603) is a forward to a rejection: the outcome is `rejected` whatever the condition, and
    no response of a phone replaces the code.
    """

    code: int
    condition: Condition | None
    why: str
    prevented: tuple[str, ...] = field(default=(), compare=False)


Decision = Ring | ForwardTo | Reject


class Explanation(NamedTuple):
    """The steps of a decision in order, as sentences, and the decision itself."""

    steps: tuple[str, ...]
    decision: Decision
