"""The command line: what each command prints, writes and refuses, and its exit status."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
import redis

from engine.cli import main
from engine.commands.documents import Documents
from engine.embedded_redis import reach
from rules.numbers import Numbering
from tests.patience import within

ROOT = Path(__file__).resolve().parents[2]
LINE = "+33972101001"
OTHER = "+33972101002"
DOCUMENT: dict[str, Any] = {
    "number": LINE,
    "fleet": "acme",
    "label": "Accueil",
    "max_calls": 2,
    "crm": {"id": 7},
    "forwards": {"no_answer": {"on": True, "after_s": 25, "to": {"kind": "voicemail"}}},
}
FAX: dict[str, Any] = {"number": OTHER, "fleet": "acme", "offer": {"fax": True}}


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with reach(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def store(server: str) -> Iterator[Any]:
    with redis.Redis.from_url(server, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def run(
    server: str,
    store: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs `renvoi` in an empty directory, `stdin` as its standard input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RENVOI_REDIS_URL", server)

    def call(*arguments: str, stdin: object = "") -> Result:
        text = stdin if isinstance(stdin, str | bytes) else json.dumps(stdin)
        raw = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
        capsys.readouterr()
        status = main(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(status, captured.out, captured.err)

    return call


def refused(result: Result, *texts: str) -> None:
    """Wrong input: status 2 and one line on standard error with these texts."""
    assert result.status == 2, result
    assert result.out == ""
    assert result.err.count("\n") == 1
    for text in texts:
        assert text in result.err


def test_a_document_is_written_under_its_number_with_unknown_fields_kept(
    run: Run, store: Any
) -> None:
    given = DOCUMENT | {"number": "09 72 10 10 01"}
    given["forwards"] = {"busy": {"on": True, "to": {"kind": "number", "number": "0612345678"}}}
    result = run("line", "set", "-", stdin=given)
    assert result.status == 0
    warning = f"renvoi: warning: line {given['number']}: crm: no such field: it is kept"
    assert result.err.startswith(warning)
    assert "in force" in result.out
    stored = json.loads(store.get(f"line:{LINE}"))
    assert stored["number"] == LINE
    assert stored["crm"] == {"id": 7}
    assert stored["forwards"]["busy"]["to"]["number"] == "+33612345678"


@pytest.mark.parametrize("form", ["list", "lines"])
def test_documents_in_one_file_may_name_one_another(
    run: Run, store: Any, tmp_path: Path, form: str
) -> None:
    to_fax = {"unreachable": {"on": True, "to": {"kind": "fax", "number": OTHER}}}
    documents = [DOCUMENT | {"forwards": to_fax}, FAX]
    text = json.dumps(documents) if form == "list" else "\n".join(map(json.dumps, documents))
    (tmp_path / "lines.json").write_text(text)
    assert run("line", "set", "lines.json").status == 0
    assert set(store.keys("line:*")) == {f"line:{LINE}", f"line:{OTHER}"}


def test_of_several_documents_all_are_written_or_none(run: Run, store: Any) -> None:
    bad = FAX | {"max_calls": 0}
    refused(run("line", "set", "-", stdin=[DOCUMENT, bad]), "document 2", OTHER, "max_calls", "0")
    assert store.keys() == []
    refused(run("line", "set", "-", stdin=[DOCUMENT, DOCUMENT]), "number", LINE, "twice")
    assert store.keys() == []


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ({"number": "hello"}, ["number", "hello"]),
        ({"number": None}, ["number"]),
        ({"fleet": 5}, ["fleet", "5"]),
        ({"max_calls": "2"}, ["max_calls", "'2'"]),
        (
            {"forwards": {"busy": {"on": True, "to": {"kind": "fax", "number": OTHER}}}},
            ["forwards.busy.to", OTHER],
        ),
        (
            {"forwards": {"busy": {"on": True, "to": {"kind": "number", "number": LINE}}}},
            ["forwards.busy.to", LINE],
        ),
        (
            {"forwards": {"no_answer": {"on": True, "after_s": 4, "to": {"kind": "voicemail"}}}},
            ["forwards.no_answer.after_s", "4"],
        ),
    ],
)
def test_a_wrong_document_is_refused_by_field_and_value(
    run: Run, store: Any, change: dict[str, Any], texts: list[str]
) -> None:
    refused(run("line", "set", "-", stdin=DOCUMENT | change), *texts)
    assert store.keys() == []


@pytest.mark.parametrize(
    "text",
    ["", "  \n", "{", "[]", "5", '"x"', "[5]", '{"number": "1"}\n{"number":\n', "\x00", "[" * 9999],
)
def test_input_that_is_no_document_is_refused_in_one_line(run: Run, store: Any, text: str) -> None:
    refused(run("line", "set", "-", stdin=text))
    assert store.keys() == []


MISSPELT = {"number": LINE, "fleet": "acme", "max_cals": 2, "x_crm": 7}


def test_a_misspelt_field_is_reported_with_a_suggestion(run: Run, store: Any) -> None:
    written = run("line", "set", "-", "--json", stdin=MISSPELT)
    assert written.status == 0
    assert f"line {LINE}: max_cals: no such field" in written.err
    assert "did you mean max_calls?" in written.err
    assert "x_crm" not in written.err
    assert [each["field"] for each in written.json["unread"]] == ["max_cals"]
    assert json.loads(store.get(f"line:{LINE}")) == MISSPELT
    assert "max_cals" in run("line", "show", LINE).err
    assert f"line {LINE}: max_cals" in run("check").err


def test_an_unknown_field_that_is_no_json_is_told_of(run: Run, store: Any) -> None:
    """Calls do without it, and whoever changes the line learns of it."""
    store.set(f"line:{LINE}", b'{"number": "%b", "fleet": "acme", "crm": "\xe9"}' % LINE.encode())
    store.set("fleet:acme", b'{"name": "acme", "crm": "\xe9"}')
    shown = run("line", "show", LINE)
    assert shown.status == 0
    assert f"line {LINE}: is not JSON" in shown.err
    assert run("fleet", "show", "acme", "--json").json["refused"] == "is no JSON object"
    checked = run("check")
    assert checked.status == 1
    assert f"1 of 1 lines refused, line {LINE}: is not JSON" in checked.out
    refused(run("forward", "set", LINE, "busy", "voicemail"), f"line {LINE}: is not JSON")


def test_a_fleet_that_is_nested_too_deeply_is_refused(run: Run, store: Any) -> None:
    deep = '{"name": "acme", "x_crm": ' + "[" * 300 + "]" * 300 + "}"
    refused(run("fleet", "set", "-", stdin=deep), "fleet acme")
    assert not store.exists("fleet:acme")


def test_strict_refuses_what_nothing_reads(run: Run, store: Any) -> None:
    refused(run("line", "set", "-", "--strict", stdin=MISSPELT), LINE, "max_cals", "max_calls?")
    fleet = {"name": "acme", "cap_second": 5}
    refused(run("fleet", "set", "-", "--strict", stdin=fleet), "acme", "cap_second", "cap_seconds?")
    assert store.keys() == []
    assert run("line", "set", "-", "--strict", stdin={**FAX, "x_crm": 7}).status == 0
    assert "cap_second" in run("fleet", "set", "-", stdin=fleet).err


def test_an_import_lists_what_nothing_reads_each_once(run: Run, store: Any, tmp_path: Path) -> None:
    rows = [MISSPELT, FAX, {**FAX, "number": "+33972101003", "max_cals": 1, "offer": {"Fax": 1}}]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, rows)))
    strict = run("line", "import", "lines.jsonl", "--strict")
    assert strict.status == 2
    assert "lines.jsonl, line 1: max_cals: no such field" in strict.err
    assert "lines.jsonl, line 3: offer.Fax: no such field" in strict.err
    assert store.keys() == []
    done = run("line", "import", "lines.jsonl", "--json")
    assert done.status == 0
    assert done.err.count("max_cals:") == 1
    assert "did you mean max_calls? (1 more)" in done.err
    assert "did you mean offer.fax?" in done.err
    assert [each["documents"] for each in done.json["unread"]] == [2, 1]
    assert len(store.keys("line:*")) == 3


def test_a_target_in_redis_is_looked_at(run: Run, store: Any) -> None:
    to_fax = {"busy": {"on": True, "to": {"kind": "fax", "number": OTHER}}}
    store.set(f"line:{OTHER}", json.dumps(FAX | {"fleet": "others"}))
    refused(run("line", "set", "-", stdin=DOCUMENT | {"forwards": to_fax}), "forwards.busy", OTHER)
    store.set(f"line:{OTHER}", json.dumps(FAX))
    assert run("line", "set", "-", stdin=DOCUMENT | {"forwards": to_fax}).status == 0


def test_show_has_text_and_json(run: Run, store: Any) -> None:
    store.set(f"line:{LINE}", json.dumps(DOCUMENT))
    people = run("line", "show", "0033 972 10 10 01")
    assert people.status == 0
    assert LINE in people.out
    assert "voicemail after 25 s" in people.out
    assert run("line", "show", LINE, "--json").json == DOCUMENT
    again = run("line", "set", "-", stdin=run("line", "show", LINE, "--json").out)
    assert again.status == 0


def test_list_names_all_lines_and_marks_the_bad_ones(run: Run, store: Any) -> None:
    assert run("line", "list").status == 0
    assert run("line", "list", "--json").json == []
    store.set(f"line:{LINE}", json.dumps(DOCUMENT))
    store.set(f"line:{OTHER}", "not json")
    rows = run("line", "list").out.splitlines()
    assert len(rows) == 3
    assert "no_answer: voicemail after 25 s" in rows[1]
    assert rows[2].startswith(OTHER)
    assert "REFUSED" in rows[2]
    listed = run("line", "list", "--json").json
    assert listed[0] == DOCUMENT
    assert listed[1]["number"] == OTHER


def test_delete_warns_of_lines_that_forward_there(run: Run, store: Any) -> None:
    forwards = {"busy": {"on": True, "to": {"kind": "number", "number": OTHER}}}
    store.set(f"line:{LINE}", json.dumps(DOCUMENT | {"forwards": forwards}))
    store.set(f"line:{OTHER}", json.dumps(FAX))
    result = run("line", "delete", OTHER)
    assert result.status == 0
    assert LINE in result.err
    assert store.keys("line:*") == [f"line:{LINE}"]
    refused(run("line", "delete", OTHER), OTHER)


@pytest.mark.parametrize(
    "arguments",
    [
        ("line", "show", LINE),
        ("line", "delete", LINE),
        ("forward", "show", LINE),
        ("forward", "set", LINE, "busy", "voicemail"),
        ("forward", "off", LINE, "busy"),
        ("explain", LINE),
    ],
)
def test_an_unknown_line_is_wrong_input(run: Run, store: Any, arguments: tuple[str, ...]) -> None:
    refused(run(*arguments), LINE, "unknown line")
    assert store.keys() == []


@pytest.mark.parametrize(
    ("dest", "to"),
    [
        ("voicemail", {"kind": "voicemail", "number": LINE}),
        ("voicemail:0972101002", {"kind": "voicemail", "number": OTHER}),
        ("fax:+33972101002", {"kind": "fax", "number": OTHER}),
        ("number:06 12 34 56 78", {"kind": "number", "number": "+33612345678"}),
        ("06 12 34 56 78", {"kind": "number", "number": "+33612345678"}),
        ("+33612345678", {"kind": "number", "number": "+33612345678"}),
        ("Voicemail", {"kind": "voicemail", "number": LINE}),
    ],
)
def test_forward_set_changes_that_forward_and_nothing_else(
    run: Run, store: Any, dest: str, to: dict[str, str]
) -> None:
    store.set(f"line:{LINE}", json.dumps(DOCUMENT))
    store.set(f"line:{OTHER}", json.dumps(FAX))
    result = run("forward", "set", "0972101001", "busy", dest)
    assert (result.status, result.err) == (0, "")
    assert "in force" in result.out
    stored = json.loads(store.get(f"line:{LINE}"))
    assert stored["forwards"].pop("busy") == {"on": True, "to": to}
    assert stored == DOCUMENT


@pytest.mark.parametrize("condition", ["no-answer", "NO_ANSWER", "No-Answer"])
def test_a_condition_is_understood_however_it_is_written(
    run: Run, store: Any, condition: str
) -> None:
    store.set(f"line:{LINE}", json.dumps(DOCUMENT))
    assert run("forward", "set", LINE, condition, "voicemail", "--after", "40").status == 0
    stored = json.loads(store.get(f"line:{LINE}"))["forwards"]
    to = {"kind": "voicemail", "number": LINE}
    assert stored == {"no_answer": {"on": True, "after_s": 40, "to": to}}
    assert run("forward", "off", LINE, condition).status == 0
    assert run("cdr", "--condition", condition).status == 0
    Path("lines.csv").write_text(f"number,fleet,{condition}\n{OTHER},acme,on 0612345678\n")
    assert run("line", "import", "lines.csv").status == 0
    to = json.loads(store.get(f"line:{OTHER}"))["forwards"]["no_answer"]["to"]
    assert to == {"kind": "number", "number": "+33612345678"}


def test_a_condition_that_is_none_is_refused_with_the_one_that_may_be_meant(
    run: Run, store: Any
) -> None:
    for command in (("forward", "set", LINE, "unreacheable", "voicemail"),
                    ("forward", "off", LINE, "unreacheable"),
                    ("cdr", "--condition", "unreacheable")):  # fmt: skip
        refused(run(*command), "unreacheable", "did you mean unreachable?")
    refused(run("forward", "off", LINE, "never"), "never", "unconditional", "all")
    refused(run("cdr", "--outcome", "anwsered"), "did you mean answered?")


def test_off_all_turns_every_forward_off_and_keeps_the_targets(run: Run, store: Any) -> None:
    number = {"kind": "number", "number": "+33612345678"}
    forwards = {
        "unconditional": {"on": False, "to": number},
        "busy": {"on": True, "to": number, "note": 1},
        "no_answer": {"on": True, "after_s": 30, "to": number},
    }
    store.set(f"line:{LINE}", json.dumps(DOCUMENT | {"forwards": forwards}))
    result = run("forward", "off", LINE, "all")
    assert result.status == 0
    assert result.out.startswith(f"{LINE} all: off (busy, no_answer before)")
    stored = json.loads(store.get(f"line:{LINE}"))["forwards"]
    assert stored == {name: forward | {"on": False} for name, forward in forwards.items()}
    again = run("forward", "off", LINE, "all", "--json")
    assert again.json["were_on"] == []
    store.set(f"line:{OTHER}", json.dumps(FAX))
    assert run("forward", "off", OTHER, "ALL").status == 0
    assert "forwards" not in json.loads(store.get(f"line:{OTHER}"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"forwards": {"no_answer": {"on": True, "after_s": 90}}}, "expected 5 to 60 seconds"),
        ({"offer": {"mobile": "some"}}, "expected one of hours, none, unlimited"),
        ({"offer": {"mobile_hours": 800}}, "expected 0 to 744 hours"),
        ({"suspended": "no"}, "expected true or false"),
        ({"max_calls": "2"}, "expected a whole number from 1"),
        ({"label": 7}, "expected text"),
        ({"offer": True}, "expected a JSON object"),
        (
            {"forwards": {"busy": {"on": True, "to": {"kind": "number", "number": "0899123456"}}}},
            "premium numbers cannot be targets",
        ),
    ],
)
def test_an_error_describes_the_expected_value_without_python_types(
    run: Run, store: Any, change: dict[str, Any], text: str
) -> None:
    result = run("line", "set", "-", stdin=DOCUMENT | change)
    refused(result, text)
    for word in ("`", "enum", "int", "str,", "bool", "null"):
        assert word not in result.err.replace("expected", "")


def test_no_answer_keeps_its_delay_or_takes_twenty_seconds(run: Run, store: Any) -> None:
    def delay() -> Any:
        return json.loads(store.get(f"line:{LINE}"))["forwards"]["no_answer"]["after_s"]

    store.set(f"line:{LINE}", json.dumps(DOCUMENT))
    run("forward", "set", LINE, "no_answer", "number:0612345678")
    assert delay() == 25
    run("forward", "set", LINE, "no_answer", "voicemail", "--after", "60")
    assert delay() == 60
    store.set(f"line:{LINE}", json.dumps(DOCUMENT | {"forwards": None}))
    answer = run("forward", "set", LINE, "no_answer", "voicemail", "--json").json
    assert (delay(), answer["after_s"]) == (20, 20)


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("no_answer", "voicemail", "--after", "61"), ["--after", "5 to 60 seconds", "61"]),
        (("no_answer", "voicemail", "--after", "x"), ["--after", "x"]),
        (("busy", "voicemail", "--after", "20"), ["--after", "20"]),
        (("sometimes", "voicemail"), ["CONDITION", "sometimes"]),
        (("busy", "mailbox"), ["DEST", "mailbox"]),
        (("busy", "fax"), ["DEST", "fax"]),
        (("busy", "061234"), ["DEST", "too short", "061234"]),
        (("busy", "number:"), ["DEST", "number:"]),
        (("busy", "number:hello"), ["DEST", "hello"]),
        (("busy", "number:112"), ["forwards.busy.to", "112"]),
        (("busy", "number:0899123456"), ["forwards.busy.to", "+33899123456"]),
        (("busy", "number:+4990012345670"), ["forwards.busy.to", "+4990012345670", "premium"]),
        (("busy", "number:+4911833"), ["forwards.busy.to", "+4911833", "short"]),
        (("busy", "number:+33 112"), ["forwards.busy.to", "112", "emergency"]),
        (("busy", "number:tel:15"), ["forwards.busy.to", "15", "emergency"]),
        (("busy", "number:0811123456"), ["forwards.busy.to", "+33811123456", "shared-cost"]),
        (("busy", "number:0700000001"), ["forwards.busy.to", "+33700000001", "also_valid"]),
        (("busy", "number:+33612345678;ext=4"), ["DEST", "extension"]),
        (("busy", "voicemail:+33972109999"), ["forwards.busy.to", "+33972109999"]),
        (("busy", f"number:{LINE}"), ["forwards.busy.to", LINE]),
        (("busy",), ["DEST"]),
    ],
)
def test_a_wrong_forward_is_refused_and_changes_nothing(
    run: Run, store: Any, arguments: tuple[str, ...], texts: list[str]
) -> None:
    before = json.dumps(DOCUMENT)
    store.set(f"line:{LINE}", before)
    refused(run("forward", "set", LINE, *arguments), *texts)
    assert store.get(f"line:{LINE}") == before


def test_forward_off_keeps_the_target_even_when_that_is_gone(run: Run, store: Any) -> None:
    forwards = {"busy": {"on": True, "to": {"kind": "fax", "number": OTHER}, "note": "x"}}
    store.set(f"line:{LINE}", json.dumps(DOCUMENT | {"forwards": forwards}))
    assert run("forward", "off", LINE, "busy").status == 0
    stored = json.loads(store.get(f"line:{LINE}"))["forwards"]["busy"]
    assert stored == {"on": False, "to": {"kind": "fax", "number": OTHER}, "note": "x"}
    shown = run("forward", "show", LINE, "--json").json
    assert list(shown) == ["unconditional", "busy", "no_answer", "unreachable"]
    assert shown["busy"] == stored
    assert shown["unreachable"] == {"on": False}


@pytest.mark.parametrize("kind", ["voicemail", "fax"])
def test_a_forward_that_is_off_hinders_no_change(run: Run, store: Any, kind: str) -> None:
    """Its target is another line's mailbox or fax, which a change looks up too."""
    run("line", "set", "-", stdin=[DOCUMENT, FAX])
    assert run("forward", "set", LINE, "busy", f"{kind}:{OTHER}").status == 0
    assert run("forward", "off", LINE, "busy").status == 0
    assert run("forward", "set", LINE, "no_answer", "voicemail").status == 0
    assert run("forward", "set", LINE, "unconditional", "number:0612345678").status == 0
    stored = json.loads(store.get(f"line:{LINE}"))
    assert run("line", "set", "-", stdin=stored).status == 0
    # A target that became invalid does not either: it is checked when it is turned on again.
    assert run("line", "delete", OTHER).status == 0
    assert run("forward", "set", LINE, "unreachable", "voicemail").status == 0
    refused(run("forward", "set", LINE, "busy", f"{kind}:{OTHER}"), "forwards.busy.to", OTHER)
    refused(run("line", "set", "-", stdin=stored), "forwards.busy.to", OTHER)


