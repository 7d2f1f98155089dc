"""Allowed countries of targets, on the command line: each command that writes checks them, and
stored forwards that are refused now are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.month import this_month
from tests.unit.test_cli import LINE, OTHER, Run, refused, run, server, store

__all__ = ["run", "server", "store"]

BRITISH, SWISS, MOBILE = "+447400123456", "+41446681800", "+33612345678"


def document(number: str, on: bool = True, **more: Any) -> dict[str, Any]:
    forwards = {"busy": {"on": on, "to": {"kind": "number", "number": number}}}
    return {"number": LINE, "fleet": "acme", "forwards": forwards} | more


@pytest.fixture(autouse=True)
def config(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    # Other engines may run on this machine: use any free port.
    free = "sip: {listen: ['udp:127.0.0.1:0']}\nadmin: {listen: '127.0.0.1:0'}\n"
    path.write_text(
        free + 'numbering: {forward_countries: [FR, GB, "001"], also_valid: ["+33700"]}'
    )
    return path


def test_every_writer_checks_the_configured_countries_and_the_fleets(
    run: Run, store: Any, tmp_path: Path
) -> None:
    store.set("fleet:acme", json.dumps({"name": "acme", "forward_countries": ["FR", "CH", "001"]}))
    store.set(f"line:{LINE}", json.dumps(document(MOBILE)))
    file = tmp_path / "lines.jsonl"
    for number, list_name in (
        (BRITISH, "forward_countries of fleet acme"),
        (SWISS, "numbering.forward_countries"),
    ):
        for on in (True, False):
            refused(
                run("line", "set", "-", stdin=document(number, on)),
                "forwards.busy.to.number",
                number,
                list_name,
            )
        refused(run("forward", "set", LINE, "busy", f"number:{number}"), number, list_name)
        file.write_text(json.dumps(document(number)))
        result = run("line", "import", str(file))
        assert result.status == 2
        assert list_name in result.err
        assert number in result.err
    assert json.loads(store.get(f"line:{LINE}")) == document(MOBILE)
    # A line of the fleet may have any number, and each fleet has its own list.
    store.set(f"line:{SWISS}", json.dumps({"number": SWISS, "fleet": "acme"}))
    assert run("forward", "set", LINE, "busy", f"number:{SWISS}").status == 0
    for target in (SWISS, "0700000001", "+8816123456789", "0612345678"):
        assert run("line", "set", "-", stdin=document(target)).status == 0
        file.write_text(json.dumps(document(target)))
        assert run("line", "import", str(file)).status == 0
    assert run("line", "set", "-", stdin=document(BRITISH, fleet="globex")).status == 0


def test_what_rings_beside_a_line_does_not_prevent_a_change_of_a_forward(
    run: Run, store: Any
) -> None:
    """It was allowed when it was written, and counts as off now, like a forward of the kind."""
    beside = {"kind": "number", "number": SWISS}
    own = {"forwards": {"busy": {"on": True, "to": beside}}, "also_ring": [beside]}
    of_profile = {"profiles": {"a": own}}
    store.set(f"line:{LINE}", json.dumps({"number": LINE, "fleet": "acme"} | own | of_profile))
    assert run("forward", "set", LINE, "no_answer", "voicemail").status == 0
    assert json.loads(store.get(f"line:{LINE}"))["also_ring"] == [beside]
    refused(run("forward", "set", LINE, "no_answer", SWISS), SWISS, "numbering.forward_countries")


def test_an_offer_does_not_prevent_a_change_of_a_forward(run: Run, store: Any) -> None:
    """Another program wrote hours of which there are none."""
    document = {"number": LINE, "fleet": "acme", "offer": {"mobile": "hours"}}
    store.set(f"line:{LINE}", json.dumps(document))
    assert run("forward", "set", LINE, "busy", "voicemail").status == 0
    assert json.loads(store.get(f"line:{LINE}"))["offer"] == document["offer"]
    refused(run("line", "set", "-", stdin=document), "offer.mobile_hours")


def test_a_fleets_list_is_checked_and_useless_entries_are_reported(run: Run, store: Any) -> None:
    fleet = {"name": "acme", "forward_countries": ["FR", "CH"]}
    result = run("fleet", "set", "-", stdin=fleet)
    assert result.status == 0
    assert "CH has no effect" in result.err
    assert "FR" not in result.err
    assert "CH, FR" in run("fleet", "show", "acme").out
    for wrong, texts in (
        (["FR", "XX"], ["forward_countries[1]", "'XX'"]),
        (["fr"], ["forward_countries[0]", "'fr'"]),
        ("FR", ["forward_countries", "'FR'"]),
        ([33], ["forward_countries"]),
    ):
        refused(run("fleet", "set", "-", stdin=fleet | {"forward_countries": wrong}), *texts)
    assert json.loads(store.get("fleet:acme")) == fleet


def test_what_is_refused_now_is_reported_by_explain_show_and_check(
    run: Run, store: Any, config: Path
) -> None:
    """Stored when it was valid, or by another program: the forward counts as off."""
    cases = {
        "+4990012345670": "number of kind premium",
        "+4911833": "number of kind short",
        "+491805123456": "number of kind shared_cost",
        "+33639123456": "no valid number",
        SWISS: "numbering.forward_countries does not have",
    }
    for number, text in cases.items():
        store.set(f"line:{LINE}", json.dumps(document(number, max_calls=1)))
        store.zadd(f"live:{LINE}", {"x": 4e9})
        steps = run("explain", LINE, "--json").json["stages"][0]
        assert any(number in step and text in step for step in steps["steps"]), steps
        assert steps["decision"]["action"] == "reject"
        assert "counts as off" in run("forward", "show", LINE).out
        result = run("check")
        assert result.status == 0
        assert f"line {LINE}: busy to number {number} (counts as off: " in result.err
        assert "1 forwards to refused numbers" in result.out
        # Does not apply to a line of the fleet, unless its kind is never allowed.
        if number not in (SWISS, "+33639123456"):
            continue
        store.set(f"line:{number}", json.dumps({"number": number, "fleet": "acme"}))
        assert "counts as off" not in run("forward", "show", LINE).out
        assert run("check").err == ""
    store.set(f"line:{LINE}", json.dumps(document(BRITISH, max_calls=1)))
    assert "billing international" in run("explain", LINE).out
    assert run("check").err == ""
    store.set("fleet:acme", json.dumps({"name": "acme", "forward_countries": ["FR"]}))
    assert "(counts as off: fleet_countries)" in run("line", "show", LINE).out
    assert "fleet_countries" in run("check").err
    text = run("explain", LINE).out
    assert "its targets may be in: FR" in text
    assert "is in country GB, which forward_countries of fleet acme does not have" in text
    assert run("forward", "off", LINE, "busy").status == 0  # always allowed
    assert run("forward", "set", OTHER, "busy", "voicemail").status == 2  # unknown line


def test_check_names_the_forwards_of_profiles_to_refused_numbers(run: Run, store: Any) -> None:
    premium = "+4990012345670"
    busy = {"busy": {"on": True, "to": {"kind": "number", "number": premium}}}
    own = {"busy": {"on": True, "to": {"kind": "voicemail"}}}
    profiles = {"a": {"forwards": busy}, "unused": {"forwards": busy}}
    stored = {
        "number": LINE,
        "fleet": "acme",
        "forwards": own,
        "profiles": profiles,
        "profile": "a",
    }
    store.set(f"line:{LINE}", json.dumps(stored))
    result = run("check")
    assert (
        f"line {LINE}: profile a: busy to number {premium} (counts as off: premium)" in result.err
    )
    assert "1 forwards to refused numbers" in result.out


def test_the_cap_and_the_usage_count_what_is_abroad(run: Run, store: Any) -> None:
    store.set(f"line:{LINE}", json.dumps(document(BRITISH, max_calls=1)))
    store.zadd(f"live:{LINE}", {"x": 4e9})
    store.set("fleet:acme", json.dumps({"name": "acme", "cap_seconds": 100}))
    used = {"out_of_plan": 30, "international": 40, "satellite": 10, "personal": 10, "free": 999}
    store.hset(f"usage:fleet:acme:{this_month()}", mapping=used)
    answer = run("explain", LINE, "--json").json
    assert answer["lines"][0]["cap_left_s"] == 10
    assert answer["stages"][0]["decision"]["billing"] == "international"
    store.hincrby(f"usage:fleet:acme:{this_month()}", "international_network", 10)
    answer = run("explain", LINE, "--json").json
    assert "the cap of fleet acme is used up" in " ".join(answer["stages"][0]["steps"])
    assert answer["stages"][0]["decision"]["action"] == "reject"
    shown = run("fleet", "show", "acme").out
    assert "left                          0 s" in shown
    assert f"international {this_month()}" in shown
    assert "1 min 40 s" in run("fleet", "list").out
    usage = run("usage", "fleet:acme", "--json").json["usage"]
    assert {name: usage[name] for name in used} == used
    assert "international_network" in run("usage", "fleet:acme").out
