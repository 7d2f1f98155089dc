"""Rules of a condition, do not disturb, profiles and the days to come on the page, without a
browser."""

from __future__ import annotations

import hashlib
import html
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
    shown = text(check)
    assert "Vérifiez, puis validez" in shown
    assert "Déduit de vos 2 h vers les mobiles" in shown
    assert "numéro 06 12 34 56 78, pendant « office », appelants extérieurs, jusqu’au 7" in shown
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
    # Add one after it, and turn the first off.
    page = marie.get(BUSY)
    more = {"busy__on": "on", "busy__service": "reject", "busy__place": "last", "rule__0__on": None}
    check = marie.submit(page, BUSY, step="check", **more)
    assert "Rien ne change" not in text(check)
    marie.submit(check, BUSY, step="validate")
    assert busy(client) == [{**rule, "on": False}, {"on": True, "to": {"kind": "reject"}}]
    # Remove the second: one forward again.
    page = marie.get(BUSY)
    check = marie.submit(page, BUSY, step="check", rule__1__drop="on", rule__0__on="on")
    done = marie.submit(check, BUSY, step="validate")
    assert busy(client) == rule
    assert client.xlen("audit:acme") == 3
    # Undo it, with the cost shown again.
    undo = re.search(r'href="(/lines/[^"]+/restore\?undo=[^"]+)"', done.text)
    assert undo is not None
    again = marie.get(undo[1])
    assert "appelants bloqués" in text(again)
    # A link writes nothing, whoever made it.
    seen = re.search(r'name="seen" value="([^"]+)"', again.text)
    assert seen is not None
    link = marie.request("GET", f"{undo[1]}&step=validate&seen={seen[1]}")
    assert link.status == 200
    assert busy(client) == rule
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


def test_an_earlier_change_is_not_overwritten(marie: Visitor, client: redis.Redis) -> None:
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
    visitor.submit(back, BUSY, step="validate")  # that page has the cost
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
    shown = text(check)
    assert "Profil : bureau → congés, bureau" in shown
    assert "Tous les appels : Désactivé → numéro 06 12 34 56 78" in shown
    assert "Déduit de vos 2 h vers les mobiles" in shown
    assert "Le prochain appel part aussitôt vers : numéro 06 12 34 56 78" in shown
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


def test_a_chosen_profile_outlives_its_session(manager: Manager, client: redis.Redis) -> None:
    """It comes back after the log-in with its cost, unsaved; do not disturb has nothing typed."""
    write(client, LINE, profiles=PROFILES)
    visitor = Visitor(manager)
    visitor.log_in("marie")
    chosen = {"profile": "congés", "until": "2099-01-05T08:00"}
    for step, status in (("on", 303), ("check", 401)):
        page = visitor.get(PAGE)
        sid = hashlib.sha256(visitor.cookies["renvoi_session"].encode()).hexdigest()
        assert client.delete(f"manager:session:{sid}") == 1
        ended = visitor.send(page, SWITCH, step=step, **(chosen if step == "check" else {}))
        assert ended.status == status
        asked = visitor.get("/login") if status == 303 else ended
        back = visitor.submit(asked, "/login", account="marie", password=PASSWORD)
        assert back.status == 200
    assert "Voici votre saisie" in text(back)
    assert "Tous les appels : Désactivé → numéro 06 12 34 56 78" in text(back)
    assert read(client, LINE).keys() == {"number", "fleet", "profiles"}
    visitor.submit(back, SWITCH, step="validate")
    until = "2099-01-05T08:00:00+01:00"
    assert read(client, LINE)["profile"] == [{"use": "congés", "until": until}]


