"""Pages of operators: fleets, registrations, the log of changes, the customer's view."""

from __future__ import annotations

import json
import time
from typing import Any, cast

import pytest
import redis

from tests.manager.browser import PASSWORD, Visitor, csrf_of, path_of, text
from tests.manager.site import Manager, read, write

OWN, PEER, THEIRS = (f"+3397210100{n}" for n in (1, 2, 9))
PAGES = ("/fleets", "/live", "/registrations", "/changes", "/accounts")


@pytest.fixture(scope="module", autouse=True)
def accounts(manager: Manager, client: redis.Redis) -> None:
    fill(client)
    for name, *whose in (
        ("marie", "--fleet", "acme"),
        ("paul", "--fleet", "acme", "--line", OWN),
        ("support", "--operator"),
    ):
        made = manager.command("manager", "account", "add", name, *whose, typed=PASSWORD + "\n")
        assert made.returncode == 0, made.stderr


def fill(client: redis.Redis) -> None:
    for pattern in ("audit:*", "manager:attempts:*", "fleet:*", "reg:*"):
        for key in client.scan_iter(pattern):
            client.delete(key)
    write(client, OWN, label="Accueil")
    write(client, PEER, label="Atelier")
    write(client, THEIRS, fleet="globex", label="Secret")


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> None:
    fill(client)


def visitor(manager: Manager, name: str) -> Visitor:
    opened = Visitor(manager)
    assert opened.log_in(name).status == 200
    return opened


@pytest.fixture
def support(manager: Manager) -> Visitor:
    return visitor(manager, "support")


def sends(visitor: Visitor, path: str, **fields: str) -> int:
    sent = [("csrf", csrf_of(visitor)), *fields.items()]
    return visitor.request("POST", path, sent).status


def logged(client: redis.Redis, fleet: str) -> list[dict[str, Any]]:
    entries = client.xrange(f"audit:{fleet}")
    assert entries is not None
    return [cast(dict[str, Any], fields) for _, fields in entries]


def document(client: redis.Redis, fleet: str) -> Any:
    raw = client.get(f"fleet:{fleet}")
    return json.loads(str(raw)) if raw else None


@pytest.mark.parametrize("name", ["marie", "paul"])
def test_customers_find_none_of_it(manager: Manager, client: redis.Redis, name: str) -> None:
    customer = visitor(manager, name)
    for path in PAGES:
        own = path == "/accounts" and name == "marie"
        assert customer.request("GET", path).status == (200 if own else 404), path
    assert sends(customer, "/fleets", fleet="acme", step="suspend") == 404
    assert sends(customer, "/see-as", fleet="acme") == 404
    assert document(client, "acme") is None
    assert logged(client, "acme") == []


def test_fleets_with_their_caps_and_suspension(support: Visitor, client: redis.Redis) -> None:
    page = support.get("/fleets")
    assert "acme 2 En service" in text(page)
    assert "globex 1 En service" in text(page)
    client.set("fleet:acme", json.dumps({"name": "acme", "label": "Acme SA", "x_note": "kept"}))
    assert sends(support, "/fleets", fleet="acme", step="suspend") == 303
    assert document(client, "acme") == {
        "name": "acme", "label": "Acme SA", "x_note": "kept", "suspended": True,
    }  # fmt: skip
    assert "acme Acme SA 2 Suspendu" in text(support.get("/fleets"))
    assert sends(support, "/fleets", fleet="acme", step="resume") == 303
    assert sends(support, "/fleets", fleet="acme", step="cap", cap="2,5") == 303
    assert document(client, "acme")["cap_seconds"] == 9000
    assert "Il reste 2 h 30 sur 2 h 30" in text(support.get("/fleets?q=ac"))
    assert "globex" not in text(support.get("/fleets?q=ac"))
    assert sends(support, "/fleets", fleet="acme", step="cap", cap="") == 303
    assert document(client, "acme")["cap_seconds"] is None
    done = [(entry["who"], entry["how"], entry["what"]) for entry in logged(client, "acme")]
    assert done == [("support", "page", "fleet")] * 4


@pytest.mark.parametrize("cap", ["x", "-1", "1e99", "nan", "inf"])
def test_a_cap_that_is_none_is_refused(support: Visitor, client: redis.Redis, cap: str) -> None:
    assert sends(support, "/fleets", fleet="acme", step="cap", cap=cap) == 422
    assert document(client, "acme") is None


