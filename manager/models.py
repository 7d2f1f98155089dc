"""The API's data: the same structures encode the responses and describe them in OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rules.shared_document import CalendarDocument

Condition = Literal["unconditional", "busy", "no_answer", "unreachable"]
Refusal = Literal[
    "premium", "shared_cost", "emergency", "short", "invalid", "country", "fleet_countries"
]
E164 = Annotated[str, Meta(description="E.164 with +", examples=["+33972101001"])]


class InForce(msgspec.Struct):
    """Whether the engine's workers have confirmed that the change is in force, and when the last
    one did, in ms after the write."""

    complete: bool
    workers: int
    acknowledged: int
    ms: float


class LineOffer(msgspec.Struct):
    """What the subscription includes."""

    fax: bool = False
    mobile: Literal["none", "unlimited", "hours"] = "none"
    mobile_hours: float | None = None


class Target(msgspec.Struct):
    """Where a forward of a document leads. `reject` refuses the caller and has no number; `ring_s`:
    seconds for which one of several targets rings."""

    kind: Literal["voicemail", "fax", "number", "reject"]
    number: str | None = None
    ring_s: Annotated[int, Meta(ge=5, le=60)] | None = None


Targets = Annotated[list[Target], Meta(min_length=1, max_length=10)]


class Rule(msgspec.Struct):
    """A forward of a document: one target, or several in turn or together; in the hours of a
    calendar (`when`), until a moment with its offset, for some callers."""

    on: bool
    to: Target | Targets | None = None
    after_s: Annotated[int, Meta(ge=5, le=60)] | None = None
    ring: Literal["in_turn", "together"] | None = None
    when: str | None = None
    until: str | None = None
    callers: str | None = None


Rules = Annotated[list[Rule], Meta(min_length=1)]


class LineForwards(msgspec.Struct):
    """The forwards of a document by condition: one, or a list, of which the first that is on and
    applies is taken."""

    unconditional: Rule | Rules | None = None
    busy: Rule | Rules | None = None
    no_answer: Rule | Rules | None = None
    unreachable: Rule | Rules | None = None


class Forward(msgspec.Struct):
    """A forward of a condition, with its target, or with several. In a PUT `to` and `after_s` are
    kept if they are left out."""

    on: bool
    to: Target | Targets | None = None
    after_s: Annotated[int, Meta(ge=5, le=60)] | None = None
    ring: Literal["in_turn", "together"] | None = None
    when: str | None = None
    until: str | None = None
    callers: str | None = None


class Forwards(msgspec.Struct):
    """The forwards of a line by condition: one, or a list. In a PUT, a condition that is left out
    stays as it is, and a list replaces all that the condition has."""

    unconditional: Forward | Rules | None = None
    busy: Forward | Rules | None = None
    no_answer: Forward | Rules | None = None
    unreachable: Forward | Rules | None = None


class WrittenForwards(Forwards):
    """The forwards after a change. `profile`: the profile that is used now, whose forwards apply
    instead."""

    profile: str | None = None
    in_force: InForce | None = None


class WrittenForward(msgspec.Struct):
    """The forward after a change, or `rules`, the list of them. `profile`: the profile that is used
    now, whose forwards apply instead."""

    on: bool | None = None
    to: Target | Targets | None = None
    after_s: Annotated[int, Meta(ge=5, le=60)] | None = None
    ring: Literal["in_turn", "together"] | None = None
    when: str | None = None
    until: str | None = None
    callers: str | None = None
    rules: Rules | None = None
    profile: str | None = None
    in_force: InForce | None = None


class Webhook(msgspec.Struct):
    """Where signed messages are posted."""

    url: str


class Notify(msgspec.Struct):
    """Who is notified of what: docs/notifications.md. Without `events` all."""

    webhook: Webhook | None = None
    email: Annotated[list[str], Meta(min_length=1, max_length=10)] | None = None
    events: (
        list[Literal["forward_changed", "missed_call", "plan_used", "forward_prevented"]] | None
    ) = None
    language: Literal["fr", "en"] | None = None


class Profile(msgspec.Struct):
    """What replaces the line's own as a whole while the profile is used."""

    forwards: LineForwards | None = None
    also_ring: Targets | None = None
    do_not_disturb: bool = False


class ProfileUse(msgspec.Struct):
    """Which profile is used (`use`), and when: in the hours of a calendar, until a moment."""

    use: str
    when: str | None = None
    until: str | None = None


ProfileUses = Annotated[list[ProfileUse], Meta(min_length=1)]


class LineDocument(msgspec.Struct):
    """A line's document, without its credentials. Fields of others are kept and shown."""

    number: E164
    fleet: Annotated[str, Meta(min_length=1)]
    label: str | None = None
    max_calls: Annotated[int, Meta(ge=1)] | None = None
    suspended: bool = False
    offer: LineOffer | None = None
    forwards: LineForwards | None = None
    also_ring: Targets | None = None
    do_not_disturb: bool = False
    calendars: dict[str, CalendarDocument] | None = None
    lists: dict[str, list[str]] | None = None
    profiles: dict[str, Profile] | None = None
    profile: str | ProfileUses | None = None
    notify: Notify | None = None


class LineChange(msgspec.Struct):
    """The fields of a line's document that replace those it has; null removes one. Of `forwards`
    only the conditions that are sent are replaced."""

    forwards: LineForwards | None = None
    also_ring: Targets | None = None
    do_not_disturb: bool | None = None
    calendars: dict[str, CalendarDocument] | None = None
    lists: dict[str, list[str]] | None = None
    profiles: dict[str, Profile] | None = None
    profile: str | ProfileUses | None = None


