"""The call history of a line: missed, answered, forwarded; dates, search, CSV."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
import redis

from engine.records.record import FIELDS, CallRecord, ForwardRecord, Months, to_entry
from tests.manager.browser import PASSWORD, Visitor, text
from tests.manager.site import Manager, write

LINE, PEER, OTHER = (f"+3397210100{n}" for n in (1, 2, 9))
PARIS = ZoneInfo("Europe/Paris")
CALLS = f"/lines/{LINE}/calls"
SECRET = "+33612345677"


@pytest.fixture(scope="module", autouse=True)
def accounts(manager: Manager) -> None:
    for name, *whose in (("marie", "--fleet", "acme"), ("support", "--operator")):
        manager.command("manager", "account", "add", name, *whose, typed=PASSWORD + "\n")


@pytest.fixture(scope="module")
def marie(manager: Manager, accounts: None) -> Visitor:
    visitor = Visitor(manager)
    assert visitor.log_in("marie").status == 200
    return visitor


@pytest.fixture(autouse=True)
def calls(client: redis.Redis) -> None:
    client.delete("cdr")
    write(client, LINE, label="Accueil")
    write(client, PEER, label="Atelier")
    write(client, OTHER, fleet="globex", label="Secret")
    forward = ForwardRecord(LINE, "busy", "number", "+33612345678", "deducted", 75, "acme")
    for day, caller, outcome, forwards, withheld in (
        (10, "+33140000001", "answered", [], ""),
        (11, "+33140000002", "no_answer", [], ""),
        (12, PEER, "answered", [forward], ""),
        (13, "", "answered", [], SECRET),
        (14, "=1+1", "no_answer", [], ""),
    ):
        at = datetime(2026, 11, day, 23, 30, tzinfo=PARIS).timestamp()
        record = CallRecord(
            f"id{day}", "y", caller, LINE, at, None, at + 5, at + 65,
            "busy" if forwards else "none", "number" if forwards else "line",
            "+33612345678" if forwards else LINE, outcome, 200, None, "",
            60 if outcome == "answered" else 0, LINE if forwards else "",
            "deducted" if forwards else "", forwards, [], caller_withheld=withheld,
        )  # fmt: skip
        values = to_entry(record, Months("Europe/Paris")).values
        client.xadd("cdr", dict(zip(FIELDS, values, strict=True)), id=f"{int((at + 65) * 1000)}-0")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["14", "13", "12", "11", "10"]),
        ("?kind=missed", ["14", "11"]),
        ("?kind=answered", ["13", "10"]),
        ("?kind=forwarded", ["12"]),
        ("?from=2026-11-11&to=2026-11-12", ["12", "11"]),
        ("?to=2026-11-10", ["10"]),
        ("?from=2026-11-15", []),
        ("?q=01+40+00+00+02", ["11"]),
        ("?q=0612345678", ["12"]),
        ("?q=0612345677", []),  # withheld
        ("?q=zzz", []),
        ("?to=9999-12-31", ["14", "13", "12", "11", "10"]),
        ("?before=x&kind=pigeon", ["14", "13", "12", "11", "10"]),
    ],
)
def test_calls_are_found(marie: Visitor, query: str, found: list[str]) -> None:
    answer = marie.get(CALLS + query)
    assert answer.status == 200
    page = text(answer)
    days = sorted((d for d in range(10, 16) if f"{d} nov. 2026 à 23:30" in page), reverse=True)
    assert [str(day) for day in days] == found
    assert ("Aucun appel." in page) == (not found)


def test_a_call_is_described_in_words(marie: Visitor) -> None:
    page = text(marie.get(CALLS))
    words = "09 72 10 10 02 (Atelier) Renvoyé (Occupée) numéro 06 12 34 56 78 1 min Déduit"
    assert words in page
    assert "01 40 00 00 02 Manqué" in page
    assert "01 40 00 00 01 Répondu 1 min" in page
    assert "Numéro masqué Répondu" in page
    assert "06 12 34 56 77" not in page


def test_dates_that_are_none_are_refused_at_their_field(marie: Visitor) -> None:
    answer = marie.get(CALLS + "?from=yesterday")
    assert answer.status == 422
    assert 'id="from-error"' in answer.text


def test_csv_is_safe_to_open(manager: Manager, marie: Visitor) -> None:
    answer = marie.get(CALLS + ".csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.reader(io.StringIO(answer.text.removeprefix("\ufeff"))))
    assert rows[0] == ["Quand", "Appelant", "Appel", "Vers", "Secondes", "Coût"]
    assert len(rows) == 6
    assert rows[1][1] == "'=1+1"
    assert rows[3] == [
        "2026-11-12T23:30:00+01:00", "09 72 10 10 02 (Atelier)", "Renvoyé",
        "numéro 06 12 34 56 78", "75", "Déduit du forfait",
    ]  # fmt: skip
    assert SECRET[3:] not in answer.text.replace(" ", "")
    support = Visitor(manager)
    support.log_in("support")
    assert "06 12 34 56 77" in support.get(CALLS + ".csv").text
    few = marie.get(CALLS + ".csv?kind=missed").text
    assert few.count("\n") == 3


@pytest.mark.parametrize("part", ["", ".csv"])
def test_calls_of_another_fleet_are_nobodys(marie: Visitor, part: str) -> None:
    assert marie.request("GET", f"/lines/{OTHER}/calls{part}").status == 404


def test_more_than_a_page_goes_on(marie: Visitor, client: redis.Redis) -> None:
    entry = client.xrange("cdr", count=1)
    assert entry is not None
    for n in range(60):
        client.xadd("cdr", cast(dict[Any, Any], entry[0][1]), id=f"1795000000000-{n}")
    first = marie.get(CALLS)
    assert "Appels plus anciens" in text(first)
    assert first.text.count("<tr><td>") == 50
    client.delete("cdr")