def test_every_change_is_in_the_log_of_changes(run: Run, store: Any) -> None:
    secret = {"credentials": {"user": "u", "ha1": "hidden"}}
    run("line", "set", "-", stdin=[DOCUMENT | secret, FAX])
    run("forward", "set", LINE, "busy", "voicemail")
    run("forward", "set", LINE, "busy", "voicemail")  # no change
    run("forward", "off", LINE, "busy")
    run("line", "set", "-", stdin=FAX | {"fleet": "globex"})
    run("line", "delete", OTHER)
    acme = [entry for _, entry in store.xrange("audit:acme")]
    entries = [(entry["line"], entry["what"]) for entry in acme]
    assert entries == [
        (LINE, "created"), (OTHER, "created"), (LINE, "forwards"), (LINE, "forwards"),
        (OTHER, "line"),
    ]  # fmt: skip
    assert {entry["how"] for entry in acme} == {"cli"}
    assert all(entry["who"] for entry in acme)
    busy = {"on": True, "to": {"kind": "voicemail", "number": LINE}}
    assert json.loads(acme[2]["from"]) == {"forwards": {}}
    assert json.loads(acme[2]["to"]) == {"forwards": {"busy": busy}}
    assert json.loads(acme[3]["to"]) == {"forwards": {"busy": busy | {"on": False}}}
    assert "hidden" not in str(acme)
    globex = [entry["what"] for _, entry in store.xrange("audit:globex")]
    assert globex == ["line", "deleted"]