class WrittenLine(LineDocument):
    """The line's document after a change."""

    in_force: InForce | None = None


class DoNotDisturb(msgspec.Struct):
    """The line's own switch."""

    on: bool


class ShownDoNotDisturb(DoNotDisturb):
    """`now`: whether the line is not to be disturbed, by its own switch or by the profile that is
    used."""

    now: bool = False


class WrittenDoNotDisturb(ShownDoNotDisturb):
    """The same after a change."""

    in_force: InForce | None = None


class ProfileChoice(msgspec.Struct):
    """The profile to use from now on; null: none. `until` a moment with its offset, and then what
    was used before."""

    use: str | None
    until: str | None = None


class ProfileState(msgspec.Struct):
    """The profile that is used now, all that the line has, and the field `profile` of its
    document."""

    now: str | None
    profiles: list[str]
    profile: str | ProfileUses | None = None


class WrittenProfile(ProfileState):
    """The same after a change."""

    in_force: InForce | None = None


class FleetShared(msgspec.Struct):
    """What the lines of a fleet share: calendars and lists of callers, by name."""

    name: str
    label: str | None = None
    calendars: dict[str, CalendarDocument] | None = None
    lists: dict[str, list[str]] | None = None


class FleetChange(msgspec.Struct):
    """The calendars or the lists that replace all those of the fleet; null removes them."""

    calendars: dict[str, CalendarDocument] | None = None
    lists: dict[str, list[str]] | None = None


class StillNamed(msgspec.Struct):
    """A calendar or a list that is gone and lines still name: how many, and the first of them.
    Those forwards no longer apply."""

    what: Literal["calendar", "list"]
    name: str
    lines: int
    first: list[str]


class WrittenFleet(FleetShared):
    """The same after a change."""

    still_named: list[StillNamed] = []


class LineSummary(msgspec.Struct):
    """A line in a list. `forwards`: the conditions whose forward is on and has not ended."""

    number: E164
    fleet: str
    label: str
    suspended: bool
    forwards: list[Condition]


class LinePage(msgspec.Struct):
    """`next` is the cursor of the next page, null on the last. `total` counts all that match."""

    items: list[LineSummary]
    total: int
    next: str | None = None


class Registration(msgspec.Struct):
    """One registered phone. `expires` in unix seconds."""

    contact: str
    expires: float


class State(msgspec.Struct):
    """A line at this moment. `calls_in_progress` is null for a line without `max_calls`, whose
    calls are not counted. `refused`: the forwards that are on and count as off because of the
    number they lead to, and why."""

    number: E164
    registered: bool
    registrations: list[Registration]
    calls_in_progress: int | None
    max_calls: int | None
    refused: dict[Condition, Refusal]


class Seconds(msgspec.Struct):
    """Forwarded conversation in seconds, by billing class."""

    free: int = 0
    standard: int = 0
    deducted: int = 0
    out_of_plan: int = 0
    international: int = 0
    satellite: int = 0
    international_network: int = 0
    personal: int = 0


class Usage(msgspec.Struct):
    """A month of a line. `plan_left_s`: seconds left of the hours to mobiles, null without such a
    plan."""

    number: E164
    month: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}$", examples=["2026-11"])]
    seconds: Seconds
    plan_hours: float | None
    plan_left_s: float | None


class Record(msgspec.Struct):
    """A call of the line. Times in unix seconds; `seconds` of conversation. `condition` and
    `billing` are those of this line's own forward, "none" and "" when it made none. `caller` is ""
    when it is `withheld`, or none is known; `caller_withheld` says who it is, in answers to
    operators only."""

    id: str
    caller: str
    called: str
    received: float
    answered: float | None
    ended: float
    condition: Literal["none", "unconditional", "busy", "no_answer", "unreachable"]
    destination: str
    target: str
    outcome: str
    seconds: int
    billing: str
    withheld: bool = False
    caller_withheld: str | msgspec.UnsetType = msgspec.UNSET


class RecordPage(msgspec.Struct):
    """Newest first. A page may hold fewer than were asked for; only `next` null is the end."""

    items: list[Record]
    next: str | None = None


class Stage(msgspec.Struct):
    """One decision on a call's path: the line, the trigger, the steps and the decision."""

    number: E164
    when: str
    steps: list[str]
    decision: dict[str, Any]


class Facts(msgspec.Struct):
    """What Redis has of a line on the call's path: its live registrations (`contacts`), and the
    seconds until the last one expires; its calls that count, if it has `max_calls`; its plan and
    its fleet's cap, and what is left of them in seconds, null without one. `reached`: the limit on
    forwards that is reached; `fleet_problem`: why the fleet's document is refused."""

    number: E164
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
    forwards: int
    forwards_last_hour: int
    reached: str | None
    countries: list[str] | None
    fleet_problem: str | None


class Explanation(msgspec.Struct):
    """What would happen to a call now, or `at` a moment in unix seconds. `lines`: those that it may
    reach, the called one first; a user of one line sees that one alone. `limits`: 0 = none."""

    number: E164
    caller: str | None
    stages: list[Stage]
    lines: list[Facts]
    limits: dict[str, int]
    at: float | None = None


class Change(msgspec.Struct):
    """Who changed what: `from` and `to` hold only what differs. `at` in unix seconds."""

    id: str
    at: float
    who: str
    how: str
    line: str
    what: str
    before: dict[str, Any] = msgspec.field(name="from")
    after: dict[str, Any] = msgspec.field(name="to")


class ChangePage(msgspec.Struct):
    """Newest first. A page may hold fewer than were asked for; only `next` null is the end."""

    items: list[Change]
    next: str | None = None