def test_a_wrong_cap_is_shown_as_it_was_typed(support: Visitor, client: redis.Redis) -> None:
    """Also of a fleet that is not among those that the page shows at once."""
    for n in range(200):
        client.set(f"fleet:a{n:03}", json.dumps({"name": f"a{n:03}"}))
    assert "globex" not in text(support.get("/fleets"))
    sent = [("csrf", csrf_of(support)), ("fleet", "globex"), ("step", "cap"), ("cap", "dix")]
    answer = support.request("POST", "/fleets", sent)
    assert answer.status == 422
    assert answer.text.count('value="dix"') == answer.text.count('id="cap-error"') == 1
    assert "Un nombre d’heures, ou rien pour aucun plafond." in text(answer)


def test_a_cap_that_another_operator_has_changed_is_not_overwritten_unseen(
    support: Visitor, client: redis.Redis
) -> None:
    client.set("fleet:acme", json.dumps({"name": "acme", "cap_seconds": 3600}))
    assert 'name="was" value="3600"' in support.get("/fleets").text
    client.set("fleet:acme", json.dumps({"name": "acme", "cap_seconds": 36000, "suspended": True}))
    typed = [("csrf", csrf_of(support)), ("fleet", "acme"), ("step", "cap"), ("cap", "2,5")]
    refused = support.request("POST", "/fleets", [*typed, ("was", "3600")])
    assert refused.status == 409
    assert document(client, "acme")["cap_seconds"] == 36000
    assert "Ce plafond vient d’être modifié par quelqu’un d’autre." in text(refused)
    assert "Il reste 10 h 00 sur 10 h 00" in text(refused)
    assert 'value="2,5"' in refused.text
    assert 'name="was" value="36000"' in refused.text
    assert support.request("POST", "/fleets", [*typed, ("was", "36000")]).status == 303
    assert document(client, "acme") == {"name": "acme", "cap_seconds": 9000, "suspended": True}
    # The same cap once more, as after a double click: nothing is lost.
    assert support.request("POST", "/fleets", [*typed, ("was", "36000")]).status == 303


def test_a_first_cap_is_noticed_too(support: Visitor, client: redis.Redis) -> None:
    assert 'name="was" value=""' in support.get("/fleets").text
    assert sends(support, "/fleets", fleet="acme", step="cap", cap="1", was="") == 303
    assert sends(support, "/fleets", fleet="acme", step="cap", cap="2", was="") == 409
    assert document(client, "acme")["cap_seconds"] == 3600


def test_what_was_typed_outlives_the_session(manager: Manager, client: redis.Redis) -> None:
    """The cap of a fleet, and an account: they come back after the log-in, unsaved."""
    account = {"name": "luc", "fleet": "acme", "role": "line", "line": "09 72 10 10 02"}
    for path, step, typed, shown in (
        ("/fleets", "cap", {"fleet": "acme", "cap": "2,75"}, ["2,75"]),
        ("/accounts", "add", account, ["luc", "acme", "09 72 10 10 02"]),
    ):
        support = visitor(manager, "support")
        page = support.get(path)
        client.delete(*client.scan_iter("manager:session:*"))
        ended = support.submit(page, path, step=step, **typed)
        assert ended.status == 401
        back = support.submit(ended, "/login", account="support", password=PASSWORD)
        assert back.status == 200
        assert "Vous revoilà" in text(back)
        for value in shown:
            assert f'value="{value}"' in back.text
    assert '<option value="line" selected>' in back.text
    assert document(client, "acme") is None
    assert not client.exists("manager:account:luc")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/fleets", {"fleet": "acme", "step": "suspend"}),
        ("/accounts", {"name": "paul", "step": "delete"}),
    ],
)
def test_a_tap_is_not_kept_for_after_the_log_in(
    manager: Manager, client: redis.Redis, path: str, fields: dict[str, str]
) -> None:
    support = visitor(manager, "support")
    page = support.get(path)
    client.delete(*client.scan_iter("manager:session:*"))
    assert path_of(support.send(page, path, **fields)) == "/login"
    assert document(client, "acme") is None
    assert client.exists("manager:account:paul")


def test_a_fleet_that_is_unknown_or_cannot_be_read_is_not_written(
    support: Visitor, client: redis.Redis
) -> None:
    assert sends(support, "/fleets", fleet="nobody", step="suspend") == 404
    client.set("fleet:acme", '{"name": "acme", "cap_seconds": -1}')
    assert sends(support, "/fleets", fleet="acme", step="suspend") == 400
    assert client.get("fleet:acme") == '{"name": "acme", "cap_seconds": -1}'
    assert "cap_seconds" in text(support.get("/fleets"))


def test_registrations(support: Visitor, client: redis.Redis) -> None:
    client.zadd(f"reg:{OWN}", {"sip:desk@192.0.2.7": time.time() + 600})
    page = text(support.get("/registrations"))
    assert "09 72 10 10 01 Accueil acme sip:desk@192.0.2.7" in page
    assert "Lignes connectées : 1, sur 3" in page
    assert "192.0.2.7" not in text(support.get("/registrations?q=secret"))


