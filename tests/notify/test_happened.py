"""Events from records and changes, forwards that are prevented, and the targets of each event."""

from __future__ import annotations

import json
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from engine.records.record import CallRecord, read_entry
from notify.deliveries import (
    Delivery,
    FleetFacts,
    decode_delivery,
    deliveries,
    encode_delivery,
    fleet_facts,
    is_still_wanted,
    line_facts,
    wanted,
)
from notify.documents import Documents
from notify.occurrences import FORWARDING, changed, is_missed, missed, used
from notify.prevented_forwards import Prevented, carried_out
from notify.reading import interesting
from notify.usage import Usage
from rules.decide import PREVENTED
from rules.notify import Event
from store.audit import Change

LINE, HIDDEN = "+33972101001", "+33611223344"


def record(**fields: Any) -> CallRecord:
    return read_entry(read_fields(**fields))


def read_fields(**fields: Any) -> dict[bytes, bytes]:
    """A record as it is in the stream."""
    base = {
        "id": "1", "call_id": "c", "caller": "+33140000000", "called": LINE, "received": "100",
        "rang": "101", "answered": "", "ended": "112.4", "condition": "none",
        "destination": "line", "target": LINE, "outcome": "no_answer", "code": "480", "q850": "",
        "why": "", "seconds": "0", "payer": "", "billing": "", "forwards": "[]", "legs": "[]",
    }  # fmt: skip
    return {name.encode(): value.encode() for name, value in {**base, **fields}.items()}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        *(({"outcome": o}, True) for o in ("busy", "no_answer", "unreachable", "cancelled")),
        ({"outcome": "failed", "code": "503"}, True),
        ({"outcome": "rejected", "code": "403"}, False),
        ({"outcome": "answered", "destination": "line"}, False),
        ({"outcome": "answered", "destination": "number"}, False),
        ({"outcome": "answered", "destination": "fax"}, False),
        ({"outcome": "answered", "destination": "voicemail"}, True),
        ({"outcome": "answered", "destination": "voicemail", "caller": LINE}, False),
    ],
)
def test_which_calls_are_missed(fields: dict[str, Any], expected: bool) -> None:
    assert is_missed(record(**fields)) is expected


def test_a_missed_call() -> None:
    what = missed(record(), "acme", "cdr 1-0")
    assert (what.event, what.line, what.fleet, what.at) == (
        Event.MISSED_CALL, LINE, "acme", 112.4,
    )  # fmt: skip
    assert (what.data["caller"], what.data["withheld"], what.data["rang_s"]) == (
        "+33140000000", False, 11,
    )  # fmt: skip
    assert missed(record(rang=""), "acme", "").data["rang_s"] is None
    hidden = missed(record(caller="", caller_withheld=HIDDEN), "acme", "cdr 1-0")
    assert (hidden.data["caller"], hidden.data["withheld"]) == (None, True)
    assert HIDDEN not in repr(hidden)
    odd = missed(record(caller="a\r\nBcc: x\x1b" + "y" * 500), "acme", "").data["caller"]
    assert odd.startswith("a Bcc: x y")
    assert len(odd) == 80


def change(before: dict[str, Any], after: dict[str, Any], **fields: Any) -> Change:
    base = {"id": "1-0", "at": 5.0, "who": "marie", "how": "page", "line": LINE, "what": "line"}
    return Change(**{**base, **fields}, before=before, after=after)


@pytest.mark.parametrize("name", FORWARDING)
def test_changes_of_where_calls_go(name: str) -> None:
    what = changed(change({name: 1, "label": "a"}, {name: 2, "label": "b"}), "acme", "k")
    assert what is not None
    assert (what.data["from"], what.data["to"]) == ({name: 1}, {name: 2})
    created = changed(change({}, {name: 2, "fleet": "acme"}, what="created"), "acme", "k")
    assert created is not None
    assert (created.data["from"], created.data["to"]) == ({}, {name: 2})


def test_the_user_names_on_our_machines_are_nobodys() -> None:
    """As on the page and in the API."""
    did = {"forwards": {"busy": {"on": True}}}
    what = changed(change({}, did, who="root", how="cli"), "acme", "k")
    assert what is not None
    assert (what.data["who"], what.data["how"]) == ("operator", "cli")


def test_other_changes_are_none_of_it() -> None:
    assert changed(change({"label": "a"}, {"label": "b"}), "acme", "k") is None
    fleet = change({"cap_seconds": 1}, {"cap_seconds": 2}, line="", what="fleet")
    assert changed(fleet, "acme", "k") is None
    assert changed(change({}, {"forwards": {}}, what="seen"), "acme", "k") is None


@pytest.mark.parametrize(
    "written",
    [{"do_not_disturb": False}, {"profile": None}, {"forwards": {}}, {"also_ring": None}],
)
def test_what_is_off_is_no_change_of_what_was_left_out(written: dict[str, Any]) -> None:
    made = change({}, {"fleet": "acme", **written}, what="created")
    assert changed(made, "acme", "k") is None
    assert changed(change({}, written), "acme", "k") is None
    assert changed(change(written, {}), "acme", "k") is None


