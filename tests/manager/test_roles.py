"""Operators, administrators of a fleet, users of one line: rights and passwords."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from typing import Any
from urllib.parse import quote

import pytest
import redis

from tests.manager.browser import PASSWORD, Visitor, csrf_of, text
from tests.manager.site import Answer, Api, Manager, read, write

OWN, PEER, THEIRS = (f"+3397210100{n}" for n in (1, 2, 9))
MOBILE = "+33612345678"
NEW = "another long password"


@pytest.fixture(scope="module", autouse=True)
def accounts(manager: Manager, client: redis.Redis) -> None:
    fill(client)
    for name, *whose in (
        ("marie", "--fleet", "acme"),
        ("paul", "--fleet", "acme", "--line", OWN),
        ("gil", "--fleet", "globex"),
        ("support", "--operator"),
    ):
        made = manager.command("manager", "account", "add", name, *whose, typed=PASSWORD + "\n")
        assert made.returncode == 0, made.stderr


def fill(client: redis.Redis) -> None:
    for key in [*client.scan_iter("audit:*"), *client.scan_iter("manager:attempts:*")]:
        client.delete(key)
    private = {"unconditional": {"on": True, "to": {"kind": "number", "number": MOBILE}}}
    write(client, OWN, label="Accueil")
    write(client, PEER, label="Atelier", forwards=private)
    write(client, THEIRS, fleet="globex", label="Secret")


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> None:
    fill(client)


def visitor(manager: Manager, name: str, password: str = PASSWORD) -> Visitor:
    opened = Visitor(manager)
    assert opened.log_in(name, password).status == 200
    return opened


def given(answer: Answer) -> str:
    """The password that a page shows once."""
    found = re.search(r'class="secret">([^<]+)<', answer.text)
    assert found is not None, text(answer)
    return found[1]


# -- the user of one line ------------------------------------------------------------------------


def test_a_user_of_one_line_sees_and_changes_that_line_only(
    manager: Manager, client: redis.Redis
) -> None:
    paul = visitor(manager, "paul")
    assert paul.get("/lines").text.count("Accueil") >= 1  # it is the user's first page
    assert paul.get(f"/lines/{OWN}").status == 200
    before = client.get(f"line:{PEER}")
    token = csrf_of(paul, f"/lines/{OWN}/forwards")
    fields = [("csrf", token), ("busy-on", "on"), ("busy-service", "voicemail"), ("step", "apply")]
    for path in (f"/lines/{PEER}", f"/lines/{PEER}/forwards", "/accounts", "/fleets"):
        assert paul.request("GET", path).status == 404, path
    assert paul.request("POST", f"/lines/{PEER}/forwards", fields).status == 404
    assert paul.request("POST", "/accounts", fields).status == 404
    paul.request("POST", "/several", [*fields, ("line", PEER), ("busy-on", "on")])
    assert client.get(f"line:{PEER}") == before
    form = paul.get(f"/lines/{OWN}/forwards")
    path = f"/lines/{OWN}/forwards"
    sent = {"busy__on": "on", "busy__service": "number", "busy__number": "Atelier"}
    check = paul.submit(form, path, step="check", **sent)
    assert "09 72 10 10 02 (Atelier)" in text(check)
    assert "un numéro extérieur" in text(check)  # a colleague's target is not shown
    assert "06 12 34 56 78" not in check.text
    paul.submit(check, path, step="validate")
    assert read(client, OWN)["forwards"]["busy"]["to"]["number"] == PEER


def test_a_token_of_one_line(manager: Manager, client: redis.Redis) -> None:
    api = Api(manager, manager.token("--fleet", "acme", "--line", OWN))
    assert [item["number"] for item in api.get("/lines").json["items"]] == [OWN]
    assert api.get("/lines?q=atelier").json["total"] == 0
    own = f"/lines/{quote(OWN)}"
    wanted = {"on": True, "to": {"kind": "number", "number": PEER}}
    assert api.put(f"{own}/forwards/unconditional", wanted).status == 200
    for part in ("", "/forwards", "/state", "/usage", "/records", "/explain", "/changes"):
        assert api.get(own + part).status == 200, part
        assert MOBILE not in api.get(own + part).text, part
        assert api.get(f"/lines/{quote(PEER)}{part}").status == 404, part
    assert api.put(f"/lines/{quote(PEER)}/forwards/busy", wanted).status == 404
    assert api.put(own, read(client, OWN)).status == 403


@pytest.mark.parametrize(
    "theirs",
    [
        {"also_ring": [{"kind": "number", "number": MOBILE}]},
        {
            "forwards": {
                "unconditional": {
                    "on": True,
                    "ring": "together",
                    "to": [
                        {"kind": "voicemail", "number": PEER},
                        {"kind": "number", "number": MOBILE},
                    ],
                }
            }
        },
    ],
)
def test_a_colleagues_further_targets_are_hers(
    manager: Manager, client: redis.Redis, theirs: dict[str, Any]
) -> None:
    """Targets of a list, and what rings beside her phones, as well as a single target."""
    write(client, PEER, **theirs)
    to_peer = {"on": True, "to": {"kind": "number", "number": PEER}}
    write(client, OWN, forwards={"unconditional": to_peer})
    api = Api(manager, manager.token("--fleet", "acme", "--line", OWN))
    answer = api.get(f"/lines/{quote(OWN)}/explain?from=0140000000")
    assert answer.json["stages"][-1]["number"] == PEER
    assert MOBILE not in answer.text
    of_fleet = Api(manager, manager.token("--fleet", "acme"))
    assert MOBILE in of_fleet.get(f"/lines/{quote(OWN)}/explain?from=0140000000").text


@pytest.mark.parametrize(
    ("whose", "error"),
    [
        (("--fleet", "acme", "--line", THEIRS), "--line: is no line of fleet acme"),
        (("--fleet", "acme", "--line", "x"), "--line: "),
        (("--operator", "--line", OWN), "--line: needs --fleet F"),
    ],
)
def test_wrong_lines_of_accounts(manager: Manager, whose: tuple[str, ...], error: str) -> None:
    done = manager.command("manager", "account", "add", "x", *whose, typed=PASSWORD + "\n")
    assert done.returncode == 2
    assert error in done.stderr


def test_accounts_of_other_fleets_do_not_displace_ones_own(
    manager: Manager, client: redis.Redis
) -> None:
    """A user who may make accounts cannot displace those of others from their page."""
    crowd = {
        f"manager:account:crowd{n}": f'{{"name":"crowd{n}","fleet":"initech","password":"",'
        f'"created":0,"line":"{OWN}"}}'
        for n in range(10_000)
    }
    client.mset(crowd)
    try:
        mine = text(visitor(manager, "marie").get("/accounts"))
        theirs = text(visitor(manager, "support").get("/accounts?fleet=acme"))
    finally:
        client.delete(*crowd)
    assert "paul" in mine
    assert "crowd" not in mine
    assert "paul" in theirs


@pytest.mark.parametrize("place", ["0-0", "18446744073709551616-0", "1-99999999999999999999"])
def test_an_invalid_stream_position_is_not_an_error_of_redis(manager: Manager, place: str) -> None:
    """Otherwise any user could cause an alert about Redis."""
    paul = visitor(manager, "paul")
    assert paul.get(f"/lines/{OWN}/calls?before={place}").status == 200
    assert paul.get(f"/lines/{OWN}/forwards?restore={place}").status == 200
    api = Api(manager, manager.token("--fleet", "acme", "--line", OWN))
    cursor = urlsafe_b64encode(place.encode()).decode()
    for part in ("records", "changes"):
        answer = api.get(f"/lines/{quote(OWN)}/{part}?cursor={cursor}")
        assert answer.status == 422, answer.text
        assert answer.json["errors"][0]["field"] == "cursor"


# -- passwords -----------------------------------------------------------------------------------


def test_ones_own_password(manager: Manager, client: redis.Redis) -> None:
    manager.command("manager", "account", "add", "anne", "--fleet", "acme", typed=PASSWORD + "\n")
    anne, elsewhere = visitor(manager, "anne"), visitor(manager, "anne")
    page = anne.get("/account")
    for fields, problem in (
        ({"old": "wrong wrong wrong", "new": NEW, "again": NEW}, "pas votre mot de passe actuel"),
        ({"old": PASSWORD, "new": "short", "again": "short"}, "au moins 10 caractères"),
        ({"old": PASSWORD, "new": NEW, "again": NEW + "x"}, "sont différents"),
    ):
        answer = anne.submit(page, "/account", **fields)
        assert answer.status == 422
        assert problem in text(answer)
        assert NEW not in answer.text
    done = anne.submit(page, "/account", old=PASSWORD, new=NEW, again=NEW)
    assert "Votre mot de passe est changé." in text(done)
    assert anne.request("GET", "/lines").status in (200, 303)
    assert anne.get("/account").status == 200
    assert elsewhere.request("GET", "/account").status == 303  # its session has ended
    assert visitor(manager, "anne", NEW)


def test_guesses_of_the_current_password_are_limited(manager: Manager) -> None:
    marie = visitor(manager, "marie")
    page = marie.get("/account")
    wrong = {"old": "wrong wrong wrong", "new": NEW, "again": NEW}
    statuses = [marie.send(page, "/account", **wrong).status for _ in range(12)]
    assert statuses[-1] == 429


def test_an_administrator_manages_the_users_of_her_lines(
    manager: Manager, client: redis.Redis
) -> None:
    marie = visitor(manager, "marie")
    page = marie.get("/accounts")
    assert "support" not in text(page)
    assert "gil" not in text(page)
    made = marie.submit(page, "/accounts", step="add", name="Luc", line="09 72 10 10 02")
    luc = visitor(manager, "luc", given(made))
    assert luc.get(f"/lines/{PEER}").status == 200
    assert luc.request("GET", f"/lines/{OWN}").status == 404
    reset = marie.submit(marie.get("/accounts"), "/accounts", step="reset", name="luc")
    assert luc.request("GET", "/account").status == 303
    assert visitor(manager, "luc", given(reset))
    assert given(reset) not in marie.get("/accounts").text
    entries = client.xrange("audit:acme")
    assert entries is not None
    assert [str(fields["who"]) for _, fields in entries if fields] == ["marie", "marie"]
    assert given(reset) not in str(entries)
    marie.submit(marie.get("/accounts"), "/accounts", step="delete", name="luc")
    assert "luc" not in text(marie.get("/accounts"))


@pytest.mark.parametrize("name", ["marie", "gil", "support", "nobody", "", "<b>"])
@pytest.mark.parametrize("step", ["reset", "delete"])
def test_she_touches_no_other_account(
    manager: Manager, client: redis.Redis, name: str, step: str
) -> None:
    marie = visitor(manager, "marie")
    before = {key: client.get(key) for key in client.scan_iter("manager:account:*")}
    fields = [("csrf", csrf_of(marie, "/accounts")), ("name", name), ("step", step)]
    assert marie.request("POST", "/accounts", fields).status == 404
    assert before == {key: client.get(key) for key in client.scan_iter("manager:account:*")}


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "eve", "line": THEIRS},
        {"name": "eve", "line": ""},
        {"name": "marie", "line": OWN},
        {"name": "e v e", "line": OWN},
        {"name": "eve", "line": THEIRS, "fleet": "globex", "role": "fleet"},
        {"name": "eve", "line": "", "fleet": "", "role": "operator"},
    ],
)
def test_she_makes_no_account_but_of_a_line_of_hers(
    manager: Manager, client: redis.Redis, fields: dict[str, str]
) -> None:
    marie = visitor(manager, "marie")
    before = {key: client.get(key) for key in client.scan_iter("manager:account:*")}
    sent = [("csrf", csrf_of(marie, "/accounts")), ("step", "add"), *fields.items()]
    assert marie.request("POST", "/accounts", sent).status == 422
    assert before == {key: client.get(key) for key in client.scan_iter("manager:account:*")}


def test_an_operator_resets_any_password_but_an_operators(
    manager: Manager, client: redis.Redis
) -> None:
    support = visitor(manager, "support")
    reset = support.submit(support.get("/accounts"), "/accounts", step="reset", name="gil")
    assert visitor(manager, "gil", given(reset))
    sent = [("csrf", csrf_of(support, "/accounts")), ("step", "reset"), ("name", "support")]
    assert support.request("POST", "/accounts", sent).status == 404
    made = support.submit(
        support.get("/accounts"), "/accounts", step="add", name="ines", fleet="globex", role="fleet"
    )
    ines = visitor(manager, "ines", given(made))
    assert ines.get(f"/lines/{THEIRS}").status == 200


# -- not shown to customers ----------------------------------------------------------------------


def test_customers_see_no_users_of_our_machines(manager: Manager, client: redis.Redis) -> None:
    done = manager.command("forward", "set", OWN, "busy", f"number:{PEER}")
    assert done.returncode == 0, done.stderr
    entries = client.xrange("audit:acme")
    assert entries is not None
    user = str((entries[0][1] or {})["who"])
    marie, support = visitor(manager, "marie"), visitor(manager, "support")
    page = text(marie.get(f"/lines/{OWN}"))
    assert f"{user} (" not in page
    assert "Votre opérateur (exploitation)" in page
    assert f"{user} (exploitation)" in text(support.get(f"/lines/{OWN}"))
    acme = Api(manager, manager.token("--fleet", "acme"))
    path = f"/lines/{quote(OWN)}/changes"
    assert [item["who"] for item in acme.get(path).json["items"]] == ["operator"]
    operator = Api(manager, manager.token("--operator"))
    assert [item["who"] for item in operator.get(path).json["items"]] == [user]