def test_the_log_of_changes_is_searched(manager: Manager, support: Visitor) -> None:
    marie = visitor(manager, "marie")
    form = f"/lines/{OWN}/forwards"
    fields = {"busy__on": "on", "busy__service": "number", "busy__number": "Atelier"}
    check = marie.submit(marie.get(form), form, step="check", **fields)
    marie.submit(check, form, step="validate")
    sends(support, "/fleets", fleet="globex", step="suspend")
    everything = text(support.get("/changes"))
    assert "marie (page) acme 09 72 10 10 01 forwards Occupée : " in everything
    assert "support (page) globex – fleet" in everything
    for query, there in (
        ("q=marie", True), ("q=09+72+10+10+01", True), ("fleet=acme", True), ("q=busy", True),
        ("q=zzz", False), ("fleet=globex", False), ("q=suspended", False),
    ):  # fmt: skip
        assert ("marie (page)" in text(support.get(f"/changes?{query}"))) is there, query


def test_live_calls_name_the_call_servers_that_do_not_answer(
    support: Visitor, client: redis.Redis
) -> None:
    worker = {
        "id": "w", "host": "h", "index": 0, "pid": 1, "started": 1.0, "sip": ["udp:127.0.0.1:9"],
        "admin": "127.0.0.1:1", "version": "1",
    }  # fmt: skip
    client.zadd("workers", {"w": time.time() + 60})
    client.set("worker:w", json.dumps(worker), ex=60)
    page = text(support.get("/live"))
    assert "Sans réponse de : h/0 (pid 1)" in page
    client.delete("workers", "worker:w")
    assert "Appels : 0" in text(support.get("/live"))


def test_an_operator_sees_the_page_as_a_customer_and_changes_nothing(
    manager: Manager, support: Visitor, client: redis.Redis
) -> None:
    before = client.get(f"line:{OWN}")
    seen = support.submit(support.get("/fleets"), "/see-as", fleet="acme")
    page = text(seen)
    assert "Vous voyez la page comme un client du parc acme." in page
    assert "Choisissez la ligne" in page
    assert "Secret" not in text(support.get("/lines"))
    for path in (f"/lines/{THEIRS}", "/fleets", "/changes"):
        assert support.request("GET", path).status == 404, path
    form = f"/lines/{OWN}/forwards"
    fields = {"busy__on": "on", "busy__service": "voicemail"}
    for step in ("validate", "check"):
        refused = support.submit(support.get(form), form, step=step, **fields)
        assert refused.status == 403
        assert "rien ne peut être modifié" in text(refused)
    token = csrf_of(support)
    for path, sent in (
        ("/several", [("line", OWN), ("busy-on", "on"), ("step", "apply")]),
        ("/several/undo", [("change", "x"), ("step", "apply")]),
        ("/accounts", [("name", "paul"), ("step", "delete")]),
        ("/account", [("old", PASSWORD), ("new", "x" * 12), ("again", "x" * 12)]),
        ("/see-as", [("fleet", "globex")]),
        ("/fleets", [("fleet", "acme"), ("step", "suspend")]),
    ):
        answer = support.request("POST", path, [("csrf", token), *sent])
        assert answer.status == 403, path
    preview = [("csrf", token), ("busy-on", "on"), ("busy-service", "voicemail")]
    assert support.request("POST", form + "/preview", preview).status == 200
    assert client.get(f"line:{OWN}") == before
    assert document(client, "acme") is None
    entries = logged(client, "acme")
    assert [(entry["who"], entry["what"]) for entry in entries] == [("support", "seen")]
    marie = visitor(manager, "marie")
    assert "support" not in text(marie.get(f"/lines/{OWN}"))  # viewing is not a change
    after = support.submit(support.get("/lines"), "/see-as/end")
    assert "Parcs" in text(after)
    assert support.get(f"/lines/{THEIRS}").status == 200


def test_as_a_user_of_one_line(support: Visitor) -> None:
    sent = [("csrf", csrf_of(support)), ("account", "paul")]
    answer = support.request("POST", "/see-as", sent)
    assert path_of(answer) == "/lines"
    assert support.request("GET", f"/lines/{PEER}").status == 404
    assert support.get(f"/lines/{OWN}").status == 200


@pytest.mark.parametrize("whom", [("account", "support"), ("account", "x"), ("fleet", "nobody")])
def test_not_as_an_account_that_is_no_customer(
    support: Visitor, client: redis.Redis, whom: tuple[str, str]
) -> None:
    assert sends(support, "/see-as", **dict([whom])) == 404
    assert read(client, OWN)["label"] == "Accueil"