def test_a_change_made_meanwhile_is_not_lost(store: Any) -> None:
    store.set(f"line:{LINE}", json.dumps(DOCUMENT))
    meanwhile = iter([{"label": "first"}, {"label": "second"}])

    def change(document: dict[str, Any]) -> None:
        document["suspended"] = True
        other = next(meanwhile, None)
        if other:  # another program writes between our read and our write
            store.set(f"line:{LINE}", json.dumps(DOCUMENT | other))

    client = redis.Redis.from_url("unix://" + store.connection_pool.connection_kwargs["path"])
    with client:
        Documents(client, Numbering("FR")).edit(LINE, change)
    stored = json.loads(store.get(f"line:{LINE}"))
    assert (stored["label"], stored["suspended"]) == ("second", True)


def test_a_document_that_contradicts_its_key_is_not_edited(run: Run, store: Any) -> None:
    store.set(f"line:{OTHER}", json.dumps(DOCUMENT))
    refused(run("forward", "set", OTHER, "busy", "voicemail"), "number", LINE)
    assert store.keys() == [f"line:{OTHER}"]


def test_explain_uses_what_redis_holds_now(run: Run, store: Any) -> None:
    forwards = {
        "busy": {"on": True, "to": {"kind": "number", "number": OTHER}},
        "no_answer": DOCUMENT["forwards"]["no_answer"],
    }
    store.set(f"line:{LINE}", json.dumps(DOCUMENT | {"forwards": forwards}))
    store.set(f"line:{OTHER}", json.dumps(FAX))
    assert run("explain", LINE, "--json").json["stages"][0]["decision"] == {
        "action": "reject",
        "code": 480,
        "condition": "unreachable",
        "why": "unreachable",
    }
    now = time.time()
    store.zadd(f"reg:{LINE}", {"sip:a@127.0.0.1": now + 60})
    store.zadd(f"reg:{OTHER}", {"sip:b@127.0.0.1": now - 1})
    stages = run("explain", LINE, "--json").json["stages"]
    assert stages[0]["decision"] == {"action": "ring", "after_s": 25}
    busy = next(stage for stage in stages if "busy" in stage["when"])
    assert (busy["decision"]["kind"], busy["decision"]["number"]) == ("line", OTHER)
    there = stages[stages.index(busy) + 1]
    assert (there["number"], there["decision"]["code"]) == (OTHER, 480)

    assert [facts["contacts"] for facts in run("explain", LINE, "--json").json["lines"]] == [1, 0]

    store.zadd(f"live:{LINE}", {"a": now + 60, "b": now + 60, "lapsed": now - 1})
    assert run("explain", LINE, "--json").json["stages"][0]["decision"]["condition"] == "busy"
    text = run("explain", LINE, "--from", OTHER).out
    assert "2 of 2 in progress" in text
    assert f"the caller {OTHER} is its target" in text
    refused(run("explain", LINE, "--from", "me"), "--from", "me")