@pytest.mark.parametrize(
    ("seconds", "percent"), [(0, None), (799, None), (800, 80), (999, 80), (1000, 100), (5000, 100)]
)
def test_steps_of_a_plan(seconds: int, percent: int | None) -> None:
    what = used(Event.PLAN_USED, "acme", LINE, "2026-11", seconds, 1000, 9.0)
    assert (None if what is None else what.data["percent"]) == percent
    if what is not None:
        assert what.once == f"plan_used:{LINE}:2026-11:1000:{percent}"


async def test_usage_that_another_program_wrote_ends_nothing() -> None:
    class Written:
        async def ask(self, _commands: Any) -> list[Any]:
            return [[b"inf", b"x", None]]

    usage = Usage(cast(Documents, Written()), ZoneInfo("Europe/Paris"))
    ((what, _, _),) = await usage.of_cap(FleetFacts("acme", cap_s=100), 1796040000.0)
    assert what.data["percent"] == 100


# Prevented


def test_a_forward_is_reported_once_until_it_works() -> None:
    watched = Prevented({})
    watched.prevented(LINE, "busy", "not_ours", 100.0)
    assert list(watched.due(3699.0, 3600)) == []
    watched.prevented(LINE, "busy", "no_fax", 2000.0)
    ((line, condition, facts),) = watched.due(3700.0, 3600)
    assert (line, condition, facts.reason, facts.calls) == (LINE, "busy", "no_fax", 2)
    watched.notified(LINE, "busy")
    assert list(watched.due(9000.0, 3600)) == []
    # Another process reads the stored state.
    again = Prevented({name: text.encode() for name, text in watched.take().items()})
    assert list(again.due(9000.0, 3600)) == []
    again.carried_out(LINE, "busy")
    assert again.take() == {f"{LINE} busy": ""}
    again.prevented(LINE, "busy", "no_fax", 10_000.0)
    assert len(list(again.due(13_600.0, 3600))) == 1


def leg(role: str, number: str, condition: str = "none") -> dict[str, Any]:
    return {"role": role, "number": number, "uri": "sip:x", "code": 200, "q850": None,
            "started": 100.1, "rang": None, "answered": None, "ended": 112.0,
            "condition": condition}  # fmt: skip


def paid(line: str, condition: str, kind: str, number: str) -> dict[str, Any]:
    return {"line": line, "condition": condition, "kind": kind, "number": number,
            "billing": "free", "seconds": 0, "at": 100.2004}  # fmt: skip


PEER, MOBILE = "+33972101002", "+33612345678"
TO_PEER = paid(LINE, "unconditional", "line", PEER)


@pytest.mark.parametrize(
    ("fields", "forwards", "legs", "expected"),
    [
        ({}, [], [leg("line", LINE)], set()),
        ({"condition": "busy", "forwarded": "100.200"}, [paid(LINE, "busy", "number", MOBILE)], [],
         {(LINE, "busy")}),
        # A list of which nobody has answered
        ({"condition": "busy", "forwarded": "100.200"}, [], [leg("number", MOBILE, "busy")],
         {(LINE, "busy")}),
        ({"condition": "no_answer", "forwarded": "108.000"}, [TO_PEER],
         [leg("number", MOBILE, "no_answer")],
         {(LINE, "unconditional"), (PEER, "no_answer")}),
        ({"condition": "unconditional", "forwarded": "100.200"}, [TO_PEER],
         [leg("line", PEER, "unconditional")], {(LINE, "unconditional")}),
        # Beside the phones: one that answered, and one that rang
        ({}, [paid(LINE, "none", "number", MOBILE)], [], {(LINE, "also_ring")}),
        ({}, [], [leg("line", LINE), leg("number", MOBILE)], {(LINE, "also_ring")}),
        ({}, [], [leg("line", PEER)], {(LINE, "also_ring")}),
    ],
)  # fmt: skip
def test_which_forwards_a_call_has_taken(
    fields: dict[str, Any], forwards: list[Any], legs: list[Any], expected: set[Any]
) -> None:
    nested = {"forwards": json.dumps(forwards), "legs": json.dumps(legs)}
    assert carried_out(record(**fields, **nested)) == expected


@pytest.mark.parametrize(("reason", "mended"), [("premium", False), ("caller_is_target", True)])
def test_one_that_rings_beside_does_not_mend_another(reason: str, mended: bool) -> None:
    rang = json.dumps([leg("line", LINE), leg("number", MOBILE)])
    passed_over = json.dumps([{"line": LINE, "condition": "also_ring", "reason": reason}])
    taken = carried_out(record(legs=rang, prevented=passed_over))
    assert taken == ({(LINE, "also_ring")} if mended else set())


def test_a_call_that_a_phone_answered_is_read_for_a_watched_line() -> None:
    """What rings beside the phone may work again, though nobody pays for it."""
    fields = read_fields(outcome="answered", answered="105")
    assert interesting(fields, set()) is None
    assert interesting(fields, {PEER.encode()}) is None
    found = interesting(fields, {LINE.encode()})
    assert found is not None
    assert found.called == LINE


