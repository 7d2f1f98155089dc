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


class Destination(msgspec.Struct):
    """Where a forward leads. `number` as people write it is read too; answers have E.164."""

    kind: Literal["voicemail", "fax", "number"]
    number: str | None = None


class Forward(msgspec.Struct):
    """One of the four forwards. `after_s`: seconds of ringing before no_answer."""

    on: bool
    to: Destination | None = None
    after_s: Annotated[int, Meta(ge=5, le=60)] | None = None


class Forwards(msgspec.Struct):
    """The four forwards of a line. In a PUT, one that is left out stays as it is."""

    unconditional: Forward | None = None
    busy: Forward | None = None
    no_answer: Forward | None = None
    unreachable: Forward | None = None


class InForce(msgspec.Struct):
    """Whether the engine's workers have confirmed that the change is in force, and when the last
    one did, in ms after the write."""

    complete: bool
    workers: int
    acknowledged: int
    ms: float


class WrittenForwards(Forwards):
    """The forwards after a change."""

    in_force: InForce | None = None


class WrittenForward(Forward):
    """The forward after a change."""

    in_force: InForce | None = None


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
    notify: Notify | None = None


class LineSummary(msgspec.Struct):
    """A line in a list. `forwards`: the conditions whose forward is on."""

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


class Explanation(msgspec.Struct):
    """What would happen to a call now."""

    number: E164
    caller: str | None
    stages: list[Stage]


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
    """Newest first."""

    items: list[Change]
    next: str | None = None