CALL: dict[str, Any] = {
    "id": "1",
    "called": LINE,
    "state": "answered",
    "received": time.time() - 65.4,
    "legs": [{"role": role, "number": LINE} for role in ("voicemail", "line")],
}


def test_calls_come_from_every_worker(run: Run, tmp_path: Path) -> None:
    class Admin(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps([CALL]).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Admin) as admin:
        thread = threading.Thread(target=admin.serve_forever)
        thread.start()
        config = tmp_path / "config.yaml"
        config.write_text(f"admin: {{listen: '127.0.0.1:{admin.server_port}'}}")
        try:
            (shown,) = run("calls", "--json").json
            received = datetime.fromtimestamp(CALL["received"], ZoneInfo("Europe/Paris"))
            assert shown == CALL | {"received_at": received.isoformat(timespec="milliseconds")}
            head, row = run("calls").out.splitlines()
            assert head.split()[2:6] == ["SECONDS", "STATE", "CALLER", "CALLED"]
            assert head.startswith("RECEIVED (Europe/Paris)  ")
            day, clock, seconds, *rest = row.split()
            assert f"{day} {clock}" == received.strftime("%Y-%m-%d %H:%M:%S")
            assert int(seconds) >= 65
            assert rest[:3] == ["answered", "-", LINE]
            assert f"voicemail {LINE}, line {LINE}" in row
        finally:
            admin.shutdown()
            thread.join()
    silent = run("calls")
    assert silent.status == 1
    assert f"127.0.0.1:{admin.server_port}" in silent.err


