"""Forwards with hours, callers and several targets, on the command line: written, shown, switched,
explained, exported and imported."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from engine.changes.line_file import RowError, from_cells, to_cells
from tests.unit.test_cli import LINE, OTHER, Run, refused, run, server, store

__all__ = ["run", "server", "store"]

MOBILE = {"kind": "number", "number": "+33612345678"}
OWN = {"kind": "voicemail", "number": LINE}
OFFICE = {
    "zone": "Europe/Paris",
    "weekly": {day: ["09:00-18:00"] for day in ("mon", "tue", "wed", "thu", "fri")},
    "holidays": "FR",
}
FLEET: dict[str, Any] = {
    "name": "acme",
    "calendars": {"office": OFFICE, "idle": {}},
    "lists": {"vip": ["+33140000001"], "old": ["+33140000002"]},
}
RULES: list[dict[str, Any]] = [
    {"on": True, "when": "not office", "to": OWN},
    {"on": False, "callers": "withheld", "to": {"kind": "reject"}},
    {"on": True, "callers": "list:vip", "until": "2099-01-01T00:00:00+01:00",
     "to": [MOBILE | {"ring_s": 15}, OWN], "ring": "together"},
]  # fmt: skip
DOCUMENT: dict[str, Any] = {
    "number": LINE,
    "fleet": "acme",
    "forwards": {"unconditional": RULES, "no_answer": {"on": True, "after_s": 20, "to": OWN}},
    "also_ring": [MOBILE],
}


@pytest.fixture
def line(run: Run, store: Any) -> Any:
    """The stored document of the line."""
    assert run("fleet", "set", "-", stdin=FLEET).status == 0
    written = run("line", "set", "-", stdin=DOCUMENT)
    assert (written.status, written.err) == (0, "")
    return lambda: json.loads(store.get(f"line:{LINE}"))


def test_targets_in_turn_are_shown_after_their_delay(run: Run, line: Any) -> None:
    several = {"on": True, "after_s": 20, "to": [MOBILE | {"ring_s": 15}, OWN]}
    run("line", "set", "-", stdin=DOCUMENT | {"forwards": {"no_answer": several}})
    words = "after 20 s in turn number +33612345678 for 15 s, voicemail for 20 s"
    assert f"no_answer      {words}\n" in run("line", "show", LINE).out


def test_a_document_with_all_of_it_is_kept_as_written(run: Run, line: Any) -> None:
    assert line() == DOCUMENT
    assert run("line", "show", LINE, "--json").json == DOCUMENT
    shown = run("line", "show", LINE).out
    assert "also ring      number +33612345678" in shown
    assert "[0] voicemail, when not office; [2] together number +33612345678 for 15 s" in shown
    assert run("fleet", "show", "acme", "--json").json["calendars"] == FLEET["calendars"]
    assert "calendars                     idle, office" in run("fleet", "show", "acme").out
    wrong = DOCUMENT | {"forwards": {"busy": [RULES[0] | {"when": "x"}]}}
    refused(run("line", "set", "-", stdin=wrong), "forwards.busy[0].when", "'x'", "fleet acme")
    bad = FLEET | {"lists": {"vip": ["+33140000001", "me"]}}
    refused(run("fleet", "set", "-", stdin=bad), "lists.vip[1]", "'me'")


def test_a_list_is_shown_entry_by_entry(run: Run, line: Any) -> None:
    assert run("forward", "show", LINE).out.splitlines() == [
        "unconditional[0] voicemail, when not office",
        "unconditional[1] off",
        "unconditional[2] together number +33612345678 for 15 s, voicemail for 20 s, "
        "callers list:vip, until 2099-01-01T00:00:00+01:00",
        "busy           off",
        "no_answer      voicemail after 20 s",
        "unreachable    off",
    ]
    shown = run("forward", "show", LINE, "--json").json
    assert shown["unconditional"] == RULES
    assert shown["busy"] == {"on": False}


def test_set_does_not_replace_a_list_unless_asked(run: Run, line: Any) -> None:
    refused(run("forward", "set", LINE, "unconditional", "voicemail"), "forwards.unconditional",
            "has 3 forwards", "--replace")  # fmt: skip
    assert line() == DOCUMENT
    done = run("forward", "set", LINE, "unconditional", "0612345678", "--replace")
    assert done.status == 0
    assert line()["forwards"]["unconditional"] == {"on": True, "to": MOBILE}


def test_a_single_forward_keeps_its_hours_unless_replaced(run: Run, line: Any) -> None:
    run("line", "set", "-", stdin=DOCUMENT | {"forwards": {"busy": RULES[0]}})
    text = run("forward", "set", LINE, "busy", "0612345678").out
    assert f"{LINE} busy: number +33612345678, when not office, " in text
    assert line()["forwards"]["busy"] == {"on": True, "when": "not office", "to": MOBILE}
    run("forward", "set", LINE, "busy", "0612345678", "--replace")
    assert line()["forwards"]["busy"] == {"on": True, "to": MOBILE}


def test_off_turns_off_each_of_a_list(run: Run, line: Any) -> None:
    done = run("forward", "off", LINE, "unconditional")
    assert done.out.startswith(f"{LINE} unconditional: off")
    assert line()["forwards"]["unconditional"] == [each | {"on": False} for each in RULES]
    run("line", "set", "-", stdin=DOCUMENT)
    everything = run("forward", "off", LINE, "all", "--json").json
    assert everything["were_on"] == ["unconditional", "no_answer"]
    assert not any(each["on"] for each in line()["forwards"]["unconditional"])


def test_the_log_of_changes_has_lists(run: Run, line: Any) -> None:
    run("forward", "off", LINE, "unconditional")
    text = run("audit", "--last", "1").out
    assert "unconditional [0] voicemail" in text
    assert ", when not office" in text
    assert "together number +33612345678 for 15 s, voicemail" in text
    assert "-> [0] off; [1] off; [2] off" in text


def test_explain_shows_what_will_happen_at_a_time(run: Run, line: Any, store: Any) -> None:
    store.zadd(f"reg:{LINE}", {"sip:a@127.0.0.1": time.time() + 60})
    outcomes = {
        "2026-12-01T10:00": ("ring", None),
        "2026-12-01T08:59:59": ("forward", 0),
        "2026-12-25T10:00": ("forward", 0),
        "2026-12-01T08:59:59Z": ("ring", None),  # 09:59 in Paris
    }
    for at, (action, rule) in outcomes.items():
        answer = run("explain", LINE, "--at", at, "--json").json
        decision = answer["stages"][0]["decision"]
        assert (decision["action"], decision.get("rule")) == (action, rule), at
    vip = ["explain", LINE, "--at", "2026-12-01T10:00", "--from", "+33140000001"]
    decision = run(*vip, "--json").json["stages"][0]["decision"]
    assert (decision["rule"], decision["ring"]) == (2, "together")
    assert [(each["number"], each["ring_s"]) for each in decision["targets"]] == [
        ("+33612345678", 15), (LINE, 20),
    ]  # fmt: skip
    text = run(*vip).out
    assert "A call to +33972101001 from +33140000001 at 2026-12-01T10:00:00.000+01:00:" in text
    assert "unconditional[0]: does not apply now, calendar office is open" in text
    after = run("explain", LINE, "--at", "2099-01-02T10:00", "--from", "+33140000001").out
    assert "unconditional[2]: off, it ended at 2098-12-31T23:00:00+00:00" in after
    rings = run("explain", LINE, "--at", "2026-12-01T10:00", "--json").json["stages"][0]
    assert [each["number"] for each in rings["decision"]["also"]] == ["+33612345678"]
    for wrong in ("then", "2h", "2026-13-01", "9999-12-31T23:59"):
        refused(run("explain", LINE, "--at", wrong), "--at", wrong)


def test_explain_counts_only_contacts_that_the_engine_rings(
    run: Run, line: Any, store: Any
) -> None:
    run("line", "set", "-", stdin={"number": OTHER, "fleet": "acme"})
    store.zadd(f"reg:{OTHER}", {"mailto:a@127.0.0.1": time.time() + 60})
    answer = run("explain", OTHER, "--json").json
    assert (answer["lines"][0]["contacts"], answer["lines"][0]["registered_s"]) == (0, 0)
    assert answer["stages"][0]["decision"]["code"] == 480
    store.zadd(f"reg:{OTHER}", {"sip:a@127.0.0.1": time.time() + 30})
    answer = run("explain", OTHER, "--json").json
    assert answer["lines"][0]["contacts"] == 1
    assert 25 < answer["lines"][0]["registered_s"] <= 30
    assert answer["stages"][0]["decision"]["action"] == "ring"


def test_explain_follows_the_rules_of_no_line_in_a_list(run: Run, store: Any) -> None:
    """It rings there, also if it is the only target that is dialled."""
    caller = MOBILE["number"]
    to = [{"kind": "number", "number": OTHER}, MOBILE]
    own = {"kind": "voicemail", "number": OTHER}
    for number, forward in ((OTHER, own), (LINE, to)):
        document = {
            "number": number,
            "fleet": "acme",
            "forwards": {"unconditional": {"on": True, "to": forward}},
        }
        assert run("line", "set", "-", stdin=document).status == 0
    answer = run("explain", LINE, "--from", caller, "--json").json
    assert [stage["number"] for stage in answer["stages"]] == [LINE]
    assert [each["passed_over"] for each in answer["stages"][0]["decision"]["targets"]] == [
        None,
        "caller_is_target",
    ]


def test_explain_uses_the_lists_of_the_fleet(run: Run, line: Any, store: Any) -> None:
    forwards = {"unconditional": {"on": True, "callers": "fleet", "to": OWN}}
    run("line", "set", "-", stdin=DOCUMENT | {"forwards": forwards})
    run("line", "set", "-", stdin={"number": OTHER, "fleet": "acme"})
    for caller, action in ((OTHER, "forward"), ("+33198765432", "ring")):
        answer = run("explain", LINE, "--from", caller, "--json").json
        assert answer["stages"][0]["decision"]["action"] == action


def test_a_deleted_calendar_names_the_lines_that_still_use_it(run: Run, line: Any) -> None:
    run("line", "set", "-", stdin=[DOCUMENT | {"number": f"+339721011{n:02}"} for n in range(22)])
    kept = run("fleet", "set", "-", "--json", stdin=FLEET | {"label": "Acme"})
    assert kept.json["still_named"] == []
    less = FLEET | {"calendars": {"idle": {}}, "lists": {"vip": ["+33140000001"]}}
    (still,) = run("fleet", "set", "-", "--json", stdin=less).json["still_named"]
    assert (still["fleet"], still["what"], still["name"]) == ("acme", "calendar", "office")
    assert (still["lines"], len(still["first"])) == (23, 20)
    assert still["first"][0] == LINE
    warned = run("fleet", "delete", "acme")
    assert "fleet acme: list vip is gone, 23 lines still name it" in warned.err
    assert "..." in warned.err
    assert "there is no calendar office" in run("explain", LINE).out
    assert f"line {LINE}: there is no calendar office" in run("check").err


def test_csv_loses_nothing(run: Run, line: Any, tmp_path: Path) -> None:
    single = {
        "number": OTHER, "fleet": "acme",
        "forwards": {"busy": {"on": True, "to": MOBILE | {"ring_s": 9}, "callers": "fleet"},
                     "unreachable": {"on": False, "to": {"kind": "reject"}}},
        "do_not_disturb": True,
    }  # fmt: skip
    assert json.loads(to_cells(DOCUMENT)[-1])["forwards"]["unconditional"] == RULES
    run("line", "set", "-", stdin=single)
    exported = run("line", "export", "--format", "csv")
    assert exported.status == 0
    file = tmp_path / "lines.csv"
    file.write_text(exported.out)
    run("line", "delete", LINE)
    run("line", "delete", OTHER)
    assert run("line", "import", str(file)).status == 0
    assert line() == DOCUMENT
    assert run("line", "show", OTHER, "--json").json == single


def test_a_cell_does_not_replace_a_list(run: Run) -> None:
    more = json.dumps({"forwards": {"busy": [{"on": True}]}})
    with pytest.raises(RowError) as caught:
        from_cells({"number": LINE, "busy": "on voicemail", "more": more})
    assert caught.value.field == "busy"
    assert "is a list in more already" in str(caught.value)


def test_an_import_checks_names_and_targets_in_lists(run: Run, line: Any, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    fax = {"kind": "fax", "number": OTHER}
    wrong = [
        {"number": OTHER, "fleet": "acme", "forwards": {"busy": [RULES[0] | {"when": "beach"}]}},
        DOCUMENT | {"forwards": {"busy": [RULES[0], {"on": True, "to": [MOBILE, fax]}]}},
    ]
    file.write_text("\n".join(map(json.dumps, wrong)))
    done = run("line", "import", str(file))
    assert done.status == 2
    assert "forwards.busy[0].when" in done.err
    right = [{"number": OTHER, "fleet": "acme"}, wrong[1]]
    file.write_text("\n".join(map(json.dumps, right)))
    assert "forwards.busy[1].to[1].number" in run("line", "import", str(file)).err
    own = DOCUMENT | {
        "calendars": {"own": OFFICE}, "lists": {"mine": ["+331*"]},
        "forwards": {"busy": {"on": True, "when": "own", "callers": "list:mine",
                              "to": {"kind": "voicemail", "number": OTHER}}},
    }  # fmt: skip
    file.write_text("\n".join(map(json.dumps, [right[0], own])))
    assert run("line", "import", str(file)).status == 0
    assert line() == own
    for part, field in (
        ({"also_ring": [{"kind": "number", "number": LINE}]}, "profiles.a.also_ring[0].number"),
        ({"forwards": {"busy": {"on": True, "to": fax}}}, "profiles.a.forwards.busy.to.number"),
        ({"forwards": {"busy": {"on": False, "when": "beach"}}}, "profiles.a.forwards.busy.when"),
    ):
        file.write_text("\n".join(map(json.dumps, [right[0], own | {"profiles": {"a": part}}])))
        assert field in run("line", "import", str(file)).err
    file.write_text(json.dumps(own | {"profiles": {"a": {"also_ring": [MOBILE]}}, "profile": "a"}))
    assert run("line", "import", str(file)).status == 0
    assert "profile: a" in run("explain", LINE).out


def test_do_not_disturb_is_switched_by_one_command(run: Run, line: Any) -> None:
    done = run("line", "dnd", LINE, "on")
    assert (done.status, done.out.partition(",")[0]) == (0, f"{LINE} do not disturb: on")
    assert line() == DOCUMENT | {"do_not_disturb": True}
    assert (
        "refuse with 486 (do_not_disturb)" in run("explain", LINE, "--at", "2026-12-01T10:00").out
    )
    answer = run("line", "dnd", LINE, "off", "--json").json
    assert (answer["do_not_disturb"], answer["now"]) == (False, False)
    assert line() == DOCUMENT | {"do_not_disturb": False}
    log = run("audit", "--line", LINE, "--json").json
    changes = [(each["before"].get("do_not_disturb"), each["after"]["do_not_disturb"])
               for each in log if "do_not_disturb" in each["after"]]  # fmt: skip
    assert sorted(changes, key=str) == [(None, True), (True, False)]
    refused(run("line", "dnd", LINE, "perhaps"))
    refused(run("line", "dnd", OTHER, "on"))


def test_a_forward_that_is_set_forgets_an_end_that_has_passed(run: Run, store: Any) -> None:
    """Else it would be said to be on, and no call would be forwarded."""
    for until, is_kept in (("2020-01-01T08:00:00Z", False), ("2099-01-01T08:00:00Z", True)):
        busy = {"on": True, "to": OWN, "until": until}
        document = {"number": LINE, "fleet": "acme", "forwards": {"busy": busy}}
        store.set(f"line:{LINE}", json.dumps(document))
        assert run("forward", "set", LINE, "busy", "voicemail").status == 0
        left = json.loads(store.get(f"line:{LINE}"))["forwards"]["busy"]
        assert left == (busy if is_kept else {"on": True, "to": OWN})


def test_a_profile_is_chosen_until_a_moment(run: Run, line: Any) -> None:
    profiles = {
        "bureau": {"forwards": {"no_answer": {"on": True, "after_s": 15, "to": OWN}}},
        "conges": {"forwards": {"unconditional": {"on": True, "to": OWN}}, "do_not_disturb": True},
    }
    document = DOCUMENT | {"profiles": profiles}
    assert run("line", "set", "-", stdin=document).status == 0
    assert run("line", "profile", LINE).out.split() == [
        "now",
        "none",
        "profiles",
        "bureau,",
        "conges",
    ]
    done = run("line", "profile", LINE, "bureau")
    assert (done.status, done.out.partition(",")[0]) == (0, f"{LINE} profile now: bureau")
    warned = run("forward", "set", LINE, "busy", "voicemail")
    assert (warned.status, "profile bureau is used now" in warned.err) == (0, True)
    run("line", "set", "-", stdin=document | {"profile": "bureau"})
    answer = run("line", "profile", LINE, "conges", "--until", "2099-01-05T08:00", "--json").json
    assert answer["now"] == "conges"
    until = "2099-01-05T08:00:00.000+01:00"
    assert line()["profile"] == [{"use": "conges", "until": until}, {"use": "bureau"}]
    shown = run("line", "show", LINE).out
    assert "profiles       bureau, conges" in shown
    assert f"profile        conges, until {until}" in shown
    explained = run("explain", LINE, "--at", "2099-01-05T07:59").out
    assert "profile: conges" in explained
    assert "forward to voicemail" in explained
    assert "profile: bureau" in run("explain", LINE, "--at", "2099-01-05T08:00").out
    assert f"profile conges, until {until}; profile bureau; " in run("line", "list").out
    held = run("line", "dnd", LINE, "off").out
    assert "do not disturb: off (but profile conges has it on)" in held
    left = run("line", "profile", LINE, "none")
    assert (left.status, line()) == (0, document)
    for words in (("ete",), ("bureau", "--until", "2020-01-01T00:00"), ("none", "--until", "2h")):
        refused(run("line", "profile", LINE, *words))


@pytest.mark.parametrize("until", ["9999-12-31T23:59-10:00", "0001-01-01T00:00+14:00"])
def test_an_end_that_no_zone_can_show_is_refused(run: Run, store: Any, until: str) -> None:
    """The profile was used without an end."""
    document = {"number": LINE, "fleet": "acme", "profiles": {"a": {}}}
    store.set(f"line:{LINE}", json.dumps(document))
    refused(run("line", "profile", LINE, "a", "--until", until), "--until", until)
    assert json.loads(store.get(f"line:{LINE}")) == document


def test_an_unknown_profile_is_refused_at_writing(run: Run) -> None:
    wrong = run("line", "set", "-", stdin=DOCUMENT | {"profiles": {"a": {}}, "profile": "b"})
    refused(wrong)
    assert "profile: is no profile of the line, which has a (got 'b')" in wrong.err
    assert (
        run(
            "line",
            "set",
            "-",
            "--strict",
            stdin={"number": LINE, "fleet": "acme", "profiles": {"a": {"forward": {}}}},
        ).status
        == 2
    )
