"""What happened, made from records, the logs of changes and usage: pure.

Whom it is sent to is decided in `notify.deliveries`. `data` is what a webhook gets
(docs/notifications.md): nothing in it is more than the records and logs show to the fleet, so a
withheld caller is in none of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.records.record import CallRecord
from rules.notify import Event
from store.audit import Change

MISSED = ("busy", "no_answer", "unreachable", "cancelled", "failed")
"""The outcomes of calls that nobody answered. `rejected` is none of them: the line or its fleet is
suspended, or blocks the caller."""
FORWARDING = ("forwards", "also_ring", "do_not_disturb", "profile", "profiles")
"""The fields of a line that decide where its calls go."""
STEPS = (100, 80)
"""Percent of a plan or a cap that are notified, the highest first."""

_LONGEST = 80  # characters of a text that a caller or another program chose


@dataclass(frozen=True, slots=True)
class Happened:
    """Something happened.

    Attributes:
        key: unique, and the same whenever the same is read again.
        at: unix seconds.
        line: the line that it concerns; "" if it concerns the whole fleet.
        once: what is notified once however often it is found; "" = each is.
    """

    event: Event
    key: str
    at: float
    fleet: str
    line: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    once: str = ""


def is_missed(record: CallRecord) -> bool:
    """Whether nobody but a voicemail answered. A line that calls its own voicemail missed
    nothing."""
    if record.outcome == "answered":
        own = record.caller == record.called
        return record.destination == "voicemail" and not own
    return record.outcome in MISSED


def missed(record: CallRecord, fleet: str, key: str) -> Happened:
    """A call that the called line missed."""
    withheld = bool(record.caller_withheld) or not record.caller
    rang_s = None if record.rang is None else max(0, round(_until(record) - record.rang))
    data = {
        "call": record.id,
        "caller": None if withheld else plain(record.caller),
        "withheld": withheld,
        "outcome": record.outcome,
        "voicemail": record.outcome == "answered",
        "condition": record.condition,
        "received": record.received,
        "ended": record.ended,
        "rang_s": rang_s,
    }
    return Happened(Event.MISSED_CALL, key, record.ended, fleet, record.called, data)


def _until(record: CallRecord) -> float:
    return record.ended if record.answered is None else record.answered


def changed(change: Change, fleet: str, key: str) -> Happened | None:
    """A change of where a line's calls go; None if the change is of something else."""
    before, after = change.before, change.after
    # What is left out means the same as what is off: null, false, and nothing in it.
    fields = [n for n in FORWARDING if (before.get(n) or None) != (after.get(n) or None)]
    if not change.line or not fields or change.what == "seen":
        return None
    data = {
        # Customers do not see the user names on our machines.
        "who": "operator" if change.how == "cli" else plain(change.who),
        "how": change.how,
        "what": change.what,
        "from": {name: before[name] for name in fields if name in before},
        "to": {name: after[name] for name in fields if name in after},
    }
    return Happened(Event.FORWARD_CHANGED, key, change.at, fleet, change.line, data)


def used(
    event: Event, fleet: str, line: str, month: str, used_s: int, of_s: int, at: float
) -> Happened | None:
    """The highest step of a plan or a cap that is reached in a month; None below all of them. Each
    step of a cap of so many seconds is notified once a month."""
    percent = next((step for step in STEPS if used_s * 100 >= of_s * step), None)
    if percent is None:
        return None
    data = {"month": month, "percent": percent, "used_s": used_s, "of_s": of_s}
    once = f"{event}:{line or fleet}:{month}:{of_s}:{percent}"
    return Happened(event, once, at, fleet, line, data, once)


def plain(text: str) -> str:
    """Text that others chose, in one line of limited length, without control characters."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:_LONGEST]


def forwards_of(documents: Sequence[Any] | Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The forwards of one condition of a document, which is one forward or a list of them."""
    several = documents if isinstance(documents, list) else [documents]
    return [forward for forward in several if isinstance(forward, Mapping)]