def test_records_are_shown_and_foreign_entries_skipped(run: Run, store: Any) -> None:
    assert run("cdr").out == "no records yet\n"
    assert run("cdr", "--json").out == ""
    fields = {
        "id": "1",
        "call_id": "c",
        "caller": "+33612345678",
        "called": LINE,
        "received": "1700000000.5",
        "rang": "",
        "answered": "",
        "ended": "1700000001",
        "condition": "busy",
        "destination": "voicemail",
        "target": LINE,
        "outcome": "answered",
        "code": "200",
        "q850": "",
        "why": "",
        "seconds": "12",
        "payer": LINE,
        "billing": "free",
        "forwards": "[]",
        "legs": "[]",
    }
    store.xadd("cdr", {"something": "else"})
    store.xadd("cdr", fields)
    result = run("cdr", "--json")
    assert result.json["called"] == LINE
    assert "cdr entry" in result.err
    rows = run("cdr", "--last", "1").out.splitlines()
    assert len(rows) == 2
    assert "voicemail" in rows[1]


def test_config_is_taken_before_and_after_the_command_or_from_the_environment_and_must_exist(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (("--config", "no.yaml", "line", "list"), ("cdr", "--config", "no.yaml")):
        refused(run(*arguments), "no.yaml")
    monkeypatch.setenv("RENVOI_CONFIG", "elsewhere.yaml")
    refused(run("line", "list"), "elsewhere.yaml")
    (tmp_path / "good.yaml").write_text("workers: 1")
    assert run("line", "list", "--config", "good.yaml").status == 0
    assert run("--config", "good.yaml", "line", "list").status == 0
    monkeypatch.setenv("RENVOI_CONFIG", "good.yaml")
    assert run("line", "list").status == 0
    (tmp_path / "bad.yaml").write_text("timers: {max_ring_s: soon}")
    for command in (["check"], ["serve"], ["demo"], ["line", "list"], ["calls"], ["explain", LINE]):
        refused(run(*command, "--config", "bad.yaml"), "timers.max_ring_s", "'soon'")


@pytest.mark.parametrize(
    ("group", "command"), [("manager", ("account", "list")), ("notify", ("waiting",))]
)
def test_config_of_a_group_that_is_a_command_too_holds_for_the_commands_in_it(
    run: Run, tmp_path: Path, group: str, command: tuple[str, ...]
) -> None:
    """A command never uses another file than the one that was named, such as config.yaml here."""
    (tmp_path / "good.yaml").write_text("workers: 1")
    (tmp_path / "config.yaml").write_text("timers: {max_ring_s: soon}")
    named = ("--config", "good.yaml")
    for arguments in ((group, *named, *command), (group, *command, *named)):
        assert run(*arguments).status == 0, arguments
    assert run("--config", "config.yaml", group, *named, *command).status == 0
    refused(run(group, *named, *command, "--config", "config.yaml"), "timers.max_ring_s")
    for arguments in ((group,), (group, *command)):
        refused(run(*arguments), "timers.max_ring_s", "'soon'")
        assert run(*arguments, "--help").status == 0


@pytest.mark.parametrize(
    "arguments", [("fly",), ("line",), (), ("line", "show"), ("cdr", "--last", "-1"), ("--nope",)]
)
def test_usage_errors_are_status_2(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("lines",), "Did you mean line?"),
        (("line", "improt", "x"), "Did you mean import?"),
        (("completion", "bsh"), "expected one of bash, zsh, fish, did you mean bash? (got 'bsh')"),
        (("line", "import", "-", "--format", "jsnl"), "did you mean jsonl?"),
    ],
)
def test_a_misspelt_argument_is_answered_with_a_suggestion(
    run: Run, arguments: tuple[str, ...], text: str
) -> None:
    refused(run(*arguments), text)


