"""Forwards by hour and caller and to several targets, combined with loops, caps and limits
(forwarding-rules.md 1 and 2).

Each table is read from top to bottom. A decision is written in short: `ring 20`, `486 busy`,
`busy[1] voicemail` (the second of a list), `busy in_turn mobile/15 -peer:loop` (a list of targets,
each with its time to ring; a skipped one, with the reason).
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from rules.decide import (
    Circumstances,
    Decision,
    ForwardTo,
    Reject,
    Ring,
    Situation,
    decide,
    explain,
    prevented,
)
from rules.fleet import load_fleet
from rules.line_document import load_line
from rules.model import Condition, Line, Offer
from rules.numbers import Numbering

FRANCE = Numbering("FR", timezone="Europe/Paris")
PARIS = ZoneInfo("Europe/Paris")

LINE, PEER, FAX, FOREIGN = (f"+3397210100{n}" for n in (1, 2, 3, 9))
MOBILE, FIXED, ABROAD, PREMIUM = "+33612345678", "+33123456789", "+4930901820", "+33899123456"
OUTSIDE, VIP, PREFIXED, SPAM = "+33198765432", "+33140000001", "+33141155555", "+33170000000"
NAMES = {
    LINE: "self", PEER: "peer", FAX: "fax", FOREIGN: "foreign", MOBILE: "mobile", FIXED: "fixed",
    ABROAD: "abroad", PREMIUM: "premium",
}  # fmt: skip
LINES: dict[str, Line | None] = {
    PEER: Line(PEER, "acme"),
    FAX: Line(FAX, "acme", offer=Offer(fax=True)),
    FOREIGN: Line(FOREIGN, "globex"),
}
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FLEET = load_fleet(
    json.dumps(
        {
            "name": "acme",
            "calendars": {
                "office": {
                    "zone": "Europe/Paris",
                    "weekly": {day: ["09:00-12:30", "14:00-18:00"] for day in DAYS[:5]},
                    "holidays": "FR",
                    "closed": ["2026-12-24", "2026-12-28/2027-01-02"],
                    "open": ["2026-12-26T10:00/2026-12-26T12:00"],
                },
                "never": {},
                "always": {"weekly": {day: ["00:00-24:00"] for day in DAYS}},
            },
            "lists": {"vip": [VIP, "+331411*"], "spam": [SPAM]},
        }
    ),
    "acme",
    FRANCE,
)  # fmt: skip
OWN_CALENDARS = {"calendars": {"office": {"weekly": {"sun": ["00:00-24:00"]}}}}
OWN_LISTS = {"lists": {"vip": [SPAM]}}

TUESDAY = "2026-12-01T10:00"  # in open hours
LUNCH, NIGHT, SUNDAY = "2026-12-01T13:00", "2026-12-01T23:00", "2026-12-06T10:00"
CHRISTMAS, EVE, OPENED = "2026-12-25T10:00", "2026-12-24T10:00", "2026-12-26T11:00"

VOICEMAIL: dict[str, Any] = {"kind": "voicemail"}
REJECT: dict[str, Any] = {"kind": "reject"}


def number(to: str, ring_s: int | None = None) -> dict[str, Any]:
    return {"kind": "number", "number": to} | ({} if ring_s is None else {"ring_s": ring_s})


TO_MOBILE, TO_PEER, TO_FIXED, TO_SELF = map(number, (MOBILE, PEER, FIXED, LINE))


def on(to: Any = VOICEMAIL, **fields: Any) -> dict[str, Any]:
    return {"on": True, "to": to, **fields}


def off(to: Any = VOICEMAIL, **fields: Any) -> dict[str, Any]:
    return {"on": False, "to": to, **fields}


def line(**fields: Any) -> Line:
    """A line of fleet acme; conditions are given by name."""
    forwards = {c.value: fields.pop(c.value) for c in Condition if c.value in fields}
    document = {"number": LINE, "fleet": "acme", "forwards": forwards, **fields}
    return load_line(json.dumps(document), LINE, FRANCE)


def situation(at: str = TUESDAY, *, withheld: bool = False, **fields: Any) -> Situation:
    unix = datetime.fromisoformat(at).replace(tzinfo=PARIS).timestamp()
    found = Circumstances(unix, withheld, FLEET.calendars, FLEET.lists)
    return replace(Situation(visited=(LINE,), circumstances=found), **fields)


def short(decision: Decision) -> str:
    if isinstance(decision, Ring):
        also = "".join(f" +{NAMES[each.number]}" for each in decision.also)
        return "ring" + ("" if decision.after_s is None else f" {decision.after_s}") + also
    if isinstance(decision, Reject):
        return f"{decision.code} {decision.why}"
    place = f"[{decision.rule}]" if decision.rule else ""
    if not decision.targets:
        return f"{decision.condition}{place} {_name(decision.kind, decision.number)}"
    several = " ".join(
        f"-{_name(each.kind, each.number)}:{each.passed_over}"
        if each.passed_over is not None
        else f"{_name(each.kind, each.number)}/{each.ring_s}"
        for each in decision.targets
    )
    return f"{decision.condition}{place} {decision.ring} {several}"


def _name(kind: str, to: str) -> str:
    return kind if kind == "voicemail" and to == LINE else NAMES[to]


def check(called: Line, now: Situation, expected: str) -> None:
    """Check `decide`, `explain` and `prevented`, which must agree."""
    decision = decide(called, now, LINES)
    assert short(decision) == expected
    explanation = explain(called, now, LINES)
    assert explanation.decision == decision
    assert explanation.steps
    assert tuple(reason for _, reason in prevented(called, now, LINES)) == decision.prevented


UNCONDITIONAL = Condition.UNCONDITIONAL
OFFICE, CLOSED = {"when": "office"}, {"when": "not office"}
ENDS = {"until": "2026-12-01T10:00:00+01:00"}

WHEN: list[tuple[dict[str, Any], str, str]] = [
    # A forward in the hours of a fleet's calendar
    ({"unconditional": on(**OFFICE)}, TUESDAY, "unconditional voicemail"),
    ({"unconditional": on(**OFFICE)}, LUNCH, "ring"),
    ({"unconditional": on(**OFFICE)}, NIGHT, "ring"),
    ({"unconditional": on(**OFFICE)}, SUNDAY, "ring"),
    ({"unconditional": on(**OFFICE)}, CHRISTMAS, "ring"),
    ({"unconditional": on(**OFFICE)}, EVE, "ring"),
    ({"unconditional": on(**OFFICE)}, OPENED, "unconditional voicemail"),
    # and outside of them
    ({"unconditional": on(**CLOSED)}, TUESDAY, "ring"),
    ({"unconditional": on(**CLOSED)}, LUNCH, "unconditional voicemail"),
    ({"unconditional": on(**CLOSED)}, CHRISTMAS, "unconditional voicemail"),
    ({"unconditional": on(**CLOSED)}, OPENED, "ring"),
    # The begin is included, the end is not
    ({"unconditional": on(**OFFICE)}, "2026-12-01T08:59:59", "ring"),
    ({"unconditional": on(**OFFICE)}, "2026-12-01T09:00:00", "unconditional voicemail"),
    ({"unconditional": on(**OFFICE)}, "2026-12-01T12:29:59", "unconditional voicemail"),
    ({"unconditional": on(**OFFICE)}, "2026-12-01T12:30:00", "ring"),
    # Unknown calendars never match, not even with `not`
    ({"unconditional": on(when="beach")}, TUESDAY, "ring"),
    ({"unconditional": on(when="not beach")}, TUESDAY, "ring"),
    ({"unconditional": on(when="never")}, TUESDAY, "ring"),
    ({"unconditional": on(when="not never")}, TUESDAY, "unconditional voicemail"),
    ({"unconditional": on(when="always")}, SUNDAY, "unconditional voicemail"),
    # The line's own calendar comes before the fleet's
    ({"unconditional": on(**OFFICE), **OWN_CALENDARS}, TUESDAY, "ring"),
    ({"unconditional": on(**OFFICE), **OWN_CALENDARS}, SUNDAY, "unconditional voicemail"),
    ({"unconditional": on(when="always"), **OWN_CALENDARS}, SUNDAY, "unconditional voicemail"),
    # The first forward of a list that is on and applies
    ({"unconditional": [on(**OFFICE), on(TO_MOBILE)]}, TUESDAY, "unconditional voicemail"),
    ({"unconditional": [on(**OFFICE), on(TO_MOBILE)]}, NIGHT, "unconditional[1] mobile"),
    ({"unconditional": [off(**OFFICE), on(TO_MOBILE)]}, TUESDAY, "unconditional[1] mobile"),
    ({"unconditional": [off(), off(TO_MOBILE)]}, TUESDAY, "ring"),
    ({"unconditional": [on(**CLOSED), on(TO_PEER, **OFFICE)]}, TUESDAY, "unconditional[1] peer"),
    ({"unconditional": [on(when="never"), on(when="never")]}, TUESDAY, "ring"),
    ({"unconditional": [on()]}, TUESDAY, "unconditional voicemail"),
    # Until: off from that second on
    ({"unconditional": on(**ENDS)}, "2026-12-01T09:59:59", "unconditional voicemail"),
    ({"unconditional": on(**ENDS)}, "2026-12-01T10:00:00", "ring"),
    ({"unconditional": on(**ENDS)}, "2027-06-01T10:00:00", "ring"),
    ({"unconditional": on(until="2026-12-01T09:00:01Z")}, TUESDAY, "unconditional voicemail"),
    ({"unconditional": on(until="2026-12-01T09:00:00Z")}, TUESDAY, "ring"),
    ({"unconditional": [on(**ENDS), on(TO_MOBILE)]}, LUNCH, "unconditional[1] mobile"),
    ({"unconditional": on(**ENDS, **OFFICE)}, "2026-12-01T09:59:59", "unconditional voicemail"),
    ({"unconditional": on(**ENDS, **CLOSED)}, "2026-12-01T09:59:59", "ring"),
    # The time to ring is that of the forward that applies now
    ({"no_answer": [on(after_s=15, **OFFICE), on(after_s=40)]}, TUESDAY, "ring 15"),
    ({"no_answer": [on(after_s=15, **OFFICE), on(after_s=40)]}, NIGHT, "ring 40"),
    ({"no_answer": on(after_s=15, **OFFICE)}, NIGHT, "ring"),
    ({"no_answer": [on(after_s=15, **ENDS), on(TO_PEER, after_s=30)]}, LUNCH, "ring 30"),
    ({"no_answer": on(REJECT, after_s=15)}, TUESDAY, "ring 15"),
]


@pytest.mark.parametrize(("fields", "at", "expected"), WHEN)
def test_the_hour(fields: dict[str, Any], at: str, expected: str) -> None:
    check(line(**fields), situation(at), expected)


CALLERS: list[tuple[str, dict[str, bool]]] = [
    # callers, and the callers for which it applies: a line of the fleet, of another fleet, any
    # other number, one in the list vip, one with its prefix, one in the list spam, unknown,
    # withheld
    ("fleet", {"peer": True}),
    ("outside", {"foreign": True, "other": True, "vip": True, "prefix": True, "spam": True,
                 "unknown": True}),
    ("withheld", {"hidden": True, "hidden peer": True, "hidden vip": True}),
    ("list:vip", {"vip": True, "prefix": True}),
    ("not list:vip", {"self": True, "peer": True, "foreign": True, "other": True, "spam": True,
                      "unknown": True, "hidden": True, "hidden peer": True, "hidden vip": True}),
    ("list:spam", {"spam": True}),
    ("list:gone", {}),
    ("not list:gone", {}),
]  # fmt: skip
WHO: dict[str, tuple[str | None, bool]] = {
    "self": (LINE, False), "peer": (PEER, False), "foreign": (FOREIGN, False),
    "other": (OUTSIDE, False), "vip": (VIP, False), "prefix": (PREFIXED, False),
    "spam": (SPAM, False), "unknown": (None, False), "hidden": (None, True),
    "hidden peer": (PEER, True), "hidden vip": (VIP, True),
}  # fmt: skip


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize(("callers", "applies"), CALLERS)
def test_the_caller(callers: str, applies: dict[str, bool], who: str) -> None:
    caller, withheld = WHO[who]
    now = situation(caller=caller, withheld=withheld)
    expected = "unconditional voicemail" if applies.get(who) else "ring"
    if callers == "fleet" and who == "self":
        expected = "unconditional voicemail"  # the line is in its fleet
    called = line(unconditional=on(callers=callers))
    known = LINES | {caller: LINES.get(caller)} if caller else LINES
    assert short(decide(called, now, known)) == expected
    check(called, now, expected)


MORE_CALLERS: list[tuple[dict[str, Any], str | None, str]] = [
    ({"unconditional": on(callers="list:vip"), **OWN_LISTS}, VIP, "ring"),
    ({"unconditional": on(callers="list:vip"), **OWN_LISTS}, SPAM, "unconditional voicemail"),
    ({"unconditional": on(callers="list:spam"), **OWN_LISTS}, SPAM, "unconditional voicemail"),
    ({"unconditional": [on(REJECT, callers="list:spam"), on()]}, SPAM, "603 blocked"),
    ({"unconditional": [on(REJECT, callers="list:spam"), on()]}, VIP, "unconditional[1] voicemail"),
    ({"unconditional": on(callers="list:vip", when="not office")}, VIP, "ring"),
    ({"unconditional": on(callers="list:vip", **OFFICE)}, VIP, "unconditional voicemail"),
    ({"unconditional": on(callers="list:vip", **OFFICE)}, OUTSIDE, "ring"),
    ({"unconditional": on(callers="list:vip", **ENDS)}, VIP, "ring"),
    ({"unconditional": on(TO_MOBILE, callers="outside")}, MOBILE, "ring"),
    ({"unconditional": on(TO_PEER, callers="fleet")}, PEER, "ring"),
    ({"unconditional": [on(TO_PEER, callers="fleet"), on()]}, PEER, "unconditional[1] voicemail"),
    ({"no_answer": [on(TO_MOBILE, after_s=10, callers="list:vip"), on(after_s=30)]}, VIP,
     "ring 10"),
    ({"no_answer": [on(TO_MOBILE, after_s=10, callers="list:vip"), on(after_s=30)]}, SPAM,
     "ring 30"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "caller", "expected"), MORE_CALLERS)
def test_the_caller_and_more(fields: dict[str, Any], caller: str | None, expected: str) -> None:
    check(line(**fields), situation(caller=caller), expected)


AWAY: dict[str, Any] = {"registered": False}
BUSY: dict[str, Any] = {"calls_in_progress": 2}
TURN = [number(MOBILE, 15), number(PEER), VOICEMAIL]

TARGETS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"unconditional": on(TURN)}, {}, "unconditional in_turn mobile/15 peer/20 voicemail/20"),
    ({"unconditional": on(TURN, ring="together")}, {},
     "unconditional together mobile/15 peer/20 voicemail/20"),
    ({"unconditional": on([TO_MOBILE])}, {}, "unconditional in_turn mobile/20"),
    ({"unconditional": on(number(MOBILE, 60))}, {}, "unconditional in_turn mobile/60"),
    ({"unconditional": [off(), on(TURN)]}, {},
     "unconditional[1] in_turn mobile/15 peer/20 voicemail/20"),
    ({"unreachable": on(TURN)}, AWAY, "unreachable in_turn mobile/15 peer/20 voicemail/20"),
    ({"busy": on(TURN), "max_calls": 2}, BUSY, "busy in_turn mobile/15 peer/20 voicemail/20"),
    ({"no_answer": on(TURN, after_s=20)}, {}, "ring 20"),
    ({"no_answer": on(TURN, after_s=20)}, {"trigger": Condition.NO_ANSWER},
     "no_answer in_turn mobile/15 peer/20 voicemail/20"),
    ({"busy": on(TURN)}, {"trigger": Condition.BUSY},
     "busy in_turn mobile/15 peer/20 voicemail/20"),
    # Each is checked separately
    ({"unconditional": on([TO_SELF, TO_MOBILE])}, {},
     "unconditional in_turn -self:self mobile/20"),
    ({"unconditional": on([number(PREMIUM), TO_MOBILE])}, {},
     "unconditional in_turn -premium:premium mobile/20"),
    ({"unconditional": on([TO_PEER, TO_MOBILE])}, {"visited": (PEER, LINE)},
     "unconditional in_turn -peer:loop mobile/20"),
    ({"unconditional": on([TO_PEER, TO_MOBILE])}, {"forwarded": (PEER,)},
     "unconditional in_turn -peer:loop mobile/20"),
    ({"unconditional": on([TO_PEER, TO_MOBILE])}, {"caller": MOBILE},
     "unconditional in_turn peer/20 -mobile:caller_is_target"),
    ({"unconditional": on([TO_PEER, TO_MOBILE])}, {"caller": PEER},
     "unconditional in_turn -peer:caller_is_target mobile/20"),
    ({"unconditional": on([TO_MOBILE, TO_FIXED])}, {"cap_left_s": 0.0},
     "unconditional in_turn -mobile:fleet_cap fixed/20"),
    ({"unconditional": on([number(ABROAD), TO_FIXED])}, {"cap_left_s": -1.0},
     "unconditional in_turn -abroad:fleet_cap fixed/20"),
    ({"unconditional": on([number(ABROAD), TO_FIXED])}, {"fleet_countries": frozenset({"FR"})},
     "unconditional in_turn -abroad:fleet_countries fixed/20"),
    ({"unconditional": on([{"kind": "fax", "number": PEER}, {"kind": "fax", "number": FAX}])}, {},
     "unconditional in_turn -peer:no_fax fax/20"),
    ({"unconditional": on([{"kind": "voicemail", "number": FOREIGN}, VOICEMAIL])}, {},
     "unconditional in_turn -foreign:other_fleet voicemail/20"),
    ({"unconditional": on([number(FOREIGN), VOICEMAIL])}, {},
     "unconditional in_turn foreign/20 voicemail/20"),
    ({"unconditional": on([TO_SELF, TO_PEER, TO_MOBILE], ring="together")},
     {"visited": (PEER, LINE)}, "unconditional together -self:self -peer:loop mobile/20"),
    # If none may be dialled the forward counts as off: the next that applies, else none
    ({"unconditional": on([TO_SELF, TO_PEER])}, {"visited": (PEER, LINE)}, "ring"),
    ({"unconditional": [on([TO_SELF, TO_PEER]), on()]}, {"visited": (PEER, LINE)},
     "unconditional[1] voicemail"),
    ({"unreachable": on([TO_SELF])}, AWAY, "480 unreachable"),
    ({"busy": on([TO_SELF]), "max_calls": 2}, BUSY, "486 busy"),
    ({"unconditional": [on(TO_SELF), on(TO_MOBILE)]}, {}, "unconditional[1] mobile"),
    ({"unconditional": [on(TO_MOBILE), on(TO_FIXED)]}, {"cap_left_s": 0.0},
     "unconditional[1] fixed"),
    ({"unconditional": [on(TO_MOBILE), on()]}, {"caller": MOBILE}, "unconditional[1] voicemail"),
    ({"no_answer": [on([TO_SELF], after_s=10), on(after_s=30)]}, {}, "ring 30"),
    ({"no_answer": on([TO_SELF], after_s=10)}, {}, "ring"),
    ({"no_answer": on([TO_SELF], after_s=10)}, {"trigger": Condition.NO_ANSWER}, "480 no_answer"),
    # Limits on forwards apply to all of them, including the line's own voicemail
    ({"unconditional": on(TURN)}, {"forwards_per_line": 3, "forwards_in_progress": 3}, "ring"),
    ({"unconditional": on(TURN)}, {"forwards_per_line": 3, "forwards_in_progress": 2},
     "unconditional in_turn mobile/15 peer/20 voicemail/20"),
    ({"unconditional": [on(TURN), on()]},
     {"forwards_per_line_per_hour": 9, "forwards_last_hour": 9}, "ring"),
    ({"unconditional": on(TURN)}, {"diversions": 5}, "480 max_diversions"),
    ({"unconditional": [on(when="never"), on(TURN)]}, {"diversions": 5}, "480 max_diversions"),
    ({"busy": on(TURN), "max_calls": 2}, {**BUSY, "diversions": 5}, "486 max_diversions"),
    ({"unconditional": on([TO_SELF])}, {"diversions": 5}, "ring"),
    ({"unconditional": on(TURN), "suspended": True}, {}, "403 suspended"),
    ({"unconditional": on(TURN)}, {"fleet_suspended": True}, "403 fleet_suspended"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "now", "expected"), TARGETS)
def test_several_targets(fields: dict[str, Any], now: dict[str, Any], expected: str) -> None:
    check(line(**fields), situation(**now), expected)


DND: dict[str, Any] = {"do_not_disturb": True}
BESIDE: dict[str, Any] = {"also_ring": [TO_MOBILE]}

REST: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # Do not disturb: after unconditional, before everything else
    (DND, {}, "486 do_not_disturb"),
    ({**DND, "busy": on()}, {}, "busy voicemail"),
    ({**DND, "busy": on(TO_SELF)}, {}, "486 do_not_disturb"),
    ({**DND, "busy": on(TO_MOBILE), "unconditional": on()}, {}, "unconditional voicemail"),
    ({**DND, "busy": on(), "unconditional": on(when="not office")}, {}, "busy voicemail"),
    ({**DND, "unreachable": on()}, AWAY, "486 do_not_disturb"),
    ({**DND, "busy": [on(callers="list:vip"), on(TO_PEER)]}, {}, "busy[1] peer"),
    ({**DND, "busy": on(TO_PEER)}, {"caller": PEER}, "486 do_not_disturb"),
    ({**DND, **BESIDE}, {}, "486 do_not_disturb"),
    ({**DND, "max_calls": 2, "busy": on()}, BUSY, "busy voicemail"),
    ({**DND, "no_answer": on()}, {"trigger": Condition.NO_ANSWER}, "no_answer voicemail"),
    ({**DND, "busy": on()}, {"diversions": 5}, "486 max_diversions"),
    ({**DND, "suspended": True}, {}, "403 suspended"),
    ({**DND, "busy": on(REJECT)}, {}, "603 blocked"),
    # A rejection is not a forward: no limit applies
    ({"unconditional": on(REJECT)}, {}, "603 blocked"),
    ({"unconditional": on(REJECT)}, {"diversions": 5}, "603 blocked"),
    ({"unconditional": on(REJECT)}, {"forwards_per_line": 1, "forwards_in_progress": 1},
     "603 blocked"),
    ({"unconditional": on(REJECT)}, {"cap_left_s": 0.0, "caller": MOBILE}, "603 blocked"),
    ({"unconditional": on(REJECT, when="not office")}, {}, "ring"),
    ({"busy": on(REJECT), "max_calls": 2}, BUSY, "603 blocked"),
    ({"unreachable": on(REJECT)}, AWAY, "603 blocked"),
    ({"no_answer": on(REJECT)}, {"trigger": Condition.NO_ANSWER}, "603 blocked"),
    ({"unconditional": off(REJECT)}, {}, "ring"),
    ({"unconditional": [on(TO_SELF), on(REJECT)]}, {}, "603 blocked"),
    # What rings beside the line
    (BESIDE, {}, "ring +mobile"),
    (BESIDE, AWAY, "ring +mobile"),
    ({**BESIDE, "no_answer": on(after_s=20)}, AWAY, "ring 20 +mobile"),
    ({**BESIDE, "unreachable": on()}, AWAY, "ring +mobile"),
    ({**BESIDE, "unconditional": on()}, {}, "unconditional voicemail"),
    ({**BESIDE, "max_calls": 2}, BUSY, "486 busy"),
    (BESIDE, {"caller": MOBILE}, "ring"),
    (BESIDE, {"caller": MOBILE, **AWAY}, "480 unreachable"),
    ({**BESIDE, "unreachable": on()}, {"caller": MOBILE, **AWAY}, "unreachable voicemail"),
    (BESIDE, {"cap_left_s": 0.0}, "ring"),
    ({"also_ring": [TO_MOBILE, TO_FIXED]}, {"cap_left_s": 0.0}, "ring +fixed"),
    ({"also_ring": [TO_MOBILE, TO_PEER]}, {"visited": (PEER, LINE)}, "ring +mobile"),
    ({"also_ring": [TO_PEER, TO_MOBILE]}, {}, "ring +peer +mobile"),
    ({"also_ring": [TO_SELF]}, AWAY, "480 unreachable"),
    (BESIDE, {"forwards_per_line": 1, "forwards_in_progress": 1}, "ring"),
    (BESIDE, {"diversions": 5}, "ring"),
    (BESIDE, {"forwarded": (LINE,)}, "ring"),
    (BESIDE, {"fleet_countries": frozenset({"DE"})}, "ring"),
    ({**BESIDE, "no_answer": on()}, {"trigger": Condition.NO_ANSWER}, "no_answer voicemail"),
    ({**BESIDE, "busy": on()}, {"trigger": Condition.BUSY}, "busy voicemail"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "now", "expected"), REST)
def test_the_order(fields: dict[str, Any], now: dict[str, Any], expected: str) -> None:
    check(line(**fields), situation(**now), expected)


def test_there_are_enough_cases() -> None:
    cases = len(WHEN) + len(WHO) * len(CALLERS) + len(MORE_CALLERS) + len(TARGETS) + len(REST)
    assert cases >= 150


def test_without_circumstances_only_what_always_applies_is_taken() -> None:
    called = line(unconditional=[on(**OFFICE), on(callers="outside"), on(**ENDS), on(TO_MOBILE)])
    now = replace(situation(), circumstances=None)
    check(called, now, "unconditional[3] mobile")


def test_each_target_is_billed_by_itself_and_the_first_that_is_dialled_is_named() -> None:
    called = line(unconditional=on([TO_SELF, TO_FIXED, TO_MOBILE, TO_PEER]))
    decision = decide(called, situation(), LINES)
    assert isinstance(decision, ForwardTo)
    assert (decision.kind, decision.number, decision.billing) == ("number", FIXED, "standard")
    assert [each.billing for each in decision.targets[1:]] == ["standard", "out_of_plan", "free"]


def test_a_forward_that_is_not_allowed_is_prevented_once_for_each_reason() -> None:
    called = line(unconditional=[on([TO_SELF, TO_SELF, TO_PEER]), on(**CLOSED), on()])
    now = situation(visited=(PEER, LINE))
    decision = decide(called, now, LINES)
    assert decision.prevented == ("self", "loop")
    assert prevented(called, now, LINES) == [("unconditional", "self"), ("unconditional", "loop")]


def test_explain_names_the_place_in_the_list_and_why_it_is_not_taken() -> None:
    called = line(
        unconditional=[
            off(),
            on(**CLOSED),
            on(TO_PEER, callers="withheld"),
            on(when="beach"),
            on(callers="list:beach"),
            on(**ENDS),
            on([TO_SELF, TO_MOBILE, TO_FIXED]),
        ]
    )
    assert explain(called, situation(caller=OUTSIDE), LINES).steps == (
        "unconditional[0]: off",
        "unconditional[1]: does not apply now, calendar office is open",
        "unconditional[2]: does not apply to this caller (withheld)",
        "unconditional[3]: does not apply, there is no calendar beach",
        "unconditional[4]: does not apply, there is no list beach",
        "unconditional[5]: off, it ended at 2026-12-01T09:00:00+00:00",
        f"unconditional[6]: number {LINE}: not allowed, the target is the line itself",
        f"unconditional[6]: on, to number {MOBILE}, billing out_of_plan",
        f"unconditional[6]: on, to number {FIXED}, billing standard",
        f"forward in turn to number {MOBILE} billing out_of_plan for 20 s, "
        f"number {FIXED} billing standard for 20 s (unconditional)",
    )