@pytest.mark.parametrize(
    ("profile", "until", "why"),
    [
        ("congés", "2020-01-01T00:00", "une date et une heure à venir"),
        ("", "2099-01-05T08:00", "Une fin suppose un profil"),
    ],
)
def test_a_refused_profile_is_corrected_and_not_typed_again(
    marie: Visitor, client: redis.Redis, profile: str, until: str, why: str
) -> None:
    write(client, LINE, profiles=PROFILES, profile="bureau")
    page = marie.get(PAGE)
    check = marie.submit(page, SWITCH, step="check", profile=profile, until=until)
    assert check.status == 422
    assert why in text(check)
    assert marie.submit(check, SWITCH, step="validate").status == 422
    back = marie.submit(check, SWITCH, step="edit")
    assert back.status == 200
    assert f'name="until" value="{until}"' in back.text
    assert re.findall(r"<option selected>([^<]*)", back.text) == ([profile] if profile else [])
    assert read(client, LINE)["profile"] == "bureau"


def test_a_profile_that_is_gone_meanwhile_is_refused(marie: Visitor, client: redis.Redis) -> None:
    write(client, LINE, profiles=PROFILES)
    check = marie.submit(marie.get(PAGE), SWITCH, step="check", profile="congés")
    write(client, LINE, profiles={"bureau": PROFILES["bureau"]})
    answer = marie.submit(check, SWITCH, step="validate")
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


def test_a_forward_that_has_ended_is_shown_as_off(marie: Visitor, client: redis.Redis) -> None:
    """In the list of lines, and on the page of the line."""
    ended = {"on": True, "to": TO_MOBILE, "until": "2020-01-01T08:00:00+01:00"}
    write(client, LINE, forwards={"busy": ended, "unreachable": [ended, {"on": True, "to": OWN}]})
    assert "06 12 34 56 78" not in text(marie.get("/lines"))
    shown = text(marie.get(PAGE))
    assert "Si la ligne est occupée Désactivé" in shown
    assert re.search(r"06 12 34 56 78, jusqu’au [^(]*\(Désactivé\)", shown)


def test_the_days_to_come_are_a_picture_and_text(marie: Visitor, client: redis.Redis) -> None:
    assert "Les sept jours" not in text(marie.get(PAGE))  # this line does not change by itself
    write(client, LINE, forwards={"unconditional": {"on": True, "when": "not office", "to": OWN}})
    page = marie.get(PAGE)
    assert page.text.count("<rect") >= 7
    shown = text(page)
    assert "09:00–18:00 La ligne sonne" in shown
    assert "messagerie de la ligne" in shown
    assert "Maintenant :" in shown
    assert re.search(r"Ensuite, \d+ \w+\.? \d{4} à \d\d:00 : Le prochain appel", shown)


def test_the_language_is_switched_on_a_page_that_a_form_led_to(
    manager: Manager, client: redis.Redis
) -> None:
    write(client, LINE, label="Accueil", profiles=PROFILES)
    visitor = Visitor(manager)
    visitor.log_in("marie")
    token = re.search(r'name="csrf" value="([^"]+)"', visitor.get(PAGE).text)
    assert token is not None
    fields = [("csrf", token[1]), ("step", "check"), ("profile", "congés")]
    check = visitor.request("POST", SWITCH, fields)
    assert check.status == 200
    link = re.search(r'class="language" href="([^"]+)"', check.text)
    assert link is not None
    page = visitor.get(html.unescape(link[1]))
    assert page.status == 200
    assert '<html lang="en">' in page.text
    assert "Call management" in text(page)
    for path in ("/logout", "/see-as/end", "/several/undo"):
        assert visitor.get(f"{path}?lang=fr").status == 200
        assert '<html lang="fr">' in visitor.get("/lines").text


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
    """Send one of the page's forms, with these fields only."""
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