@pytest.mark.parametrize(
    "arguments",
    [
        ("line", "list"),
        ("forward", "set", LINE, "busy", "voicemail"),
        ("cdr",),
        ("cdr", "--follow"),
    ],
)
def test_redis_away_is_a_failure_that_keeps_the_secret(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("RENVOI_REDIS_URL", "redis://:hunter2@127.0.0.1:1")
    result = run(*arguments)
    assert (result.status, result.out, result.err.count("\n")) == (1, "", 1)
    assert "127.0.0.1:1" in result.err
    assert "hunter2" not in result.err


def test_a_key_of_another_type_is_a_failure_in_one_line(run: Run, store: Any) -> None:
    store.lpush(f"line:{LINE}", "x")
    result = run("line", "show", LINE)
    assert (result.status, result.err.count("\n")) == (1, 1)
    assert "WRONGTYPE" in result.err


def test_check_reports_each_item_in_a_line(run: Run, store: Any, tmp_path: Path) -> None:
    # Other engines may run on this machine: use any free port.
    free = "sip: {listen: ['udp:127.0.0.1:0']}\nadmin: {listen: '127.0.0.1:0'}\n"
    (tmp_path / "config.yaml").write_text(free)
    result = run("check")
    assert result.status == 0, result
    assert [line.split()[:2] for line in result.out.splitlines()] == [
        ["ok", "config"],
        ["ok", "sip"],
        ["ok", "tls"],
        ["ok", "redis"],
        ["ok", "ports"],
        ["ok", "destinations"],
    ]
    store.set(f"line:{LINE}", json.dumps(DOCUMENT | {"max_calls": 0}))
    result = run("check", "--json")
    failed = [check for check in result.json if not check["ok"]]
    assert result.status == 1
    assert [check["check"] for check in failed] == ["redis"]
    assert "max_calls" in failed[0]["detail"]


def test_check_goes_on_when_the_embedded_redis_cannot_be_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free = "sip: {listen: ['udp:127.0.0.1:0']}\nadmin: {listen: '127.0.0.1:0'}\n"
    (tmp_path / "config.yaml").write_text(free)
    monkeypatch.setenv("RENVOI_REDIS_URL", "embedded")
    monkeypatch.setattr("engine.embedded_redis.program", lambda: str(tmp_path / "config.yaml"))
    result = run("check", "--json")
    failed = [check["check"] for check in result.json if not check["ok"]]
    assert (result.status, failed, len(result.json)) == (1, ["redis"], 6)
    assert "cannot run" in result.out


def test_a_time_for_a_condition_that_does_not_wait_is_reported(run: Run, store: Any) -> None:
    busy = {"on": True, "after_s": 20, "to": {"kind": "voicemail"}}
    document = DOCUMENT | {"forwards": {"busy": busy}, "crm": None}
    done = run("line", "set", "-", stdin=document)
    assert done.status == 0
    assert "forwards.busy.after_s: no such field: it is kept and has no effect" in done.err
    assert "did you mean forwards.no_answer.after_s?" in done.err
    assert json.loads(store.get(f"line:{LINE}"))["forwards"] == {"busy": busy}
    assert "busy" in run("line", "show", LINE).out
    refused(run("line", "set", "-", "--strict", stdin=document), "forwards.busy.after_s")


def test_an_error_of_the_system_is_one_line_without_its_number() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "engine.cli", "completion", "bash"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, text=True)
    assert (done.returncode, done.stderr) == (1, "renvoi: No space left on device\n")


