"""`renvoi cdr`, `renvoi usage` and `renvoi fleet`: what they print, write and refuse."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from engine.commands.context import Wrong
from engine.commands.moments import read_when
from engine.commands.usage import duration
from engine.records.record import FIELDS, CallRecord, ForwardRecord, LegRecord, Months, to_entry
from rules.model import Billing
from tests.month import this_month
from tests.unit.test_cli import DOCUMENT, LINE, OTHER, Run, refused, run, server, store

__all__ = ["run", "server", "store"]

NOW = time.time()
OUTSIDE, MOBILE = "+33140000000", "+33612345678"


def call(number: int, ago_s: float, **more: Any) -> CallRecord:
    received = NOW - ago_s
    forward = ForwardRecord(LINE, "busy", "number", MOBILE, "deducted", 10, "acme", 3600, received)
    given: dict[str, Any] = {
        "id": f"0-a-{number}", "call_id": f"{number}@peer", "caller": OUTSIDE, "called": LINE,
        "received": received, "rang": None, "answered": received + 1, "ended": received + 11,
        "condition": "busy", "destination": "number", "target": MOBILE, "outcome": "answered",
        "code": 200, "q850": 16, "why": "bye", "seconds": 10, "payer": LINE,
        "billing": "deducted", "forwards": [forward], "legs": [],
    }  # fmt: skip
    return CallRecord(**{**given, **more})


CALLS = [  # hours apart, because the tests may run long after the import
    call(0, 86400 * 3),
    call(1, 2 * 86400, condition="none", outcome="busy", code=486, payer="", forwards=[]),
    call(2, 20 * 3600, called=OTHER, why='=cmd "x", y', call_id="+1+cmd|x"),
    call(3, 5 * 3600, caller=OTHER, outcome="failed", code=500),
    call(4, 60, called=OTHER, payer=OTHER, forwards=[]),
]


@pytest.fixture
def records(store: Any) -> Any:
    """Records as the engine writes them: the id is the time of the end; one is late, one is
    foreign."""
    months = Months("Europe/Paris")
    store.xadd("cdr", {"something": "else"}, id=f"{int((NOW - 86400 * 4) * 1000)}-0")
    for record in CALLS:
        values = to_entry(record, months).values
        entry = dict(zip(FIELDS, values, strict=True))
        store.xadd("cdr", entry, id=f"{int(record.ended * 1000)}-0")
    return store


def test_a_withheld_number_is_shown_only_on_request(run: Run, store: Any) -> None:
    secret = "+33199887766"
    record = call(5, 30, caller="", caller_withheld=secret)
    entry = to_entry(record, Months("Europe/Paris"))
    store.xadd("cdr", dict(zip(FIELDS, entry.values, strict=True)))
    for form in ((), ("--json",), ("--csv",), ("--json", "--line", LINE)):
        assert secret[1:] not in run("cdr", *form).out
        assert secret in run("cdr", "--withheld", *form).out
    assert "withheld" in run("cdr").out
    assert json.loads(run("cdr", "--json").out)["caller_withheld"] == "***"
    assert secret not in run("cdr", "--json", "--line", secret).out
    assert run("cdr", "--json", "--line", secret).out == ""
    assert secret in run("cdr", "--json", "--line", secret, "--withheld").out


def ids(run: Run, *arguments: str) -> list[int]:
    result = run("cdr", "--json", *arguments)
    assert result.status == 0, result
    return [int(json.loads(line)["id"][4:]) for line in result.out.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), [0, 1, 2, 3, 4]),
        (("--last", "2"), [3, 4]),
        (("--last", "0"), []),
        (("--line", LINE), [0, 1, 2, 3]),  # called, forwarded or pays
        (("--line", "0972101002"), [2, 3, 4]),  # called or calls
        (("--line", OTHER, "--last", "1"), [4]),
        (("--condition", "none"), [1]),
        (("--outcome", "failed"), [3]),
        (("--condition", "busy", "--outcome", "answered", "--last", "2"), [2, 4]),
        (("--since", "1d"), [2, 3, 4]),
        (("--since", "10h"), [3, 4]),
        (("--until", "1d"), [0, 1]),
        (("--since", "60h", "--until", "10h"), [1, 2]),
        (("--since", str(NOW - 18_001), "--until", str(NOW - 17_999)), [3]),
        (("--since", "1s"), []),
    ],
)
def test_records_are_filtered(
    run: Run, records: Any, arguments: tuple[str, ...], expected: list[int]
) -> None:
    assert ids(run, *arguments) == expected


def test_pages_are_read_until_enough_fit(
    run: Run, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.commands.records._PAGE", 2)
    assert ids(run) == [0, 1, 2, 3, 4]
    assert ids(run, "--since", "30d") == [0, 1, 2, 3, 4]
    assert ids(run, "--outcome", "busy", "--last", "3") == [1]


def test_csv_has_every_field_and_no_formula(run: Run, records: Any) -> None:
    result = run("cdr", "--csv")
    rows = list(csv.DictReader(result.out.splitlines()))
    assert list(rows[0]) == list(FIELDS)
    assert len(rows) == 5
    assert rows[2]["why"] == '\'=cmd "x", y'
    assert rows[2]["call_id"] == "'+1+cmd|x"
    assert json.loads(rows[0]["forwards"])[0]["line"] == LINE
    assert rows[0]["caller"] == OUTSIDE
    assert run("cdr", "--csv", "--since", "1s").out == ""


def test_the_table_says_when_nothing_fits(run: Run, records: Any) -> None:
    assert run("cdr", "--since", "1s").out == "no such records\n"
    assert len(run("cdr", "--last", "3").out.splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("--line", "me"), ("--line", "me")),
        (("--since", "soon"), ("--since", "soon")),
        (("--until", "2026-13-01"), ("--until", "2026-13-01")),
        (("--since", "1h", "--until", "2h"), ("--until", "2h")),
        (("--condition", "drunk"), ("condition", "drunk")),
        (("--csv", "--json"), ("--csv",)),
    ],
)
def test_wrong_filters_are_named(
    run: Run, store: Any, arguments: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    refused(run("cdr", *arguments), *texts)


def test_moments() -> None:
    zone = ZoneInfo("Europe/Paris")
    assert read_when("x", "90s", zone, 1000.0) == 910.0
    assert read_when("x", "1.5h", zone, 10_000.0) == 4600.0
    assert read_when("x", "1794308400.5", zone, 0) == 1794308400.5
    midnight = datetime(2026, 11, 25, tzinfo=zone).timestamp()
    assert read_when("x", "2026-11-25", zone, 0) == midnight
    assert read_when("x", "2026-11-24T23:00Z", zone, 0) == midnight
    with pytest.raises(Wrong, match="x"):
        read_when("x", "2h ago", zone, 0)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's time zone is not that of the configuration."""
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_time_that_was_printed_finds_the_record_on_a_machine_of_another_zone(
    run: Run, records: Any, elsewhere: None
) -> None:
    head, *rows = run("cdr").out.splitlines()
    assert head.startswith("RECEIVED (Europe/Paris)  CALLER")
    for row, record in zip(rows, CALLS, strict=True):
        printed = row[:19]
        stored = round(record.received, 3)  # as in the stream
        in_paris = datetime.fromtimestamp(stored, ZoneInfo("Europe/Paris"))
        assert printed == f"{in_paris:%Y-%m-%d %H:%M:%S}"
        assert row[25:].startswith(record.caller)
        until = f"{int(stored) + 1}"
        assert f"0-a-{ids(run, '--since', printed, '--until', until)[0]}" == record.id


