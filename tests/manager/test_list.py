"""The list of lines: where calls go now, and the order of search results."""

from __future__ import annotations

import html
import json
import re
import time
from dataclasses import replace
from typing import Any

import pytest
import redis

from tests.manager.browser import PASSWORD, Visitor, path_of, text
from tests.manager.site import Json, Manager, write
from tests.patience import within

LINE, PEER, TWELVE, ALONE = (f"+3397210{n}" for n in ("1001", "1002", "1050", "2001"))
OWN_BOX = {"kind": "voicemail", "number": LINE}


@pytest.fixture(scope="module")
def marie(manager: Manager) -> Visitor:
    for name, fleet in (("marie", "acme"), ("solo", "alone")):
        manager.command("manager", "account", "add", name, "--fleet", fleet, typed=PASSWORD + "\n")
    visitor = Visitor(manager)
    assert visitor.log_in("marie").status == 200
    return visitor


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> None:
    for key in [*client.scan_iter("line:*"), *client.scan_iter("reg:*"), *client.scan_iter("fl*")]:
        client.delete(key)
    write(client, PEER, label="Atelier")


def row(marie: Visitor, client: redis.Redis, forwards: Json, **line: Any) -> str:
    """The text of the line in the list."""
    write(client, LINE, label="Accueil", forwards=forwards, **line)
    deadline = time.monotonic() + within(5)
    while "Accueil" not in (page := marie.get("/lines")).text:
        assert time.monotonic() < deadline
    rows = page.text.split("<tr>")
    return text(replace(page, text=next(row for row in rows if "Accueil" in row)))


def to(number: str) -> Json:
    return {"on": True, "to": {"kind": "number", "number": number}}


def test_it_shows_where_calls_go_now(marie: Visitor, client: redis.Redis) -> None:
    client.zadd(f"reg:{LINE}", {"sip:a@127.0.0.1:9": time.time() + 600})
    forwards = {"unconditional": to(PEER), "busy": {"on": True, "to": OWN_BOX}}
    shown = row(marie, client, forwards)
    assert "→ ligne 09 72 10 10 02 (Atelier) Tous les appels" in shown
    assert "Au repos : Occupée" in shown
    forwards["unconditional"]["on"] = False
    shown = row(marie, client, forwards)
    assert "La ligne sonne Occupée → messagerie de la ligne" in shown
    assert "Au repos" not in shown
    client.delete(f"reg:{LINE}")
    assert "L’appelant est informé que la ligne est injoignable" in row(marie, client, forwards)
    shown = row(marie, client, {"unreachable": to("+33612345678")})
    assert "→ numéro 06 12 34 56 78 Injoignable" in shown


def test_it_is_the_engines_own_decision(marie: Visitor, client: redis.Redis) -> None:
    """Suspended lines and fleets, forwards that do nothing, a line that is busy."""
    client.zadd(f"reg:{LINE}", {"sip:a@127.0.0.1:9": time.time() + 600})
    all_calls = {"unconditional": to(PEER)}
    assert "La ligne est suspendue" in row(marie, client, all_calls, suspended=True)
    premium = {"unconditional": to("+33899123456")}
    assert "La ligne sonne" in row(marie, client, premium)
    client.zadd(f"live:{LINE}", {"call": time.time() + 600})
    shown = row(marie, client, {"busy": to(PEER)}, max_calls=1)
    assert "→ ligne 09 72 10 10 02 (Atelier) Occupée" in shown
    client.set("fleet:acme", '{"name": "acme", "suspended": true}')
    assert "La ligne est suspendue" in row(marie, client, all_calls)


def test_names_are_found_before_numbers(marie: Visitor, client: redis.Redis) -> None:
    numbers = [f"+33972101{n:03}" for n in range(200, 270)]
    for number in numbers:
        write(client, number, label="Bureau")
    write(client, TWELVE, label="Poste 12")
    deadline = time.monotonic() + within(5)
    while "71 lignes" not in text(page := marie.get("/lines?q=12")):
        assert time.monotonic() < deadline
    found = re.findall(r'class="pick" href="/lines/([^"]+)"', page.text)
    assert found == [TWELVE, *numbers[:49]]
    following = re.search(r'rel="next" href="([^"]+)"', page.text)
    assert following is not None
    more = marie.get(html.unescape(following[1])).text
    assert re.findall(r'class="pick" href="/lines/([^"]+)"', more) == numbers[49:]


def test_nothing_found_is_one_sentence(marie: Visitor, client: redis.Redis) -> None:
    row(marie, client, {})
    assert "Aucune ligne ne correspond à « zzz »." in text(marie.get("/lines?q=zzz"))


def test_a_user_with_one_line_starts_on_its_page(
    manager: Manager, marie: Visitor, client: redis.Redis
) -> None:
    write(client, ALONE, fleet="alone", label="Solo")
    solo = Visitor(manager)
    deadline = time.monotonic() + within(5)
    solo.log_in("solo")
    while path_of(solo.request("GET", "/lines"), otherwise="") != f"/lines/{ALONE}":
        assert time.monotonic() < deadline
    assert "Gestion des appels" in text(solo.log_in("solo"))


SEVERAL: Json = {
    "unconditional": [
        {"on": True, "callers": "withheld", "to": {"kind": "reject"}},
        {"on": True, "callers": "fleet", "to": OWN_BOX},
    ],
    "no_answer": {"on": True, "after_s": 20, "to": [OWN_BOX, {"kind": "number", "number": PEER}]},
}


def test_several_forwards_of_a_condition_are_shown_and_stay_as_they_are(
    marie: Visitor, client: redis.Redis
) -> None:
    shown = row(marie, client, SEVERAL)
    assert "Tous les appels → appelants bloqués, et d’autres règles" in shown
    stored = client.get(f"line:{LINE}")
    form = marie.get(f"/lines/{LINE}/forwards")
    assert form.status == 200
    assert form.text.count("Gérer les règles") == 2
    assert 'name="busy-on"' in form.text
    changes: Json = {"unconditional__on": "on", "unconditional__service": "voicemail"}
    refused = marie.submit(form, f"/lines/{LINE}/forwards", step="validate", **changes)
    assert "qui se modifient à part" in text(refused)
    assert client.get(f"line:{LINE}") == stored
    # Another condition can be changed as usual, and these stay.
    changes = {"busy__on": "on", "busy__service": "voicemail", "busy__box": "own"}
    check = marie.submit(form, f"/lines/{LINE}/forwards", step="validate", **changes)
    done = marie.submit(check, f"/lines/{LINE}/forwards", step="validate")
    assert done.status == 200
    forwards = json.loads(client.get(f"line:{LINE}") or b"{}")["forwards"]
    assert forwards.pop("busy")["on"] is True
    assert forwards == SEVERAL
    for path in (f"/lines/{LINE}", f"/lines/{LINE}/calls", "/lines"):
        assert marie.get(path).status == 200
