"""`renvoi audit`, `renvoi line password`, and unknown names of fleets."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from store.audit import entry
from tests.unit.test_cli import DOCUMENT, FAX, LINE, OTHER, Run, refused, run, server, store

__all__ = ["run", "server", "store"]

GLOBEX: dict[str, Any] = {"number": "+33972101009", "fleet": "globex"}


def changes(run: Run, *arguments: str) -> list[tuple[str, str]]:
    """Line and change of each row of the table."""
    head, *rows = run("audit", *arguments).out.splitlines()
    place = head.index("LINE")
    return [(row[place : place + 12], row[head.index("CHANGE") :]) for row in rows]


def test_audit_shows_who_changed_what_of_all_fleets_in_order_of_time(run: Run, store: Any) -> None:
    assert run("audit").out == "no such changes\n"
    run("line", "set", "-", stdin=DOCUMENT)
    run("line", "set", "-", stdin=GLOBEX)
    run("forward", "set", LINE, "busy", "0612345678")
    run("line", "set", "-", stdin=DOCUMENT | {"max_calls": 3})
    run("fleet", "set", "-", stdin={"name": "globex", "suspended": True})
    run("line", "delete", LINE)
    shown = run("audit")
    assert shown.out.startswith("WHEN (Europe/Paris)  FLEET")
    lines = changes(run)
    assert [line.strip() for line, _ in lines] == [LINE, GLOBEX["number"], LINE, LINE, "-", LINE]
    assert "created: " in lines[0][1]
    assert "max_calls 2" in lines[0][1]
    assert lines[2][1] == "busy off -> number +33612345678"
    assert lines[3][1] == "busy number +33612345678 -> off, max_calls 2 -> 3"
    assert lines[4][1].startswith("fleet: ")
    assert lines[5][1] == "deleted"
    assert changes(run, "--last", "2") == lines[-2:]
    assert changes(run, "--fleet", "globex") == [lines[1], lines[4]]
    assert changes(run, "--line", "0972101001", "--last", "1") == [lines[5]]
    assert changes(run, "--since", "1h") == lines
    for ago in ("99999999d", "9" * 400 + "d"):  # before there was a calendar, or a number
        assert changes(run, "--since", ago) == lines
    assert run("audit", "--until", "1h").out == "no such changes\n"
    assert run("audit", "--who", "nobody").out == "no such changes\n"


def test_audit_tells_of_accounts_and_of_who_saw_the_page(run: Run, store: Any) -> None:
    """What the page writes that is no change of a document (manager/accounts_page.py,
    operator_pages.py)."""
    for what, after in (
        ("account", {"account": "paul", "did": "made"}),
        ("account", {"account": "paul", "did": "password"}),
        ("account", {"account": "paul", "did": "deleted"}),
        ("seen", {"account": "paul", "fleet": "acme"}),
        ("seen", {"account": "", "fleet": "acme"}),
    ):
        store.xadd("audit:acme", entry("support", "page", "", what, {}, after))
    assert [change for _, change in changes(run)] == [
        "account paul: made",
        "account paul: new password",
        "account paul: deleted",
        "page seen as account paul",
        "page seen as its administrator",
    ]


def test_audit_as_json_has_iso_times_and_what_differs(run: Run, store: Any) -> None:
    run("line", "set", "-", stdin=DOCUMENT)
    run("forward", "off", LINE, "no-answer")
    created, changed = run("audit", "--json").json
    at = datetime.fromtimestamp(changed["at"], ZoneInfo("Europe/Paris"))
    assert changed["at_iso"] == at.isoformat(timespec="milliseconds")
    assert (changed["fleet"], changed["how"], changed["what"]) == ("acme", "cli", "forwards")
    assert changed["before"]["forwards"]["no_answer"]["on"] is True
    assert changed["after"]["forwards"]["no_answer"]["on"] is False
    assert (created["what"], created["before"]) == ("created", {})


def test_audit_reads_on_until_enough_fit_and_skips_what_is_foreign(
    run: Run, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.commands.audit._PAGE", 2)
    run("line", "set", "-", stdin=DOCUMENT)
    for seconds in range(20, 26):
        run("forward", "set", LINE, "no_answer", "voicemail", "--after", str(seconds))
    store.xadd("audit:acme", {"something": "else"})
    assert len(changes(run)) == 7
    assert [change for _, change in changes(run, "--last", "1")] == [
        f"no_answer voicemail {LINE} after 24 s -> voicemail {LINE} after 25 s"
    ]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--since", "soon"), ("--since", "soon")),
        (("--line", "me"), ("--line", "me")),
        (("--last", "x"), ("--last", "x")),
        (("--fleet", "acne"), ("fleet acne", "did you mean acme?")),
    ],
)
def test_audit_names_what_is_wrong(
    run: Run, store: Any, arguments: tuple[str, ...], names: tuple[str, ...]
) -> None:
    store.set(f"line:{LINE}", json.dumps(DOCUMENT))
    refused(run("audit", *arguments), *names)


def test_a_line_gets_a_password_of_which_only_the_hash_is_kept(run: Run, store: Any) -> None:
    store.set(f"line:{LINE}", json.dumps(DOCUMENT))
    done = run("line", "password", LINE, "--user", "accueil", stdin="Circle of Life\n")
    assert (done.status, done.err) == (0, "")
    assert "user accueil has another password, " in done.out
    expected = hashlib.md5(b"accueil:renvoi:Circle of Life").hexdigest()
    stored = json.loads(store.get(f"line:{LINE}"))
    assert stored == DOCUMENT | {"credentials": {"user": "accueil", "ha1": expected}}
    again = run("line", "password", LINE, "--sha256", "--json", stdin="other\n")
    assert again.json["user"] == "accueil"
    kept = json.loads(store.get(f"line:{LINE}"))["credentials"]
    assert kept["ha1"] != expected
    assert kept["ha1_sha256"] == hashlib.sha256(b"accueil:renvoi:other").hexdigest()
    made = run("line", "password", LINE, "--generate", "--json").json["password"]
    kept = json.loads(store.get(f"line:{LINE}"))["credentials"]
    assert kept["ha1"] == hashlib.md5(f"accueil:renvoi:{made}".encode()).hexdigest()
    assert kept["ha1_sha256"] == hashlib.sha256(f"accueil:renvoi:{made}".encode()).hexdigest()
    assert len(made) >= 20
    assert run("line", "password", LINE, "--remove").status == 0
    assert json.loads(store.get(f"line:{LINE}")) == DOCUMENT


def test_a_password_is_in_the_log_of_changes_without_its_hash(run: Run, store: Any) -> None:
    store.set(f"line:{LINE}", json.dumps(DOCUMENT))
    run("line", "password", LINE, stdin="first\n")
    run("line", "password", LINE, stdin="second\n")
    run("line", "password", LINE, "--remove")
    changes = run("audit", "--json")
    credentials = [(c["before"].get("credentials"), c["after"].get("credentials"))
                   for c in changes.json]  # fmt: skip
    user, new = {"user": LINE}, {"user": LINE, "password": "new"}
    assert credentials == [(None, new), (user, new), (user, None)]
    assert "ha1" not in changes.out
    assert hashlib.md5(f"{LINE}:renvoi:second".encode()).hexdigest() not in changes.out


@pytest.mark.parametrize(
    ("arguments", "typed", "names"),
    [
        ((LINE,), "\n", ("password", "empty")),
        ((LINE,), "", ("password", "empty")),
        ((LINE, "--user", "a:b"), "x\n", ("--user", "a:b")),
        ((LINE, "--generate", "--remove"), "", ("--remove", "--generate")),
        ((OTHER,), "x\n", (OTHER, "unknown line")),
        (("me",), "x\n", ("N", "me")),
    ],
)
def test_a_password_that_cannot_be_is_refused_and_nothing_changes(
    run: Run, store: Any, arguments: tuple[str, ...], typed: str, names: tuple[str, ...]
) -> None:
    store.set(f"line:{LINE}", json.dumps(DOCUMENT))
    refused(run("line", "password", *arguments, stdin=typed), *names)
    assert json.loads(store.get(f"line:{LINE}")) == DOCUMENT


@pytest.mark.parametrize(
    "command",
    [
        ("fleet", "show", "{}"),
        ("usage", "fleet:{}"),
        ("audit", "--fleet", "{}"),
        ("manager", "account", "add", "marie", "--fleet", "{}"),
        ("manager", "token", "add", "crm", "--fleet", "{}"),
    ],
)
def test_an_unknown_fleet_is_refused_with_a_hint(
    run: Run, store: Any, command: tuple[str, ...]
) -> None:
    def ask(name: str) -> Any:
        return run(*(word.format(name) for word in command), stdin="long enough, I hope\n")

    refused(ask("acne"), "fleet acne: unknown fleet", "there is none yet")
    store.set(f"line:{LINE}", json.dumps(DOCUMENT))
    store.set("line:+33972101004", "not JSON")
    refused(ask("acne"), "fleet acne: unknown fleet", "did you mean acme?")
    refused(ask("zzz"), "fleet zzz: unknown fleet", "there are acme")
    assert store.keys("manager:*") == []
    known = ask("acme")  # by its line alone
    assert known.status == 0, known
    store.set("fleet:empty", json.dumps({"name": "empty"}))
    asked = ask("empty")
    assert asked.status == 0 or "there is an account of that name" in asked.err


def test_an_account_may_come_before_the_first_line_of_its_fleet(run: Run, store: Any) -> None:
    add = ("add", "marie", "--fleet", "acme", "--new-fleet")
    assert run("manager", "account", *add, stdin="long enough, I hope\n").status == 0
    assert run("manager", "token", *add).status == 0


def test_a_fleet_without_a_document_is_shown_as_what_it_is(run: Run, store: Any) -> None:
    store.set(f"line:{OTHER}", json.dumps(FAX))
    shown = run("fleet", "show", "acme")
    assert shown.status == 0
    assert "none" in shown.out
    assert run("fleet", "show", "acme", "--json").json["name"] == "acme"
    refused(run("fleet", "delete", "acme"), "fleet acme", "has no document")
    refused(run("usage", "acme"), "N", "fleet:acme")