def test_json_has_iso_times_with_the_offset_of_the_zone(
    run: Run, records: Any, elsewhere: None
) -> None:
    stored = json.loads(run("cdr", "--json", "--last", "1").out)
    received = datetime.fromtimestamp(stored["received"], ZoneInfo("Europe/Paris"))
    assert stored["received_at"] == received.isoformat(timespec="milliseconds")
    assert stored["received_at"][-6:] in ("+01:00", "+02:00")
    assert stored["received"] == pytest.approx(CALLS[-1].received, abs=0.001)
    assert stored["ended_at"] > stored["answered_at"] > stored["received_at"]
    assert stored["rang_at"] is None
    assert ids(run, "--since", str(received.replace(microsecond=0))) == [4]


# usage


def test_usage_of_a_line_and_of_a_fleet(run: Run, store: Any) -> None:
    store.set(
        f"line:{LINE}", json.dumps(DOCUMENT | {"offer": {"mobile": "hours", "mobile_hours": 2}})
    )
    store.hset(
        f"usage:{LINE}:{this_month()}", mapping={"deducted": 3600, "free": 65, "x": "garbage"}
    )
    store.hset("usage:fleet:acme:2026-01", mapping={"out_of_plan": 7509})
    answer = run("usage", "0972101001", "--json").json
    assert answer["usage"] == dict.fromkeys(Billing, 0) | {"free": 65, "deducted": 3600}
    assert (answer["plan_s"], answer["plan_left_s"]) == (7200, 3600)
    assert "1 h 00 min 00 s left" in run("usage", LINE).out
    assert "2 h 05 min 09 s" in run("usage", "fleet:acme", "--month", "2026-01").out
    refused(run("usage", OTHER), OTHER)
    refused(run("usage", LINE, "--month", "2026-13"), "--month", "2026-13")