def test_an_error_of_the_system_without_text_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(Documents, "raw", fail)
    result = run("line", "show", LINE)
    assert (result.status, result.err) == (1, "renvoi: TimeoutError\n")


def test_check_names_fleets_whose_document_is_refused(run: Run, store: Any, tmp_path: Path) -> None:
    """After a start, an engine refuses all calls of their lines (500)."""
    free = "sip: {listen: ['udp:127.0.0.1:0']}\nadmin: {listen: '127.0.0.1:0'}\n"
    (tmp_path / "config.yaml").write_text(free)
    store.set(f"line:{LINE}", json.dumps({"number": LINE, "fleet": "acme"}))
    store.set("fleet:acme", json.dumps({"name": "acme", "cap_second": 3600}))
    result = run("check")
    assert result.status == 0, result
    assert "fleet acme: cap_second: no such field" in result.err
    assert "did you mean cap_seconds?" in result.err
    store.set("fleet:acme", json.dumps({"name": "acme", "suspended": "yes"}))
    store.set("fleet:globex", "{")
    for lines in ("", f"1 of 2 lines refused, line {OTHER}: max_calls: "):
        result = run("check", "--json")
        (failed,) = [check["detail"] for check in result.json if not check["ok"]]
        assert result.status == 1
        assert lines in failed
        assert "2 of 2 fleets refused, fleet acme: suspended: " in failed
        assert failed.endswith(" and 1 more")
        store.set(f"line:{OTHER}", json.dumps(FAX | {"max_calls": 0}))


