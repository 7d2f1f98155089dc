"""Call management of one line, and descriptions of forwards."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from manager import audit, records, state
from manager.line_now import present
from manager.rule_words import forwards_of, rule_in_words, target_in_words
from manager.targets_and_usage import around
from manager.undo import SWITCHES, has_rules
from manager.web import Visit
from manager.week import week_of
from rules.model import Condition, Destination, Kind, Line

_CALLS_SHOWN = 10
_CHANGES_SHOWN = 10


async def line(visit: Visit) -> Response:
    """Call management of one line: its state, its forwards, the next call, its history."""
    site = visit.site
    stored = await site.lines.read(visit.who, visit.number)
    own = stored.line
    current = await present(site, own)
    used = current.line
    now, known, calls, (changes, older), way, targets = await asyncio.gather(
        state.of_line(site.redis, own),
        around(site, used),
        site.calls.forwarded(own, _CALLS_SHOWN),
        audit.search(site.redis, own.fleet, own.number, _CHANGES_SHOWN),
        site.explain(stored, withheld=False),
        site.lines.fleet_lines(own.fleet, own.target_numbers()),
    )
    week = week_of(visit, own, current.fleet, targets, time.time())
    later = None
    if week is not None and week.next_at is not None:
        then = await site.explain(stored, at=week.next_at, withheld=False)
        later = (week.next_at, visit.teller.sentence(own, then))
    return visit.page(
        "line.html",
        line=used,
        own=own,
        profile=current.profile,
        typed_profile=visit.fields.get("profile"),  # from the check of its form
        typed_until=visit.fields.get("until", "")[:80],
        week=week,
        later=later,
        state=now,
        month=known.months[own.number],
        purse=known.purse,
        calls=calls,
        changes=[
            (change, who_did(visit, change), change_rows(visit, own, change), restores(change))
            for change in changes
        ],
        older_changes=older is not None,
        forwards=summary(visit, used),
        rules={c: rule_list(visit, used, c) for c in used.rules},
        outlook=visit.teller.outlook(used, known, way),
        called=lambda call: target_in_words(visit, own, destination_of(call)),
    )


def restores(change: audit.Change) -> str:
    """Where the forwards before a change are restored: the form of the four, or by itself."""
    sides = [*(change.before.get("forwards") or {}).values()]
    sides += (change.after.get("forwards") or {}).values()
    rules = any(map(has_rules, sides))
    return f"restore?change={change.id}" if rules else f"forwards?restore={change.id}"


def destination_of(met: records.Met) -> Destination:
    """Where a call of the past was forwarded."""
    forward = met.forward
    assert forward is not None
    kind = Kind.NUMBER if forward.kind == "line" else Kind(forward.kind)
    return Destination(kind, forward.number)


def summary(visit: Visit, own: Line) -> dict[Condition, str]:
    """A description of each of the four forwards; "" if it is off, or has ended."""
    words, now = {}, time.time()
    for condition in Condition:
        on = [each for each in own.all_of(condition) if each.is_on_at(now)]
        first = on[0] if on else None
        words[condition] = ""
        if first is not None and first.rejects:
            words[condition] = visit.say("by_api_blocked")
        elif first is not None and first.to is not None:
            words[condition] = target_in_words(visit, own, first.to)
        if words[condition] and condition in own.rules:
            if len(on) > 1:
                words[condition] = visit.say("by_api_first", where=words[condition])
            elif first is not None:
                words[condition] = rule_in_words(visit, own, condition, first)
    return words


def who_did(visit: Visit, change: audit.Change) -> str:
    """Who changed something. Customers do not see the user names on our machines."""
    if change.how == "cli" and not visit.who.operator:
        return visit.say("by_operator")
    return change.who


def change_rows(visit: Visit, own: Line, change: audit.Change) -> list[tuple[str, str, str]]:
    """(what, before, after) of a change, as text."""
    rows = []
    for condition in Condition:
        before = (change.before.get("forwards") or {}).get(condition.value)
        after = (change.after.get("forwards") or {}).get(condition.value)
        was = forward_in_words(visit, own, condition, before)
        now = forward_in_words(visit, own, condition, after)
        if was != now:
            rows.append((visit.say(condition.value), was, now))
    changed = change.before.keys() | change.after.keys()
    for name in SWITCHES:
        if name in changed:
            was = switch_in_words(visit, name, change.before.get(name))
            now = switch_in_words(visit, name, change.after.get(name))
            rows.append((visit.say(name), was, now))
    if changed - {"forwards", *SWITCHES}:
        rows.append((visit.say("other_fields"), "", ""))
    return rows


def switch_in_words(visit: Visit, name: str, value: Any) -> str:
    """The state of do not disturb, or of the field `profile`, as text."""
    if name == "do_not_disturb":
        return visit.say("switched_on" if value is True else "switched_off")
    if isinstance(value, str):
        return value
    names = [each.get("use") for each in value or () if isinstance(each, dict)]
    return ", ".join(str(each) for each in names) or visit.say("profile_none")


def rules_in_words(visit: Visit, own: Line, condition: Condition) -> str:
    """The forwards of a condition that are on, in their order, as one text."""
    on = [forward for forward in own.all_of(condition) if forward.on]
    texts = [rule_in_words(visit, own, condition, forward) for forward in on]
    if len(texts) < 2:
        return texts[0] if texts else visit.say("off")
    return "; ".join(f"{place}. {text}" for place, text in enumerate(texts, 1))


def rule_list(visit: Visit, own: Line, condition: Condition) -> list[tuple[str, bool]]:
    """Each forward of a condition as text, and whether it is on and has not ended."""
    now = time.time()
    return [
        (rule_in_words(visit, own, condition, each), each.is_on_at(now))
        for each in own.all_of(condition)
    ]


def forward_in_words(visit: Visit, own: Line, condition: Condition, forward: object) -> str:
    """What a document states for a condition, as text."""
    if has_rules(forward):
        found = forwards_of(visit, own, condition, forward)
        if not found:
            return "?"
        # A line with only these: its words are those of the line that has them.
        return rules_in_words(visit, replace(own, forwards={}, rules={condition: found}), condition)
    if not isinstance(forward, dict) or not forward.get("on"):
        return visit.say("off")
    to = forward.get("to")
    try:
        assert isinstance(to, dict)
        kind = Kind(to["kind"])
    except (KeyError, ValueError, AssertionError):
        return "?"
    where = target_in_words(visit, own, Destination(kind, str(to.get("number") or own.number)))
    after_s = forward.get("after_s")
    return where if after_s is None else f"{where}, {after_s} s"