def test_durations() -> None:
    assert [duration(s) for s in (0, 59, 61, 3600)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "1 h 00 min 00 s",
    ]


# fleets


def test_what_show_and_list_print_of_a_fleet_can_be_written_again(run: Run, store: Any) -> None:
    document = {"name": "acme", "cap_seconds": 3600, "x_crm": 7}
    store.set("fleet:acme", json.dumps(document))
    store.hset(f"usage:fleet:acme:{this_month()}", mapping={"out_of_plan": 600})
    for printed in (run("fleet", "show", "acme", "--json"), run("fleet", "list", "--json")):
        assert "usage" in printed.out
        written = run("fleet", "set", "-", "--strict", stdin=printed.out)
        assert (written.status, written.err) == (0, "")
        assert json.loads(store.get("fleet:acme")) == document


def test_a_fleet_from_set_to_delete(run: Run, store: Any) -> None:
    document = {"name": "acme", "cap_seconds": 3600, "crm": 7}
    assert "in force" in run("fleet", "set", "-", stdin=document).out
    assert json.loads(store.get("fleet:acme")) == document
    store.hset(f"usage:fleet:acme:{this_month()}", mapping={"out_of_plan": 600})
    shown = run("fleet", "show", "acme").out
    assert "50 min 00 s" in shown
    assert run("fleet", "show", "acme", "--json").json["usage"] == {"out_of_plan": 600}
    both = [{"name": "a", "suspended": True}, {"name": "b"}]
    assert run("fleet", "set", "-", "--json", stdin=both).json["written"] == ["a", "b"]
    store.set("fleet:bad", "{")
    rows = run("fleet", "list").out.splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["a", "acme", "b", "bad"]
    assert "SUSPENDED" in rows[1]
    assert "REFUSED" in rows[4]
    assert len(run("fleet", "list", "--json").json) == 4
    gone = {"deleted": "acme", "still_named": []}
    assert run("fleet", "delete", "acme", "--json").json == gone
    refused(run("fleet", "delete", "acme"), "acme")
    refused(run("fleet", "show", "acme"), "acme")
    assert run("fleet", "show", "bad").status == 1
    assert run("fleet", "show", "bad", "--json").json["text"] == "{"  # to be repaired


def test_every_change_of_a_fleet_is_in_its_log_of_changes(run: Run, store: Any) -> None:
    for document in (
        {"name": "acme", "cap_seconds": 3600},
        {"name": "acme", "cap_seconds": 3600},  # no change
        {"name": "acme", "suspended": True},
    ):
        assert run("fleet", "set", "-", stdin=document).status == 0
    assert run("fleet", "delete", "acme").status == 0
    entries = [entry for _, entry in store.xrange("audit:acme")]
    assert {(e["how"], e["line"], e["what"]) for e in entries} == {("cli", "", "fleet")}
    assert all(entry["who"] for entry in entries)
    assert [(json.loads(e["from"]), json.loads(e["to"])) for e in entries] == [
        ({}, {"name": "acme", "cap_seconds": 3600}),
        ({"cap_seconds": 3600}, {"suspended": True}),
        ({"name": "acme", "suspended": True}, {}),
    ]


@pytest.mark.parametrize(
    ("document", "texts"),
    [
        ({"name": "acme", "cap_seconds": "1h"}, ("fleet acme: cap_seconds", "1h")),
        ({"cap_seconds": 1}, ("name",)),
        ({"name": "a{b}"}, ("name", "a{b}")),
        ([{"name": "a"}, {"name": "b", "suspended": 1}], ("document 2, fleet b: suspended", "1")),
        ([{"name": "a"}, {"name": "a"}], ("document 2", "name", "twice")),
    ],
)
def test_a_bad_fleet_is_refused_whole(
    run: Run, store: Any, document: Any, texts: tuple[str, ...]
) -> None:
    refused(run("fleet", "set", "-", stdin=document), *texts)
    assert store.keys() == []


# explain


