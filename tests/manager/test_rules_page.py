"""Rules of a condition, do not disturb, profiles and the days to come on the page, without a
browser's help."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.manager.browser import PASSWORD, Visitor, path_of, text
from tests.manager.site import Answer, Manager, read, write

LINE, PEER, OTHER = (f"+3397210100{n}" for n in (1, 2, 9))
MOBILE = "+33612345678"
PAGE, SWITCH = f"/lines/{LINE}", f"/lines/{LINE}/switch"
BUSY = f"/lines/{LINE}/rules/busy"
OWN = {"kind": "voicemail", "number": LINE}
TO_MOBILE = {"kind": "number", "number": MOBILE}
OFFICE = {"weekly": {day: ["09:00-18:00"] for day in ("mon", "tue", "wed", "thu", "fri")}}
RULES: list[dict[str, Any]] = [
    {"on": True, "when": "not office", "to": OWN},
    {"on": False, "callers": "list:vip", "to": {"kind": "reject"}},
    {"on": True, "until": "2099-12-07T08:00:00+01:00", "ring": "together",
     "to": [TO_MOBILE, {"kind": "number", "number": PEER}]},
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def accounts(manager: Manager) -> None:
    for name, whose in (("marie", ["--fleet", "acme"]), ("gil", ["--fleet", "globex"])):
        manager.command("manager", "account", "add", name, *whose, typed=PASSWORD + "\n")


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> Iterator[None]:
    for key in client.scan_iter("audit:*"):
        client.delete(key)
    fleet = {"name": "acme", "calendars": {"office": OFFICE}, "lists": {"vip": ["+33140000001"]}}
    client.set("fleet:acme", json.dumps(fleet))
    write(client, LINE, label="Accueil", offer={"mobile": "hours", "mobile_hours": 2})
    write(client, PEER, label="Atelier")
    write(client, OTHER, fleet="globex", label="Secret")
    client.zadd(f"reg:{LINE}", {"sip:a@127.0.0.1:9": time.time() + 600})
    yield
    client.delete("fleet:acme", f"reg:{LINE}")


@pytest.fixture(scope="module")
def logged_in(manager: Manager, accounts: None) -> Visitor:
    visitor = Visitor(manager)
    assert visitor.log_in("marie").status == 200
    return visitor


@pytest.fixture
def marie(logged_in: Visitor) -> Visitor:
    visitor = Visitor(logged_in.manager)
    visitor.cookies = dict(logged_in.cookies)
    return visitor


def busy(client: redis.Redis) -> Any:
    return read(client, LINE).get("forwards", {}).get("busy")


def test_rules_are_shown_in_words_and_in_order(marie: Visitor, client: redis.Redis) -> None:
    write(client, LINE, forwards={"busy": RULES})
    page = text(marie.get(BUSY))
    words = (
        "messagerie de la ligne, hors « office »",
        "appelants bloqués, liste « vip »",
        "numéro 06 12 34 56 78, ligne 09 72 10 10 02 (Atelier), en même temps, "
        "jusqu’au 7 déc. 2099 à 08:00",
    )  # fmt: skip
    places = [page.index(each) for each in words]
    assert places == sorted(places)
    english = Visitor(marie.manager, "en")
    english.cookies = dict(marie.cookies)
    assert "the line’s voicemail, while “office” is closed" in text(english.get(BUSY))
    for path in (PAGE, f"{PAGE}/forwards", "/lines"):
        assert "office" in text(marie.get(path)) or path == "/lines"


def test_a_rule_is_added_with_its_cost_shown_first(marie: Visitor, client: redis.Redis) -> None:
    page = marie.get(BUSY)
    assert "Aucune règle" in text(page)
    new = {
        "busy__on": "on",
        "busy__service": "number",
        "busy__number": "06 12 34 56 78",
        "busy__when": "office",
        "busy__callers": "outside",
        "busy__until": "2099-12-07T08:00",
    }
    check = marie.submit(page, BUSY, step="validate", **new)
    told = text(check)
    assert "Vérifiez, puis validez" in told
    assert "Déduit de vos 2 h vers les mobiles" in told
    assert "numéro 06 12 34 56 78, pendant « office », appelants extérieurs, jusqu’au 7" in told
    assert busy(client) is None
    done = marie.submit(check, BUSY, step="validate")
    assert "Aucun serveur d’appels ne répond" in text(done)  # no engine runs here
    rule = {
        "on": True,
        "to": TO_MOBILE,
        "when": "office",
        "callers": "outside",
        "until": "2099-12-07T08:00:00+01:00",
    }
    assert busy(client) == rule
    # One more behind it, and the first is turned off.
    page = marie.get(BUSY)
    more = {"busy__on": "on", "busy__service": "reject", "busy__place": "last", "rule__0__on": None}
    check = marie.submit(page, BUSY, step="check", **more)
    assert "Rien ne change" not in text(check)
    marie.submit(check, BUSY, step="validate")
    assert busy(client) == [{**rule, "on": False}, {"on": True, "to": {"kind": "reject"}}]
    # The second is removed: one forward again.
    page = marie.get(BUSY)
    check = marie.submit(page, BUSY, step="check", rule__1__drop="on", rule__0__on="on")
    done = marie.submit(check, BUSY, step="validate")
    assert busy(client) == rule
    assert client.xlen("audit:acme") == 3
    # And back, with the cost shown again.
    undo = re.search(r'href="(/lines/[^"]+/restore\?undo=[^"]+)"', done.text)
    assert undo is not None
    again = marie.get(undo[1])
    assert "appelants bloqués" in text(again)
    marie.submit(again, f"{PAGE}/restore", step="validate")
    assert busy(client) == [{**rule, "on": False}, {"on": True, "to": {"kind": "reject"}}]
    history = marie.get(PAGE)
    restore = re.search(r'href="(/lines/[^"]+/restore\?change=[^"]+)"', history.text)
    assert restore is not None
    assert marie.get(restore[1]).status == 200


def test_a_plain_forward_becomes_the_first_of_a_list(marie: Visitor, client: redis.Redis) -> None:
    plain = {"on": True, "to": OWN, "x_note": 1}
    write(client, LINE, forwards={"busy": plain})
    page = marie.get(BUSY)
    new = {
        "busy__on": "on",
        "busy__service": "voicemail",
        "busy__box": "own",
        "busy__callers": "withheld",
    }
    check = marie.submit(page, BUSY, step="check", **new)
    marie.submit(check, BUSY, step="validate")
    assert busy(client) == [{"on": True, "to": OWN, "callers": "withheld"}, plain]
    form = marie.get(f"{PAGE}/forwards")
    assert "Gérer les règles" in text(form)


@pytest.mark.parametrize("on", [True, False])
def test_the_form_of_the_four_has_no_fault_beside_rules(
    on: bool, marie: Visitor, client: redis.Redis
) -> None:
    rules = [{**each, "on": on} for each in RULES]
    write(client, LINE, forwards={"busy": rules})
    page = marie.get(f"{PAGE}/forwards")
    assert page.status == 200
    assert "Corrigez d’abord" not in text(page)
    assert "Rien ne change" in text(page)


@pytest.mark.parametrize(
    ("new", "problem", "field"),
    [
        (
            {"busy__service": "number", "busy__number": LINE},
            "à elle-même",
            "busy-number",
        ),
        ({"busy__service": "number", "busy__number": ""}, "Indiquez un numéro", "busy-number"),
        ({"busy__service": "voicemail", "busy__when": "beach"}, "Ce nom n’existe pas", "busy-when"),
        (
            {"busy__service": "voicemail", "busy__callers": "list:x"},
            "Ce nom n’existe",
            "busy-callers",
        ),
        ({"busy__service": "voicemail", "busy__callers": "x"}, "Ce nom n’existe", "busy-callers"),
        ({"busy__service": "voicemail", "busy__until": "soon"}, "date et une heure", "busy-until"),
        (
            {"busy__service": "voicemail", "busy__until": "9999-12-31T00:00"},
            "date et",
            "busy-until",
        ),
        ({"busy__service": "pigeon"}, "Choisissez un service", "busy-service"),
    ],
)
@pytest.mark.parametrize("before", [None, RULES])
def test_a_wrong_rule_is_refused_at_its_field(
    marie: Visitor, client: redis.Redis, before: Any, new: dict[str, str], problem: str, field: str
) -> None:
    if before is not None:
        write(client, LINE, forwards={"busy": before})
    stored = client.get(f"line:{LINE}")
    answer = marie.submit(marie.get(BUSY), BUSY, step="validate", busy__on="on", **new)
    assert answer.status == 422
    assert problem in text(answer)
    assert f'href="#{field}"' in answer.text
    assert client.get(f"line:{LINE}") == stored


def test_who_was_faster_is_not_overwritten(marie: Visitor, client: redis.Redis) -> None:
    write(client, LINE, forwards={"busy": RULES})
    page = marie.get(BUSY)
    write(client, LINE, forwards={"busy": RULES[1:]})
    answer = marie.submit(page, BUSY, step="validate", rule__0__drop="on")
    assert answer.status == 409
    assert "modifiée par quelqu’un d’autre" in text(answer)
    assert busy(client) == RULES[1:]


def test_what_was_typed_outlives_the_session(manager: Manager, client: redis.Redis) -> None:
    write(client, LINE, forwards={"busy": RULES})
    others = set(client.scan_iter("manager:session:*"))
    visitor = Visitor(manager)
    visitor.log_in("marie")
    page = visitor.get(BUSY)
    client.delete(*(set(client.scan_iter("manager:session:*")) - others))
    new = {"busy__on": "on", "busy__service": "reject", "busy__callers": "withheld"}
    asked = visitor.submit(page, BUSY, step="validate", rule__0__drop="on", **new)
    assert asked.status == 401
    back = visitor.submit(asked, "/login", account="marie", password=PASSWORD)
    assert back.status == 200
    assert "Vous revoilà" in text(back)
    assert busy(client) == RULES
    visitor.submit(back, BUSY, step="validate")  # what it costs is on that page
    added = {"on": True, "to": {"kind": "reject"}, "callers": "withheld"}
    assert busy(client) == [added, *RULES[1:]]


def test_unknown_conditions_and_lines_of_others(marie: Visitor) -> None:
    assert marie.get(f"/lines/{LINE}/rules/sometimes").status == 404
    assert marie.get(f"/lines/{OTHER}/rules/busy").status == 404
    assert marie.get(f"{PAGE}/restore?undo=x").status == 404
    assert marie.get(f"{PAGE}/restore?change=1-0").status == 404


def test_do_not_disturb_by_one_tap(marie: Visitor, client: redis.Redis) -> None:
    page = marie.get(PAGE)
    assert "Ne pas déranger : Désactivé" in text(page)
    done = marie.submit(page, SWITCH, step="on")
    assert "Ne pas déranger : Désactivé → Activé" in text(done)
    assert read(client, LINE)["do_not_disturb"] is True
    page = marie.get(PAGE)
    assert "Ne pas déranger : Activé" in text(page)
    assert "L’appelant entend « occupé »" in text(marie.get("/lines"))
    marie.submit(page, SWITCH, step="off")
    assert read(client, LINE)["do_not_disturb"] is False
    assert client.xlen("audit:acme") == 2
    assert "Ne pas déranger : Activé → Désactivé" in text(marie.get(PAGE))  # the history
    assert marie.send(marie.get(PAGE), SWITCH, step="perhaps").status == 400


PROFILES = {
    "bureau": {"forwards": {"no_answer": {"on": True, "after_s": 20, "to": OWN}}},
    "congés": {"forwards": {"unconditional": {"on": True, "to": TO_MOBILE}}},
}


def test_a_profile_is_chosen_with_its_cost_shown_first(marie: Visitor, client: redis.Redis) -> None:
    write(client, LINE, label="Accueil", profiles=PROFILES, profile="bureau",
          offer={"mobile": "hours", "mobile_hours": 2})  # fmt: skip
    page = marie.get(PAGE)
    assert "Profil : bureau" in text(page)
    assert "messagerie de la ligne" in text(page)
    check = marie.submit(page, SWITCH, step="check", profile="congés", until="2099-01-05T08:00")
    told = text(check)
    assert "Profil : bureau → congés, bureau" in told
    assert "Tous les appels : Désactivé → numéro 06 12 34 56 78" in told
    assert "Déduit de vos 2 h vers les mobiles" in told
    assert "Le prochain appel part aussitôt vers : numéro 06 12 34 56 78" in told
    assert read(client, LINE)["profile"] == "bureau"
    done = marie.submit(check, SWITCH, step="validate")
    assert "Profil « congés »" in text(done)
    assert read(client, LINE)["profile"] == [
        {"use": "congés", "until": "2099-01-05T08:00:00+01:00"}, {"use": "bureau"},
    ]  # fmt: skip
    page = marie.get(PAGE)
    assert "Les sept jours à venir" in text(page)
    assert "Le profil « congés » est utilisé" in text(marie.get(f"{PAGE}/forwards"))
    assert "06 12 34 56 78" in text(marie.get("/lines"))
    check = marie.submit(page, SWITCH, step="check", profile="")
    marie.submit(check, SWITCH, step="validate")
    assert "profile" not in read(client, LINE)
    for profile, until in (("été", ""), ("bureau", "2020-01-01T00:00"), ("bureau", "x")):
        page = marie.get(PAGE)
        answer = marie.submit(page, SWITCH, step="check", profile=profile, until=until)
        assert answer.status == 422
    assert "profile" not in read(client, LINE)


def test_the_cost_of_a_chain_is_that_of_the_profile_in_use(
    marie: Visitor, client: redis.Redis
) -> None:
    write(client, PEER, label="Atelier", profiles=PROFILES, profile=[{"use": "congés"}])
    page = marie.get(f"{PAGE}/forwards")
    new = {"busy__on": "on", "busy__service": "number", "busy__number": PEER}
    check = text(marie.submit(page, f"{PAGE}/forwards", step="check", **new))
    assert "La ligne 09 72 10 10 02 (Atelier) renvoie à son tour tous ses appels" in check
    assert "C’est la ligne 09 72 10 10 02 (Atelier) qui paie ce renvoi" in check


def test_the_days_to_come_are_a_picture_and_text(marie: Visitor, client: redis.Redis) -> None:
    assert "Les sept jours" not in text(marie.get(PAGE))  # this line does not change by itself
    write(client, LINE, forwards={"unconditional": {"on": True, "when": "not office", "to": OWN}})
    page = marie.get(PAGE)
    assert page.text.count("<rect") >= 7
    told = text(page)
    assert "09:00–18:00 La ligne sonne" in told
    assert "messagerie de la ligne" in told
    assert "Maintenant :" in told
    assert re.search(r"Ensuite, \d+ \w+\.? \d{4} à \d\d:00 : Le prochain appel", told)


def test_a_read_only_visitor_switches_nothing(manager: Manager, client: redis.Redis) -> None:
    manager.command("manager", "account", "add", "support", "--operator", typed=PASSWORD + "\n")
    support = Visitor(manager)
    support.log_in("support")
    fleets = support.get("/fleets")
    token = re.search(r'name="csrf" value="([^"]+)"', fleets.text)
    assert token is not None
    fields = [("csrf", token[1]), ("fleet", "acme")]
    assert path_of(support.request("POST", "/see-as", fields))
    page = support.get(PAGE)
    assert page.status == 200
    assert support.send(page, SWITCH, step="on").status == 403
    assert "do_not_disturb" not in read(client, LINE)


# -- calendars ---------------------------------------------------------------------------------

CALENDARS = "/calendars"


def stored(client: redis.Redis) -> Any:
    return json.loads(str(client.get("fleet:acme")))["calendars"]


def send(visitor: Visitor, page: Answer, **fields: str) -> Answer:
    """One of the page's forms, with these fields only."""
    token = re.search(r'name="csrf" value="([^"]+)"', page.text)
    etag = re.search(r'name="etag" value="([^"]+)"', page.text)
    assert token is not None
    given = {"csrf": token[1], "etag": etag[1] if etag else "", "fleet": "acme", "step": "write"}
    answer = visitor.request("POST", CALENDARS, list((given | fields).items()))
    return visitor.get(answer.headers["location"]) if answer.status == 303 else answer


