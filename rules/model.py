"""A line and its forwards: frozen data. `rules.line_document` reads it from a document."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, Literal

from rules.calendar import Calendar, When
from rules.callers import CallerKind, CallerList, Callers
from rules.numbers import OUTSIDE_ONLY

_LONGEST_VALUE_SHOWN = 80


class Condition(StrEnum):
    """When a forward applies, in order of precedence (forwarding-rules.md 1)."""

    UNCONDITIONAL = "unconditional"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    UNREACHABLE = "unreachable"


class Kind(StrEnum):
    """What a forward leads to, as the customer chose it."""

    VOICEMAIL = "voicemail"
    FAX = "fax"
    NUMBER = "number"


class Ringing(StrEnum):
    """How several targets of a forward ring."""

    IN_TURN = "in_turn"
    TOGETHER = "together"


class Billing(StrEnum):
    """Who pays for a forwarded leg, and from what (forwarding-rules.md 4)."""

    FREE = "free"
    STANDARD = "standard"
    DEDUCTED = "deducted"
    OUT_OF_PLAN = "out_of_plan"
    INTERNATIONAL = "international"
    SATELLITE = "satellite"
    INTERNATIONAL_NETWORK = "international_network"
    PERSONAL = "personal"


CAPPED = (
    Billing.OUT_OF_PLAN,
    Billing.INTERNATIONAL,
    Billing.SATELLITE,
    Billing.INTERNATIONAL_NETWORK,
    Billing.PERSONAL,
)
"""The classes whose seconds count against a fleet's cap."""

METERED = frozenset({Billing.DEDUCTED, *CAPPED})
"""The classes that count against a plan or a cap during the call."""

RING_S = 20
"""Seconds for which one of several targets rings, unless its forward says otherwise."""

FLEET_COUNTRIES = "fleet_countries"
"""The reason for a target whose country is not in the fleet's own list, in addition to
`rules.numbers.REFUSALS`."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a forward leads.

    Attributes:
        number: E.164 with +; the bare digits when the number is a short one (and refused).
        mobile: recognised when the rule is loaded, never on the call path.
        refused: why this number may not be a target, one of `rules.numbers.REFUSALS`.
        country: ISO 3166 code of its country, as in `rules.numbers.Recognised`.
        tariff: the class of a call there, whatever the line's plan; None: the plan decides.
        ring_s: seconds for which it rings as one of several targets.
    """

    kind: Kind
    number: str
    mobile: bool = False
    refused: str | None = None
    # These follow from the number, so they are not compared.
    country: str = field(default="", compare=False)
    tariff: Billing | None = field(default=None, compare=False)
    ring_s: int | None = None

    @property
    def never(self) -> bool:
        """The number may not be a target even if it is a line."""
        return self.refused is not None and self.refused not in OUTSIDE_ONLY

    def why_refused(self, inside: bool, countries: frozenset[str] | None) -> str | None:
        """Why it may not be a target: `refused`, or FLEET_COUNTRIES; None if it may.

        Args:
            inside: the number is a line of the fleet, so the call stays inside the engine.
            countries: the fleet's own list; None = it has none.
        """
        if self.never:
            return self.refused
        if inside or self.kind is not Kind.NUMBER:
            return None
        if self.refused is None and countries is not None and self.country not in countries:
            return FLEET_COUNTRIES
        return self.refused


@dataclass(frozen=True, slots=True)
class Forward:
    """A forward: one of the four, or one of several of a condition.

    Attributes:
        to: its target; of several the first; None if it has none.
        after_s: seconds of ringing before no_answer, 5 to 60.
        targets: its targets, if `to` is a list or has a time to ring; else empty.
        ring: how several targets ring.
        when: the hours in which it applies; None = always.
        until: unix seconds at which it ends; None = it does not.
        callers: the callers for whom it applies; None = all.
        rejects: it leads nowhere, the caller is refused.
    """

    on: bool
    to: Destination | None
    after_s: int | None = None
    targets: tuple[Destination, ...] = ()
    ring: Ringing = Ringing.IN_TURN
    when: When | None = None
    until: float | None = None
    callers: Callers | None = None
    rejects: bool = False

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """All its targets."""
        return self.targets or (() if self.to is None else (self.to,))

    def has_ended(self, at: float) -> bool:
        """Whether it is off at a moment, in unix seconds, because of its end."""
        return self.until is not None and at >= self.until

    def is_on_at(self, at: float) -> bool:
        """Whether it is on, and has not ended, at a moment in unix seconds."""
        return self.on and not self.has_ended(at)

    @property
    def is_plain(self) -> bool:
        """Whether it has only what a forward has that always applies, to one target."""
        bare = self.when is None and self.until is None and self.callers is None
        return bare and not self.targets and not self.rejects


_NOTHING: dict[Any, Any] = {}


def _nothing() -> dict[Any, Any]:
    """The same empty mapping for every line: there may be a million of them."""
    return _NOTHING


@dataclass(frozen=True, slots=True)
class Offer:
    """What the line's subscription includes. `mobile_hours` a month, for `mobile` "hours"."""

    fax: bool = False
    mobile: Literal["none", "unlimited", "hours"] = "none"
    mobile_hours: float = 0

    @property
    def plan_s(self) -> int | None:
        """The plan to mobiles in whole seconds per month; None without such a plan."""
        return int(self.mobile_hours * 3600) if self.mobile == "hours" else None