def test_a_calendar_outlives_its_session(manager: Manager, client: redis.Redis) -> None:
    """What was typed comes back after the log-in, unsaved."""
    for name, new in (("office", ""), ("nights", "1")):
        visitor = Visitor(manager)
        visitor.log_in("marie")
        page = visitor.get(CALENDARS)
        sid = hashlib.sha256(visitor.cookies["renvoi_session"].encode()).hexdigest()
        assert client.delete(f"manager:session:{sid}") == 1
        ended = send(visitor, page, name=name, new=new, mon="10:00-11:00", closed="2027-08-01")
        assert ended.status == 401
        back = visitor.submit(ended, "/login", account="marie", password=PASSWORD)
        assert back.status == 200
        assert "Voici votre saisie" in text(back)
        assert "2027-08-01" in back.text
        assert stored(client) == {"office": OFFICE}
        there, _, fresh = back.text.partition('id="h-new"')
        assert "10:00-11:00" in (fresh if new else there)
        assert f'value="{name}"' in (fresh if new else there)


def test_kept_input_of_a_field_without_a_value_is_none(manager: Manager) -> None:
    """The browser keeps it until the log-in, so it may be anything."""
    visitor = Visitor(manager)
    kept = {"typed": '{"name": [], "mon": ["09:00-10:00"]}', "next": CALENDARS}
    page = visitor.get("/login")
    back = visitor.submit(page, "/login", account="marie", password=PASSWORD, **kept)
    assert back.status == 200
    assert "09:00-10:00" in back.text


def test_a_calendar_with_many_days_keeps_them_all(marie: Visitor, client: redis.Redis) -> None:
    """As one that the API has written."""
    days = [f"{year}-{month:02}-{day:02}" for year in (2027, 2028) for month in range(1, 13)
            for day in range(1, 26)]  # fmt: skip
    document = {"name": "acme", "calendars": {"office": OFFICE | {"closed": days}}}
    client.set("fleet:acme", json.dumps(document))
    page = marie.get(CALENDARS)
    typed = re.search(r'name="closed"[^>]*>\n([^<]*)<', page.text)
    assert typed is not None
    closed = typed[1].replace("\n", "\r\n")
    assert send(marie, page, name="office", mon="10:00-11:00", closed=closed).status == 200
    assert stored(client) == {"office": {"weekly": {"mon": ["10:00-11:00"]}, "closed": days}}


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


@pytest.mark.parametrize(
    ("language", "problem"),
    [("fr", "Un calendrier porte déjà ce nom"), ("en", "A calendar of this name exists already")],
)
def test_a_new_calendar_replaces_none_of_its_name(
    marie: Visitor, client: redis.Redis, language: str, problem: str
) -> None:
    """What was typed stays in the form for a new one, so that it is not saved as the other."""
    page = marie.get(f"{CALENDARS}?lang={language}")
    assert page.text.count('name="new"') == 1
    answer = send(marie, page, name="office", mon="10:00-11:00", new="1")
    marie.get(f"{CALENDARS}?lang=fr")
    assert answer.status == 422
    assert problem in text(answer)
    assert stored(client) == {"office": OFFICE}
    there, _, fresh = answer.text.partition('id="h-new"')
    assert ("10:00-11:00" in there, "10:00-11:00" in fresh) == (False, True)
    assert "09:00-18:00" in there
    assert send(marie, answer, name="desk", mon="10:00-11:00", new="1").status == 200
    assert stored(client).keys() == {"office", "desk"}
    assert send(marie, marie.get(CALENDARS), name="desk", mon="11:00-12:00").status == 200
    assert stored(client)["desk"] == {"weekly": {"mon": ["11:00-12:00"]}}


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
    send(gil, page, name="mine", mon="09:00-12:00")  # the fleet in the form is ignored
    assert "mine" not in stored(client)
    client.delete("fleet:globex")


def test_an_earlier_change_of_a_calendar(marie: Visitor, client: redis.Redis) -> None:
    page = marie.get(CALENDARS)
    client.set("fleet:acme", json.dumps({"name": "acme", "calendars": {"b": {}}}))
    answer = send(marie, page, name="a", mon="09:00-12:00")
    assert answer.status == 409
    assert stored(client) == {"b": {}}