def test_explain_shows_plan_cap_and_suspension(run: Run, store: Any) -> None:
    """The chain's second line pays for the mobile: from its plan, then from the fleet's cap."""
    always = {"unconditional": {"on": True, "to": {"kind": "number", "number": OTHER}}}
    store.set(f"line:{LINE}", json.dumps({"number": LINE, "fleet": "acme", "forwards": always}))
    onwards = {"unconditional": {"on": True, "to": {"kind": "number", "number": MOBILE}}}
    offer = {"mobile": "hours", "mobile_hours": 1}
    other = {"number": OTHER, "fleet": "acme", "offer": offer, "forwards": onwards}
    store.set(f"line:{OTHER}", json.dumps(other))
    store.set("fleet:acme", json.dumps({"name": "acme", "cap_seconds": 100}))

    def explained() -> Any:
        return run("explain", LINE, "--json").json

    store.hset(f"usage:{OTHER}:{this_month()}", mapping={"deducted": 600})
    chain = explained()
    assert [stage["number"] for stage in chain["stages"]] == [LINE, OTHER]
    last = chain["stages"][1]["decision"]
    assert (last["payer"], last["billing"]) == (OTHER, "deducted")
    assert last["uri"].startswith(f"sip:{MOBILE}@")
    facts = chain["lines"][1]
    assert (facts["plan_s"], facts["plan_left_s"]) == (3600, 3000)
    assert (facts["cap_s"], facts["cap_left_s"]) == (100, 100)
    assert chain["limits"]["forwards_per_line"] == 50

    store.hset(f"usage:{OTHER}:{this_month()}", mapping={"deducted": 3600})
    assert explained()["stages"][1]["decision"]["billing"] == "out_of_plan"
    store.hset(f"usage:fleet:acme:{this_month()}", mapping={"out_of_plan": 60})
    note = json.dumps([OTHER, time.time() - 50, None, time.time()])  # a call in progress
    standing = "standing:{usage:fleet:acme:" + this_month() + "}"
    store.hset(standing, mapping={"0-a-1": note, "old": "[]"})
    capped = explained()
    assert capped["lines"][1]["cap_left_s"] < 0
    assert "the cap of fleet acme is used up" in " ".join(capped["stages"][1]["steps"])
    text = run("explain", LINE).out
    assert "0 s left of 1 min 40 s out of plan" in text
    assert "0 s left of 1 h 00 min 00 s" in text

    store.set("fleet:acme", json.dumps({"name": "acme", "suspended": True}))
    assert explained()["stages"][0]["decision"]["why"] == "fleet_suspended"
    assert "SUSPENDED" in run("explain", LINE).out


def test_explain_reports_that_the_fleets_document_is_refused(run: Run, store: Any) -> None:
    store.set(f"line:{LINE}", json.dumps({"number": LINE, "fleet": "acme"}))
    store.set("fleet:acme", json.dumps({"name": "acme", "suspended": "yes"}))
    done = run("explain", LINE)
    assert done.status == 0
    assert "fleet acme: its DOCUMENT IS REFUSED: suspended" in done.out
    assert "suspended" in run("explain", LINE, "--json").json["lines"][0]["fleet_problem"]
    store.delete("fleet:acme")
    assert "REFUSED" not in run("explain", LINE).out


def test_explain_shows_when_all_workers_have_reached_a_limit_on_forwards(
    run: Run, store: Any
) -> None:
    mobile = {"unconditional": {"on": True, "to": {"kind": "number", "number": MOBILE}}}
    store.set(f"line:{LINE}", json.dumps({"number": LINE, "fleet": "acme", "forwards": mobile}))
    later = time.time() + 60
    store.zadd("workers", {"0-a": later, "1-b": later, "gone": time.time() - 60})
    pool = 50 - 2 * (50 // 16)  # each of two workers has a local quota of three

    def explained() -> Any:
        return run("explain", LINE, "--json").json

    store.zadd(f"forwards:{LINE}", {f"call-{n}": later for n in range(pool - 1)})
    store.zadd(f"forwards:{LINE}", {"lapsed": time.time() - 1})
    assert explained()["lines"][0]["forwards"] == pool - 1
    assert explained()["stages"][0]["decision"]["action"] == "forward"
    store.zadd(f"forwards:{LINE}", {"one more": later})
    assert explained()["lines"][0]["reached"] == "forwards_per_line"
    assert explained()["stages"][0]["decision"]["action"] == "reject"
    text = run("explain", LINE).out
    assert f"{pool} in progress, 0 in the last hour, forwards_per_line is reached" in text
    assert "counts as off, 50 forwards of the line stand already" in text


def test_every_field_of_a_record_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/cdr.md").read_text()
    entry, _, rest = text.partition("### An element of `forwards`")
    forwards, _, legs = rest.partition("### An element of `legs`")
    for part, record in ((entry, CallRecord), (forwards, ForwardRecord), (legs, LegRecord)):
        for name in record.__struct_fields__:
            assert f"\n| `{name}` |" in part, f"{record.__name__}.{name}"