@dataclass(frozen=True, slots=True)
class Credentials:
    """The hashes with which the registrar checks a REGISTER of this line: H(user:realm:password),
    by MD5 and optionally by SHA-256 (RFC 7616)."""

    user: str
    ha1: str = field(repr=False)
    ha1_sha256: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ProfileUse:
    """An entry of a line's `profile`: the name of one of its profiles, and when it is used.

    Attributes:
        when: the hours in which it is used; None = always.
        until: unix seconds at which it ends; None = it does not.
    """

    name: str
    when: When | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of ours.

    Attributes:
        forwards: by condition, only those that the document has; of several the first.
        rules: all forwards of the conditions that have several, or one that is not plain. So a line
            with none of these has an empty mapping.
        also_ring: targets that ring beside the line's phones.
        lists: its lists of callers, which come before its fleet's.
        calendars: its calendars, which come before its fleet's.
        profiles: by name, the line as it is while that profile is used; `do_not_disturb` of the
            line itself holds in each.
        profile: which profile is used: the first that applies now, else none.
    """

    number: str
    fleet: str
    label: str = ""
    max_calls: int | None = None
    suspended: bool = False
    offer: Offer = Offer()
    credentials: Credentials | None = None
    forwards: Mapping[Condition, Forward] = field(default_factory=dict)
    do_not_disturb: bool = False
    rules: Mapping[Condition, tuple[Forward, ...]] = field(default_factory=_nothing)
    also_ring: tuple[Destination, ...] = ()
    lists: Mapping[str, CallerList] = field(default_factory=_nothing)
    calendars: Mapping[str, Calendar] = field(default_factory=_nothing)
    profiles: "Mapping[str, Line]" = field(default_factory=_nothing)
    profile: tuple[ProfileUse, ...] = ()

    @property
    def may_forward_ringing(self) -> bool:
        """Whether a call that rings this line may still be forwarded, now or at another time."""
        return (
            any(f.on for f in self.all_of(Condition.BUSY))
            or any(f.on for f in self.all_of(Condition.NO_ANSWER))
            or any(self.profiles[use.name].may_forward_ringing for use in self.profile)
        )

    @property
    def asks_for_caller(self) -> bool:
        """Whether a forward that is on depends on who the caller is, not only on whether the
        number is withheld."""
        return any(
            forward.on
            and forward.callers is not None
            and forward.callers.kind is not CallerKind.WITHHELD
            for forwards in self.rules.values()
            for forward in forwards
        ) or any(self.profiles[use.name].asks_for_caller for use in self.profile)

    @property
    def asks_for_moment(self) -> bool:
        """Whether a decision needs `rules.decision.Circumstances`."""
        return bool(self.rules) or bool(self.profile)

    def all_of(self, condition: Condition) -> tuple[Forward, ...]:
        """All forwards of a condition, in the order in which they are tried."""
        rules = self.rules.get(condition)
        if rules is not None:
            return rules
        forward = self.forwards.get(condition)
        return () if forward is None else (forward,)

    def all_forwards(self) -> Iterator[tuple[Condition, Forward]]:
        """All forwards, by condition, in the order of the conditions."""
        for condition in Condition:
            for forward in self.all_of(condition):
                yield condition, forward

    def all_targets(self, at: float | None = None) -> Iterator[Destination]:
        """The targets of all forwards that are on, whenever they apply, by precedence, and those
        that ring beside the line; then those of its profiles that may be used. `at`: without what
        has ended by this moment, in unix seconds."""
        for _, forward in self.all_forwards():
            if forward.on if at is None else forward.is_on_at(at):
                yield from forward.destinations
        yield from self.also_ring
        for use in self.profile:
            if at is None or use.until is None or at < use.until:
                yield from self.profiles[use.name].all_targets(at)

    def in_each_profile(self) -> "Iterator[tuple[str, Line]]":
        """The line without a profile (""), and as it is in each that may be used, by name."""
        yield "", self
        for name in dict.fromkeys(use.name for use in self.profile):
            yield name, self.profiles[name]

    def refused_targets(
        self, inside: Container[str] = (), countries: frozenset[str] | None = None
    ) -> tuple[tuple[Condition, Destination, str], ...]:
        """The forwards that are on but count as off because of their number, with the reason.

        Args:
            inside: the numbers that are lines of the fleet. Without them a line of the fleet with
                an invalid number is included too.
            countries: the fleet's own list; None = it has none.
        """
        named = [(c, to) for c, f in self.all_forwards() if f.on for to in f.destinations]
        return tuple(
            (condition, to, refused)
            for condition, to in named
            if (refused := to.why_refused(to.number in inside, countries)) is not None
        )

    def target_numbers(self) -> tuple[str, ...]:
        """The other numbers of `all_targets`, each once."""
        numbers = (to.number for to in self.all_targets() if not to.never)
        return tuple(dict.fromkeys(n for n in numbers if n != self.number))


class DocumentError(ValueError):
    """A document is refused.

    Attributes:
        field: the path of the field, such as "forwards.no_answer.after_s"; "document" for all.
        value: the value in the document; None if it is missing.
        problem: what is wrong with it.
    """

    def __init__(self, field: str, value: object, problem: str) -> None:
        self.field = field
        self.value = value.value if isinstance(value, Enum) else value
        self.problem = problem
        super().__init__(f"{field}: {problem} (got {_shown(self.value)})")


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(str(value) if isinstance(value, str) else value)  # an Enum as its text
    return text if len(text) <= _LONGEST_VALUE_SHOWN else text[: _LONGEST_VALUE_SHOWN - 3] + "..."