@pytest.mark.parametrize(
    ("closed", "command"),
    [
        (">&-", ["line", "list"]),
        ("2>&-", ["line", "import", "-"]),
        ("<&-", ["forward", "show", OTHER]),
        (">&- 2>&-", ["line", "export"]),
        ("<&- >&- 2>&-", ["register", OTHER, "sip:phone@192.0.2.1"]),
    ],
)
def test_a_closed_stream_is_no_fault(
    server: str, store: Any, tmp_path: Path, closed: str, command: list[str]
) -> None:
    store.set(f"line:{OTHER}", json.dumps(FAX))
    program = [sys.executable, "-m", "engine.cli", *command]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *program],
        cwd=tmp_path,
        env=os.environ | {"RENVOI_REDIS_URL": server, "PYTHONPATH": str(ROOT)},
        input=json.dumps(FAX),
        capture_output=True,
        text=True,
        timeout=within(20),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "command",
    [[], ["line"], ["line", "set"], ["forward"], ["forward", "set"], ["explain"], ["cdr"]],
)
def test_help_has_an_example(run: Run, command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.status == 0
    assert "Usage: renvoi" in result.out
    assert "  renvoi " in result.out  # an example to copy


def test_line_ha1_prints_what_to_keep_of_a_password(run: Run) -> None:
    kept = {"user": "Mufasa", "ha1": hashlib.md5(b"Mufasa:renvoi:Circle of Life").hexdigest()}
    strong = {"ha1_sha256": hashlib.sha256(b"Mufasa:renvoi:Circle of Life").hexdigest()}
    for options, expected in (((), kept), (("--sha256",), kept | strong)):
        done = run("line", "ha1", "Mufasa", *options, stdin="Circle of Life\n")
        assert done.status == 0
        assert json.loads(done.out.partition("{")[1] + done.out.partition("{")[2]) == expected
    assert run("line", "ha1", "a:b", "--password", "x").status == 2


@pytest.mark.parametrize("given", [{"stdin": ""}, {"stdin": "\n"}])
def test_line_ha1_makes_no_credentials_of_an_empty_password(run: Run, given: Any) -> None:
    """Anybody could register with them."""
    refused(run("line", "ha1", "Mufasa", **given), "password", "empty")
    refused(run("line", "ha1", "Mufasa", "--password", ""), "password", "empty")


@pytest.mark.parametrize(
    "command",
    [
        ("line", "password", LINE),
        ("line", "ha1", "accueil"),
        ("manager", "account", "add", "marie", "--operator"),
    ],
)
def test_a_password_that_is_no_utf_8_is_refused_by_name(
    run: Run, store: Any, command: tuple[str, ...]
) -> None:
    run("line", "set", "-", stdin=DOCUMENT)
    refused(run(*command, stdin="clé très secrète\n".encode("latin-1")), "password", "UTF-8")
    assert "credentials" not in json.loads(store.get(f"line:{LINE}"))
    assert not store.keys("manager:account:*")


def test_an_authority_of_notifications_that_is_none_is_named(
    run: Run, store: Any, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    settings = "notify: {tls_ca: ca.pem, admin_listen: '127.0.0.1:0'}"
    (tmp_path / "config.yaml").write_text(settings)
    refused(run("notify"), "notify.tls_ca: cannot be used", "(got 'ca.pem')")
    notify = {"webhook": {"url": "https://crm.example.com"}}
    store.set("fleet:acme", json.dumps({"name": "acme", "notify": notify}))
    result = run("notify", "test", "acme")
    assert (result.status, result.out, result.err.count("\n")) == (1, "", 1)
    assert "notify.tls_ca: cannot be used" in result.err


def test_a_phone_is_registered_replaced_and_removed_by_hand(run: Run, store: Any) -> None:
    run("line", "set", "-", stdin=DOCUMENT)
    answer = run("register", LINE, "sip:a@192.0.2.1:5062", "--for", "60", "--json").json
    assert answer["contacts"] == [{"contact": "sip:a@192.0.2.1:5062", "expires_in_s": 60}]
    behind = '<sip:b@10.0.0.1>;path="<sip:edge.example;lr>";q=0.5'
    assert run("register", "0972101001", behind).status == 0
    # An equivalent URI replaces the earlier one.
    assert run("register", LINE, "SIP:a@192.0.2.1:5062", "--for", "120").status == 0
    kept = dict(store.zrange(f"reg:{LINE}", 0, -1, withscores=True))
    assert set(kept) == {"SIP:a@192.0.2.1:5062", behind}
    assert 110 < kept["SIP:a@192.0.2.1:5062"] - time.time() <= 120
    assert "contacts" not in run("explain", LINE).err
    assert "1 contact\n" in run("register", LINE, "sip:a@192.0.2.1:5062", "--for", "0").out
    assert store.zrange(f"reg:{LINE}", 0, -1) == [behind]


def test_a_registration_by_hand_that_cannot_work_is_refused(run: Run, store: Any) -> None:
    run("line", "set", "-", stdin=DOCUMENT)
    refused(run("register", OTHER, "sip:a@192.0.2.1"), OTHER, "unknown line")
    refused(run("register", LINE, "http://192.0.2.1"), "contact", "http://192.0.2.1")
    refused(run("register", LINE, "<sip:a@h>;q=7"), "q", "7")
    refused(run("register", LINE, "sip:a@192.0.2.1", "--for", "-1"), "--for", "-1")
    assert store.exists(f"reg:{LINE}") == 0


def test_the_trial_of_new_code_needs_redis(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGUSR2: without Redis the new process would not start, and nothing may be replaced."""
    monkeypatch.setenv("RENVOI_PROBE", "1")
    assert run("serve").status == 0
    monkeypatch.setenv("RENVOI_PROBE", "1")
    monkeypatch.setenv("RENVOI_REDIS_URL", "redis://u:secret@127.0.0.1:1")
    tried = run("serve")
    assert tried.status == 1
    assert tried.err.splitlines()[-1].startswith("redis.url: cannot reach redis://***@127.0.0.1:1")
    assert "secret" not in tried.err


def test_the_trial_of_new_code_needs_a_supervisor_where_there_was_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single worker would find the ports of the first one in use, and the engine would end."""
    Path("config.yaml").write_text("workers: 1\n", encoding="utf-8")
    monkeypatch.setenv("RENVOI_PROBE", "2")
    tried = run("serve")
    assert (tried.status, tried.err) == (1, "workers: a change from 2 to 1 needs a restart\n")
    monkeypatch.setenv("RENVOI_PROBE", "1")
    assert run("serve").status == 0