def test_an_administrator_writes_calendars(marie: Visitor, client: redis.Redis) -> None:
    page = marie.get(CALENDARS)
    assert "09:00-18:00" in page.text
    done = send(marie, page, name="été", mon="08:00-12:00 , 13:00-14:00", holidays="FR-57",
                closed="2027-08-01/2027-08-15\r\n2027-08-20", open="")  # fmt: skip
    assert done.status == 200
    assert stored(client)["été"] == {
        "weekly": {"mon": ["08:00-12:00", "13:00-14:00"]}, "holidays": "FR-57",
        "closed": ["2027-08-01/2027-08-15", "2027-08-20"],
    }  # fmt: skip
    assert stored(client)["office"] == OFFICE
    assert "08:00-12:00, 13:00-14:00" in done.text
    assert client.xlen("audit:acme") == 1
    write(client, LINE, forwards={"busy": {"on": True, "when": "été", "to": OWN}})
    gone = send(marie, done, name="été", step="delete")
    assert "mais 1 lignes le nomment encore" in text(gone)
    assert stored(client) == {"office": OFFICE}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": "a", "mon": "9-12"}, "Des heures comme 09:00-12:30"),
        ({"name": "", "mon": "09:00-12:00"}, "Le nom : de 1 à 64"),
        ({"name": "not a"}, "Le nom : de 1 à 64"),
        ({"name": "a", "holidays": "XX"}, "Un pays comme FR"),
        ({"name": "a", "closed": "demain"}, "Une période par ligne"),
        ({"name": "office", "sun": "x"}, "Des heures comme"),
    ],
)
def test_a_wrong_calendar_is_refused_and_what_was_typed_stays(
    marie: Visitor, client: redis.Redis, fields: dict[str, str], problem: str
) -> None:
    answer = send(marie, marie.get(CALENDARS), **fields)
    assert answer.status == 422
    assert problem in text(answer)
    assert all(value in answer.text for value in fields.values())
    assert stored(client) == {"office": OFFICE}


def test_calendars_of_others_and_of_users(manager: Manager, client: redis.Redis) -> None:
    manager.command("manager", "account", "add", "paul", "--fleet", "acme", "--line", LINE,
                    typed=PASSWORD + "\n")  # fmt: skip
    paul, gil = Visitor(manager), Visitor(manager)
    paul.log_in("paul")
    gil.log_in("gil")
    page = paul.get(CALENDARS)
    assert "readonly" in page.text
    assert 'name="step"' not in page.text
    assert send(paul, page, name="a").status == 404
    assert "office" not in gil.get(f"{CALENDARS}?fleet=acme").text
    page = gil.get(CALENDARS)
    send(gil, page, name="mine", mon="09:00-12:00")  # whatever fleet the form names
    assert "mine" not in stored(client)
    client.delete("fleet:globex")


def test_who_was_faster_at_a_calendar(marie: Visitor, client: redis.Redis) -> None:
    page = marie.get(CALENDARS)
    client.set("fleet:acme", json.dumps({"name": "acme", "calendars": {"b": {}}}))
    answer = send(marie, page, name="a", mon="09:00-12:00")
    assert answer.status == 409
    assert stored(client) == {"b": {}}
