"""Deliveries: what is sent to one target, and to which targets something that happened goes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import orjson

from notify.occurrences import Happened, forwards_of
from rules.decide import ALSO_RING
from rules.model import DocumentError, Offer
from rules.notify import Event, Notify, read_notify
from rules.shared_document import has_ended
from store.keys import fleet_key, line_key

Channel = Literal["webhook", "email"]
TEST = "test"
"""The event of `renvoi notify test`."""


class Delivery(msgspec.Struct, frozen=True):
    """One message to one target.

    Attributes:
        id: identifies it for the receiver, the same at each attempt.
        owner: whose setting it is: the key of the line's or the fleet's document.
        target: a URL, or the address of a mailbox.
        at: when it happened, unix seconds.
    """

    id: str
    owner: str
    channel: Channel
    target: str
    event: str
    at: float
    data: dict[str, Any]
    language: str = "fr"

    @property
    def host(self) -> str:
        """Where it goes, for logs: a URL's path, or the name in an address, may be private."""
        if self.channel == "email":
            return self.target.rpartition("@")[2]
        return urlsplit(self.target).hostname or "?"

    @property
    def body(self) -> bytes:
        """The JSON of a webhook, the same bytes at each attempt."""
        when = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds")
        return orjson.dumps(
            {"type": self.event, "timestamp": when.replace("+00:00", "Z"), "data": self.data}
        )


encode_delivery = msgspec.json.Encoder().encode
decode_delivery = msgspec.json.Decoder(Delivery).decode


class LineFacts(msgspec.Struct, frozen=True):
    """What matters here of a line's document. `on`: the conditions with a forward that is on."""

    number: str
    fleet: str
    label: str = ""
    plan_s: int | None = None
    on: frozenset[str] = frozenset()
    notify: Notify | None = None


class FleetFacts(msgspec.Struct, frozen=True):
    """What matters here of a fleet's document, which it need not have."""

    name: str
    label: str = ""
    cap_s: int | None = None
    notify: Notify | None = None


class _Offer(msgspec.Struct):
    mobile: Any = None
    mobile_hours: Any = None


class _Line(msgspec.Struct):
    """Read leniently: what the engine makes of the rest does not matter here."""

    fleet: str
    label: str | None = None
    offer: _Offer | None = None
    forwards: dict[str, Any] | None = None
    also_ring: Any = None
    profiles: Any = None


class _Fleet(msgspec.Struct):
    label: str | None = None
    cap_seconds: int | None = None


_read_line = msgspec.json.Decoder(_Line).decode
_read_fleet = msgspec.json.Decoder(_Fleet).decode
_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)
_MOST_HOURS = 744  # as in a valid document


def line_facts(number: str, raw: bytes | None, now: float = 0.0) -> LineFacts | None:
    """None if it is no line of ours, or its document is bad. A forward that has ended by `now`, in
    unix seconds, is off."""
    if not isinstance(raw, bytes):
        return None
    try:
        document = _read_line(raw)
    except _ERRORS:
        return None
    plan_s, offer = None, document.offer or _Offer()
    if isinstance(offer.mobile_hours, int | float) and 0 < offer.mobile_hours <= _MOST_HOURS:
        plan_s = Offer(mobile=offer.mobile, mobile_hours=offer.mobile_hours).plan_s
    forwards = (document.forwards or {}).items()
    on = {name for name, given in forwards if _is_any_on(given, now)}
    for profile in _dicts(document.profiles):
        stated = profile.get("forwards")
        for name, given in stated.items() if isinstance(stated, dict) else ():
            on |= {name} if _is_any_on(given, now) else set()
        on |= {ALSO_RING} if profile.get("also_ring") else set()
    return LineFacts(
        number,
        document.fleet,
        document.label or "",
        plan_s or None,
        frozenset(on | {ALSO_RING} if document.also_ring else on),
        read_notify(raw, of_fleet=False),
    )


def _is_any_on(given: Any, now: float) -> bool:
    """Whether one of the forwards of a condition is on."""
    return any(forward.get("on") and not _has_ended(forward, now) for forward in forwards_of(given))


def _has_ended(forward: Any, now: float) -> bool:
    try:
        return has_ended(forward, now)
    except DocumentError:
        return False


def _dicts(profiles: Any) -> list[dict[str, Any]]:
    values = profiles.values() if isinstance(profiles, dict) else ()
    return [each for each in values if isinstance(each, dict)]


def fleet_facts(name: str, raw: bytes | None) -> FleetFacts:
    """A fleet with a bad document is one without a document."""
    if not isinstance(raw, bytes):
        return FleetFacts(name)
    try:
        document = _read_fleet(raw)
    except _ERRORS:
        return FleetFacts(name)
    notify = read_notify(raw, of_fleet=True)
    return FleetFacts(name, document.label or "", document.cap_seconds, notify)


def wanted(event: Event, line: LineFacts | None, fleet: FleetFacts) -> bool:
    """Whether anybody is notified of such events."""
    settings = (line.notify if line is not None else None, fleet.notify)
    return any(notify is not None and notify.wants(event) for notify in settings)


def deliveries(happened: Happened, line: LineFacts | None, fleet: FleetFacts) -> list[Delivery]:
    """One for each target of the line and of its fleet that wants it. A target of both gets one."""
    data: dict[str, Any] = {"fleet": fleet.name, "fleet_label": fleet.label}
    if happened.line:
        label = line.label if line is not None else ""
        data |= {"line": happened.line, "label": label}
    data |= happened.data
    owners: list[tuple[str, Notify | None]] = [(fleet_key(fleet.name), fleet.notify)]
    if line is not None and line.fleet == fleet.name:
        owners.insert(0, (line_key(line.number), line.notify))
    made: dict[tuple[str, str], Delivery] = {}
    for owner, notify in owners:
        if notify is None or not notify.wants(happened.event):
            continue
        language = notify.language or (fleet.notify and fleet.notify.language) or "fr"
        for channel, target in targets(notify):
            if (channel, target) not in made:
                made[channel, target] = Delivery(
                    message_id(happened.key, happened.event, target),
                    owner, channel, target, happened.event.value, happened.at, data, language,
                )  # fmt: skip
    return list(made.values())


def targets(notify: Notify) -> list[tuple[Channel, str]]:
    """Where it sends."""
    found: list[tuple[Channel, str]] = []
    if notify.webhook is not None:
        found.append(("webhook", notify.webhook.url))
    return found + [("email", address) for address in notify.email or ()]


def is_still_wanted(delivery: Delivery, raw: bytes | None) -> bool:
    """Whether the owner's document, as it is now, still asks for it."""
    notify = read_notify(raw, of_fleet=is_fleet(delivery.owner))
    if notify is None or (delivery.channel, delivery.target) not in targets(notify):
        return False
    return delivery.event == TEST or notify.wants(Event(delivery.event))


def is_fleet(owner: str) -> bool:
    """Whether the owner of a setting is a fleet, not a line."""
    return owner.startswith(fleet_key(""))


def message_id(*of: str) -> str:
    """An id made of what is sent, so that the same has the same."""
    return "msg_" + hashlib.sha256("\0".join(of).encode("utf-8", "replace")).hexdigest()[:32]


def by_owner(waiting: Mapping[str, Delivery]) -> dict[tuple[str, Channel, str], list[Delivery]]:
    """Deliveries by owner, channel and target."""
    found: dict[tuple[str, Channel, str], list[Delivery]] = {}
    for delivery in waiting.values():
        place = delivery.owner, delivery.channel, delivery.target
        found.setdefault(place, []).append(delivery)
    return found