def test_what_resets_it() -> None:
    watched = Prevented({"x": b"{"})
    assert watched.take() == {"x": ""}
    watched.prevented(LINE, "busy", "loop", 0.0)
    watched.prevented(LINE, "unreachable", "loop", 0.0)
    watched.prevented("+33972101002", "busy", "loop", 0.0)
    watched.carried_out(LINE, "no_answer")  # another forward of the line
    assert len(watched) == 3
    watched.changed_line(LINE)
    assert watched.lines() == {"+33972101002"}
    watched.notified("+33972101002", "busy")
    assert list(watched.due(86_400.0, 3600)) == []
    assert len(watched) == 0  # not due for a day


def test_a_caller_who_is_the_target_is_by_design() -> None:
    assert "caller_is_target" in PREVENTED
    watched = Prevented({})
    watched.prevented(LINE, "busy", "caller_is_target", 0.0)
    assert len(watched) == 0


# Targets

HOOK, MAIL = {"webhook": {"url": "https://a.example/x"}}, {"email": ["m@a.example"]}


def line(notify: Any = None, **fields: Any) -> bytes:
    return json.dumps({"number": LINE, "fleet": "acme", "notify": notify, **fields}).encode()


def fleet(notify: Any = None, **fields: Any) -> bytes:
    return json.dumps({"name": "acme", "notify": notify, **fields}).encode()


def sent(of_line: Any, of_fleet: Any) -> list[Delivery]:
    what = missed(record(), "acme", "cdr 1-0")
    return deliveries(what, line_facts(LINE, line(of_line)), fleet_facts("acme", fleet(of_fleet)))


def test_targets_of_line_and_fleet() -> None:
    assert sent(None, None) == []
    owners = [(each.owner, each.channel) for each in sent(HOOK, MAIL)]
    assert owners == [(f"line:{LINE}", "webhook"), ("fleet:acme", "email")]
    assert len(sent(HOOK | MAIL, MAIL)) == 2  # an address that is in both gets one
    assert sent(HOOK | {"events": ["plan_used"]}, MAIL | {"events": ["cap_used"]}) == []
    languages = [each.language for each in sent(HOOK, MAIL | {"language": "en"})]
    assert languages == ["en", "en"]
    assert [d.language for d in sent(MAIL | {"language": "en"}, HOOK)] == ["en", "fr"]


def test_an_id_is_of_what_is_sent_and_where() -> None:
    first, second = sent(HOOK | MAIL, None)
    assert first.id != second.id
    assert sent(HOOK, None)[0].id == first.id
    assert decode_delivery(encode_delivery(first)) == first
    assert first.host == second.host == "a.example"
    assert json.loads(first.body)["timestamp"] == "1970-01-01T00:01:52.400Z"


def test_whether_it_is_still_wanted() -> None:
    (delivery,) = sent(HOOK, None)
    assert is_still_wanted(delivery, line(HOOK))
    assert not is_still_wanted(delivery, line(HOOK | {"events": ["plan_used"]}))
    assert not is_still_wanted(delivery, line({"webhook": {"url": "https://b.example/"}}))
    for raw in (None, b"[", line(None), line({})):
        assert not is_still_wanted(delivery, raw)


def test_what_matters_of_documents() -> None:
    forwards = {"busy": {"on": True}, "no_answer": [{"on": False}, {"on": True}],
                "unreachable": {"on": False}}  # fmt: skip
    offer: dict[str, Any] = {"mobile": "hours", "mobile_hours": 1.5}
    facts = line_facts(LINE, line(offer=offer, forwards=forwards, also_ring=[{}], label="Accueil"))
    assert facts is not None
    assert (facts.plan_s, facts.label) == (5400, "Accueil")
    assert facts.on == {"busy", "no_answer", "also_ring"}
    profiles = {
        "a": {"forwards": {"unreachable": {"on": True}}, "also_ring": [{}]},
        "b": 3,
        "c": {},
    }
    assert line_facts(LINE, line(profiles=profiles)).on == {"unreachable", "also_ring"}  # type: ignore[union-attr]
    ended, ends = ({"on": True, "until": f"{year}-01-01T08:00:00+01:00"} for year in (2020, 2099))
    for given, on in ((ended, False), (ends, True), ([ended, ends], True), ({"on": True}, True)):
        raw = line(forwards={"busy": given}, profiles={"a": {"forwards": {"busy": given}}})
        assert line_facts(LINE, raw, 1796040000.0).on == ({"busy"} if on else set())  # type: ignore[union-attr]
    for hours in (-1, 745, 1e308):
        offer["mobile_hours"] = hours
        assert line_facts(LINE, line(offer=offer)).plan_s is None  # type: ignore[union-attr]
    assert line_facts(LINE, None) is line_facts(LINE, b"{}") is line_facts(LINE, b"\xff") is None
    assert fleet_facts("acme", b"[").cap_s is None
    assert fleet_facts("acme", fleet(MAIL, cap_seconds=60)).cap_s == 60
    assert not wanted(Event.MISSED_CALL, facts, fleet_facts("acme", None))
