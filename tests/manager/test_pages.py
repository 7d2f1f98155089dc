"""The page over real HTTP, without a browser: every refusal, every guard."""

from __future__ import annotations

import re
import time

import pytest
import redis

from engine.config import Config
from engine.records.record import FIELDS, CallRecord, ForwardRecord, Months, to_entry
from tests.manager.browser import PASSWORD, Visitor, csrf_of, path_of, text
from tests.manager.site import Api, Manager, read, write
from tests.month import this_month
from tests.patience import within

LINE, PEER, FAX, TWIN, OTHER = (f"+3397210100{n}" for n in (1, 2, 3, 4, 9))
FORM = f"/lines/{LINE}/forwards"


@pytest.fixture(scope="module", autouse=True)
def accounts(manager: Manager) -> None:
    for name, whose in (("marie", ["--fleet", "acme"]), ("gil", ["--fleet", "globex"])):
        made = manager.command("manager", "account", "add", name, *whose, typed=PASSWORD + "\n")
        assert made.returncode == 0, made.stderr
    manager.command("manager", "account", "add", "support", "--operator", typed=PASSWORD + "\n")


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> None:
    for key in [*client.scan_iter("audit:*"), *client.scan_iter("manager:attempts:*")]:
        client.delete(key)
    write(client, LINE, label="Accueil", offer={"mobile": "hours", "mobile_hours": 2})
    write(client, PEER, label="Atelier")
    write(client, FAX, label="Télécopie", offer={"fax": True})
    write(client, TWIN, label="Atelier")
    write(client, OTHER, fleet="globex", label="Secret")


@pytest.fixture(scope="module")
def logged_in(manager: Manager, accounts: None) -> Visitor:
    visitor = Visitor(manager)
    assert visitor.log_in("marie").status == 200
    return visitor


@pytest.fixture
def marie(logged_in: Visitor) -> Visitor:
    """A user of fleet acme who is logged in."""
    visitor = Visitor(logged_in.manager)
    visitor.cookies = dict(logged_in.cookies)
    return visitor


# -- authorisation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/lines", f"/lines/{LINE}", FORM, FORM + "/done", "/several", "/suggest"]
)
def test_without_a_session_there_is_only_the_log_in(manager: Manager, path: str) -> None:
    answer = Visitor(manager).request("GET", path)
    assert answer.status == 303
    assert path_of(answer) == "/login"


def test_after_the_log_in_the_requested_page_is_shown(manager: Manager) -> None:
    visitor = Visitor(manager)
    page = visitor.get(FORM)
    after = visitor.send(page, "/login", account="marie", password=PASSWORD)
    assert path_of(after) == FORM
    page = visitor.get("/login?next=//evil.example/")
    away = visitor.send(page, "/login", account="marie", password=PASSWORD)
    assert away.headers["location"] == "/"


def test_wrong_passwords_are_limited_then_refused_unread(manager: Manager) -> None:
    visitor = Visitor(manager)
    for _ in range(10):
        assert visitor.log_in("marie", "wrong wrong wrong").status == 403
    limited = visitor.log_in("marie")
    assert limited.status == 429
    assert int(limited.headers["retry-after"]) > 0
    assert "Trop d’essais" in text(limited)


def test_unknown_and_known_accounts_get_the_same_answer(manager: Manager) -> None:
    known = Visitor(manager).log_in("marie", "wrong wrong wrong")
    unknown = Visitor(manager).log_in("nobody", "wrong wrong wrong")
    assert known.status == unknown.status == 403
    assert text(known) == text(unknown)


def test_the_cookie_is_out_of_reach_of_scripts_and_sites(manager: Manager) -> None:
    visitor = Visitor(manager)
    page = visitor.get("/login")
    answer = visitor.send(page, "/login", account="marie", password=PASSWORD)
    cookie = next(c for c in answer.cookies if c.startswith("renvoi_session="))
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/" in cookie


def test_the_cookie_outlives_the_longest_session_so_that_a_late_form_is_known(
    manager: Manager,
) -> None:
    visitor = Visitor(manager)
    answer = visitor.send(visitor.get("/login"), "/login", account="marie", password=PASSWORD)
    cookie = next(c for c in answer.cookies if c.startswith("renvoi_session="))
    age = int(cookie.partition("Max-Age=")[2].partition(";")[0])
    assert age >= Config().manager.session_max_s + 3600


def test_every_page_has_the_headers(marie: Visitor) -> None:
    for path in ("/login", "/lines", FORM, "/static/page.js", "/nothing"):
        headers = marie.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_logging_out_ends_the_session(manager: Manager) -> None:
    marie = Visitor(manager)
    marie.log_in("marie")
    kept = dict(marie.cookies)
    marie.submit(marie.get("/lines"), "/logout")
    marie.cookies = kept
    assert marie.request("GET", "/lines").status == 303


def test_a_new_password_ends_the_sessions(manager: Manager) -> None:
    manager.command("manager", "account", "add", "temp", "--fleet", "acme", typed=PASSWORD + "\n")
    visitor = Visitor(manager)
    visitor.log_in("temp")
    assert visitor.request("GET", "/lines").status == 200
    manager.command("manager", "account", "password", "temp", typed="another password\n")
    assert visitor.request("GET", "/lines").status == 303
    assert visitor.log_in("temp", "another password").status == 200
    manager.command("manager", "account", "delete", "temp")
    assert visitor.request("GET", "/lines").status == 303


def test_redis_opens_no_session(marie: Visitor, client: redis.Redis) -> None:
    keys = list(client.scan_iter("manager:session:*"))
    assert keys
    assert not any(marie.cookies["renvoi_session"] in key for key in keys)
    kept = [str(client.get(k)) for k in client.scan_iter("manager:account:*")]
    assert all("$argon2id$" in text for text in kept)
    assert not any(PASSWORD in text for text in kept)


def test_a_form_of_another_site_is_refused(marie: Visitor, client: redis.Redis) -> None:
    before = client.get(f"line:{LINE}")
    page = marie.get(FORM)
    assert marie.submit(page, FORM, csrf="x" * 32, step="validate").status == 403
    assert marie.submit(page, FORM, csrf=None, step="validate").status == 403
    token = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert token
    fields = [("csrf", token[1]), ("step", "validate"), ("busy-on", "on")]
    foreign = marie.request("POST", FORM, fields, Origin="https://evil.example")
    assert foreign.status == 403
    assert client.get(f"line:{LINE}") == before


@pytest.mark.parametrize("path", ["", "/forwards", "/forwards/done?change=x"])
def test_a_line_of_another_fleet_is_no_line(marie: Visitor, path: str) -> None:
    assert marie.get(f"/lines/{OTHER}{path}").status == 404
    assert "Secret" not in marie.get(f"/lines/{OTHER}{path}").text


def test_no_route_changes_a_line_of_another_fleet(marie: Visitor, client: redis.Redis) -> None:
    before = client.get(f"line:{OTHER}")
    page = marie.get(FORM)
    token = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert token
    fields = [("csrf", token[1]), ("line", OTHER), ("busy-on", "on")]
    fields += [("busy-service", "voicemail"), ("step", "validate")]
    for path in (f"/lines/{OTHER}/forwards", f"/lines/{OTHER}/forwards/preview"):
        assert marie.request("POST", path, fields).status == 404
    bulk = marie.request("POST", "/several", [*fields[:-1], ("step", "apply")])
    assert bulk.status == 303
    assert client.get(f"line:{OTHER}") == before
    assert "Secret" not in marie.get("/lines?q=secret").text
    assert marie.get(f"/suggest?line=%2B{LINE[1:]}&q=secret").json == []
    assert marie.get(f"/suggest?line=%2B{OTHER[1:]}&q=").status == 404


def test_an_operator_sees_all_fleets(manager: Manager) -> None:
    visitor = Visitor(manager)
    visitor.log_in("support")
    page = text(visitor.get("/lines"))
    assert "Accueil" in page
    assert "Secret" in page
    assert "Accueil" not in text(visitor.get("/lines?fleet=globex"))


# -- the journey, without JavaScript ------------------------------------------------------------


def test_the_journey(marie: Visitor, client: redis.Redis) -> None:
    assert "Accueil" in text(marie.get("/lines"))
    assert "Gestion des appels" in text(marie.get(f"/lines/{LINE}"))
    page = marie.get(FORM)
    for words in (
        "Renvoyer tous les appels vers",
        "Si pas de réponse avant",
        "Si la ligne est occupée",
        "Si la ligne est injoignable ou déconnectée",
        "Messagerie",
        "Fax",
        "Numéro",
        "Valider",
    ):
        assert words in text(page)
    changes = {"busy__on": "on", "busy__service": "number", "busy__number": "06 12 34 56 78"}
    check = marie.submit(page, FORM, step="validate", **changes)
    assert "Vérifiez, puis validez" in text(check)
    assert "Déduit de vos 2 h vers les mobiles : il reste 2 h 00" in text(check)
    assert client.xlen("audit:acme") == 0
    done = marie.submit(check, FORM, step="validate")
    assert "Aucun serveur d’appels ne répond" in text(done)  # no engine runs here
    busy = read(client, LINE)["forwards"]["busy"]
    assert busy == {"on": True, "to": {"kind": "number", "number": "+33612345678"}}
    history = text(marie.get(f"/lines/{LINE}"))
    assert "marie (page)" in history
    assert "Occupée : Désactivé → numéro 06 12 34 56 78" in history


def test_what_was_shown_may_be_validated_at_once(marie: Visitor, client: redis.Redis) -> None:
    page = marie.get(FORM)  # its preview is that of the unchanged form
    again = marie.submit(page, FORM, step="validate")
    assert "avait déjà" in text(again)
    assert client.xlen("audit:acme") == 0


REFUSALS = [
    ("number", "0972101001", "Une ligne ne peut pas se renvoyer à elle-même."),
    ("number", "0899 12 34 56", "Les numéros surtaxés ne sont pas possibles."),
    ("number", "112", "Les numéros d’urgence ne sont pas possibles."),
    ("number", "3900", "Les numéros courts ne sont pas possibles."),
    ("number", "+49 900 1234567 0", "Les numéros surtaxés ne sont pas possibles."),
    ("number", "+49 180 5123456", "Les numéros à coût partagé ne sont pas possibles."),
    ("number", "07 00 00 00 01", "Ce numéro n’est pas attribuable."),
    ("number", "+49 11833", "Les numéros courts ne sont pas possibles."),
    ("number", "06 12 34", "Il manque des chiffres à ce numéro."),
    ("number", "06 12 34 56", "Il manque des chiffres à ce numéro."),
    ("number", "06 12 34 56 78 90 12 34", "Ce numéro a trop de chiffres."),
    ("number", "+999 123456789", "n’est ni un numéro ni le nom d’une ligne."),
    ("number", "tante Odile", "« tante Odile » n’est ni un numéro ni le nom d’une ligne."),
    ("number", "<b>x</b>", "« <b>x</b> » n’est ni un numéro ni le nom d’une ligne."),
    ("number", "atelier", "Plusieurs lignes s’appellent « atelier » : donnez le numéro."),
    ("number", "", "Indiquez un numéro."),
    ("voicemail", "09 72 10 10 09", "Ce n’est pas une ligne de votre parc."),
    ("voicemail", "0612345678", "Ce n’est pas une ligne de votre parc."),
    ("fax", "09 72 10 10 02", "Cette ligne n’a pas l’offre fax."),
    ("fax", "", "Indiquez un numéro."),
    ("pigeon", "x", "Choisissez un service."),
]


@pytest.mark.parametrize(("service", "typed", "problem"), REFUSALS)
def test_refusals_at_the_field_with_what_was_typed(
    marie: Visitor, client: redis.Redis, service: str, typed: str, problem: str
) -> None:
    before = client.get(f"line:{LINE}")
    fields = {"busy__on": "on", "busy__service": service, f"busy__{service}": typed}
    fields["busy__box"] = "other"
    answer = marie.submit(marie.get(FORM), FORM, step="validate", **fields)
    assert answer.status == 422
    assert problem in text(answer)
    name = f"busy-{service}" if service != "pigeon" else "busy-service"
    assert f'href="#{name}"' in answer.text
    assert f'id="{name}-error"' in answer.text
    if typed and service not in ("pigeon", "fax"):
        assert f'value="{typed.replace("<", "&lt;").replace(">", "&gt;")}"' in answer.text
    assert client.get(f"line:{LINE}") == before


@pytest.mark.parametrize("after", ["4", "61", "", "vingt", "-5", "5.5"])
def test_seconds_of_ringing(marie: Visitor, after: str) -> None:
    fields = {"no_answer__on": "on", "no_answer__service": "voicemail", "no_answer__after": after}
    answer = marie.submit(marie.get(FORM), FORM, step="validate", **fields)
    assert answer.status == 422
    assert "entre 5 et 60" in text(answer)


def test_all_problems_are_shown_at_once(marie: Visitor) -> None:
    fields = {"busy__on": "on", "busy__service": "number", "busy__number": "112"}
    fields |= {
        "unreachable__on": "on",
        "unreachable__service": "number",
        "unreachable__number": LINE,
    }
    answer = marie.submit(marie.get(FORM), FORM, step="validate", **fields)
    assert "Il y a 2 problèmes" in text(answer)


def test_a_line_is_found_by_its_name(marie: Visitor, client: redis.Redis) -> None:
    fields = {"busy__on": "on", "busy__service": "fax", "busy__fax": "telecopie"}
    check = marie.submit(marie.get(FORM), FORM, step="validate", **fields)
    marie.submit(check, FORM, step="validate")
    assert read(client, LINE)["forwards"]["busy"]["to"] == {"kind": "fax", "number": FAX}


def test_an_empty_voicemail_is_the_lines_own(marie: Visitor, client: redis.Redis) -> None:
    fields = {"busy__on": "on", "busy__service": "voicemail", "busy__voicemail": ""}
    check = marie.submit(marie.get(FORM), FORM, step="validate", **fields)
    marie.submit(check, FORM, step="validate")
    assert read(client, LINE)["forwards"]["busy"]["to"]["number"] == LINE


def test_fax_is_offered_only_where_there_is_one(marie: Visitor, client: redis.Redis) -> None:
    assert 'value="fax"' in marie.get(FORM).text
    write(client, FAX, label="Télécopie")
    deadline = time.monotonic() + within(2)
    while 'value="fax"' in marie.get(FORM).text:
        assert time.monotonic() < deadline


COSTS = [
    ({"mobile": "unlimited"}, "0612345678", "Hors forfait : l’offre « mobiles illimités »"),
    ({"mobile": "hours", "mobile_hours": 2}, "0612345678", "il reste 1 h 00 ce mois-ci"),
    (
        {"mobile": "hours", "mobile_hours": 1},
        "0612345678",
        "vos 1 h vers les mobiles sont épuisées",
    ),
    ({}, "0612345678", "l’offre de cette ligne ne comprend pas les mobiles"),
    ({"mobile": "unlimited"}, "0140000000", "Au tarif d’un appel ordinaire"),
    ({"mobile": "unlimited"}, "+44 7400 123456", "À l’international : hors forfait"),
    ({"mobile": "hours", "mobile_hours": 2}, "+44 20 7946 0123", "À l’international"),
    ({}, "+881 612345678", "Satellite : hors forfait"),
    ({}, "+44 70 1234 5678", "Numéro personnel : hors forfait"),
    ({}, "+800 1234 5678", "Réseau mondial : hors forfait"),
    ({}, PEER, "Gratuit : ligne de votre parc."),
    ({}, OTHER, "Au tarif d’un appel ordinaire"),
]


@pytest.mark.parametrize(("offer", "typed", "cost"), COSTS)
def test_costs_in_plain_words(
    marie: Visitor, client: redis.Redis, offer: dict[str, object], typed: str, cost: str
) -> None:
    write(client, LINE, offer=offer)
    month = this_month()
    client.hset(f"usage:{LINE}:{month}", "deducted", "3600")
    fields = {"busy__on": "on", "busy__service": "number", "busy__number": typed}
    assert cost in text(marie.submit(marie.get(FORM), FORM, step="check", **fields))


def test_the_fleets_cap_is_shown(marie: Visitor, client: redis.Redis) -> None:
    month = this_month()
    client.set("fleet:acme", '{"name": "acme", "cap_seconds": 7200}')
    client.hset(f"usage:fleet:acme:{month}", "out_of_plan", "3600")
    assert "Il reste 1 h 00 sur 2 h 00" in text(marie.get(f"/lines/{LINE}"))
    client.hset(f"usage:fleet:acme:{month}", "out_of_plan", "7200")
    write(client, LINE, offer={"mobile": "unlimited"})
    fields = {"busy__on": "on", "busy__service": "number", "busy__number": "0612345678"}
    shown = text(marie.submit(marie.get(FORM), FORM, step="check", **fields))
    assert "Le plafond hors forfait du parc est atteint" in shown
    client.delete("fleet:acme", f"usage:fleet:acme:{month}")


def test_calls_abroad_use_the_cap(marie: Visitor, client: redis.Redis) -> None:
    month = this_month()
    client.set("fleet:acme", '{"name": "acme", "cap_seconds": 7200}')
    used = {"out_of_plan": "1800", "international": "900", "satellite": "900", "standard": "99999"}
    for billing, seconds in used.items():
        client.hset(f"usage:fleet:acme:{month}", billing, seconds)
    assert "Il reste 1 h 00 sur 2 h 00" in text(marie.get(f"/lines/{LINE}"))
    client.hset(f"usage:fleet:acme:{month}", "international", "9000")
    fields = {"busy__on": "on", "busy__service": "number", "busy__number": "+44 20 7946 0123"}
    shown = text(marie.submit(marie.get(FORM), FORM, step="check", **fields))
    assert "Le plafond hors forfait du parc est atteint" in shown
    client.delete("fleet:acme", f"usage:fleet:acme:{month}")


def test_a_stored_target_that_is_refused_is_shown_at_the_top(
    marie: Visitor, client: redis.Redis
) -> None:
    to = {"kind": "number", "number": "+4990012345670"}
    write(client, LINE, forwards={"unconditional": {"on": True, "to": to}})
    page = text(marie.get(f"/lines/{LINE}"))
    assert "n’agit pas. Les numéros surtaxés ne sont pas possibles." in page
    to["number"] = "+447400123456"
    write(client, LINE, forwards={"unconditional": {"on": True, "to": to}})
    assert "n’agit pas" not in text(marie.get(f"/lines/{LINE}"))
    client.set("fleet:acme", '{"name": "acme", "forward_countries": ["FR"]}')
    page = text(marie.get(f"/lines/{LINE}"))
    assert "n’agit pas. Les renvois vers ce pays ne sont pas permis à votre parc." in page
    fields = {"busy__on": "on", "busy__service": "number", "busy__number": "+44 20 7946 0123"}
    answer = marie.submit(marie.get(FORM), FORM, step="validate", unconditional__on=None, **fields)
    assert answer.status == 422
    assert "Les renvois vers ce pays ne sont pas permis à votre parc." in text(answer)
    client.delete("fleet:acme")


def test_all_calls_has_precedence_over_the_others(marie: Visitor) -> None:
    fields = {"busy__on": "on", "busy__service": "voicemail", "unconditional__on": "on"}
    fields |= {
        "unconditional__service": "voicemail",
        "unconditional__box": "other",
        "unconditional__voicemail": PEER,
    }
    shown = text(marie.submit(marie.get(FORM), FORM, step="check", **fields))
    assert "« Tous les appels » l’emporte : « Occupée » n’agira pas" in shown
    assert "Le prochain appel part aussitôt vers : messagerie du 09 72 10 10 02 (Atelier)." in shown


def test_forwarded_calls_show_with_their_cost_and_to_the_right_fleet_only(
    marie: Visitor, client: redis.Redis
) -> None:
    for fleet, caller in (("acme", "+33140000007"), ("globex", "+33140000008")):
        forward = ForwardRecord(LINE, "busy", "number", "+33612345678", "deducted", 75, fleet)
        record = CallRecord(
            "x", "y", caller, PEER, 1.0, None, 2.0, 3.0, "busy", "number", "+33612345678",
            "answered", 200, None, "", 75, LINE, "deducted", [forward], [],
        )  # fmt: skip
        entry = to_entry(record, Months("Europe/Paris"))
        client.xadd("cdr", dict(zip(FIELDS, entry.values, strict=True)))
    deadline = time.monotonic() + within(5)
    while "01 40 00 00 07" not in (page := text(marie.get(f"/lines/{LINE}"))):
        assert time.monotonic() < deadline
    assert "Occupée numéro 06 12 34 56 78 Déduit du forfait 1 min" in page
    assert "01 40 00 00 08" not in page
    assert "01 40 00 00 07" not in text(marie.get(f"/lines/{PEER}"))
    client.delete("cdr")


def test_a_withheld_number_is_for_operators_alone(
    manager: Manager, marie: Visitor, client: redis.Redis
) -> None:
    secret, spelt = "+33612345677", "06 12 34 56 77"
    forward = ForwardRecord(LINE, "busy", "number", "+33140000009", "standard", 75, "acme")
    for caller in ("", secret):  # as the engine writes it; and wrongly, with the number
        record = CallRecord(
            "x", "y", caller, PEER, 1.0, None, 2.0, 3.0, "busy", "number", "+33140000009",
            "answered", 200, None, "", 75, LINE, "standard", [forward], [], caller_withheld=secret,
        )  # fmt: skip
        entry = to_entry(record, Months("Europe/Paris"))
        client.xadd("cdr", dict(zip(FIELDS, entry.values, strict=True)))
    deadline = time.monotonic() + within(5)
    while (page := text(marie.get(f"/lines/{LINE}"))).count("Numéro masqué") < 2:
        assert time.monotonic() < deadline
    assert spelt not in page
    support = Visitor(manager)
    support.log_in("support")
    assert text(support.get(f"/lines/{LINE}")).count(f"Numéro masqué {spelt}") == 2
    path = f"/lines/{PEER}/records"
    customer, operator = (
        Api(manager, manager.token(*whose)).get(path)
        for whose in (("--fleet", "acme"), ("--operator",))
    )
    assert secret[1:] not in customer.text
    for answer, shown in ((customer, None), (operator, secret)):
        items = answer.json["items"]
        found = [(i["caller"], i["withheld"], i.get("caller_withheld")) for i in items]
        assert found == [("", True, shown)] * 2
    assert "caller_withheld" not in customer.text
    client.delete("cdr")


def test_two_people_the_second_is_warned_and_sees_both(
    manager: Manager, marie: Visitor, client: redis.Redis
) -> None:
    support = Visitor(manager)
    support.log_in("support")
    theirs, mine = support.get(FORM), marie.get(FORM)
    fields = {
        "busy__on": "on",
        "busy__service": "voicemail",
        "busy__box": "other",
        "busy__voicemail": "09 72 10 10 02",
    }
    check = support.submit(theirs, FORM, step="validate", **fields)
    support.submit(check, FORM, step="validate")
    fields = {"busy__on": "on", "busy__service": "number", "busy__number": "06 12 34 56 78"}
    late = marie.submit(mine, FORM, step="validate", **fields)
    assert late.status == 409
    shown = text(late)
    assert "support l’a modifiée" in shown
    assert "Occupée messagerie du 09 72 10 10 02 (Atelier) numéro 06 12 34 56 78" in shown
    assert read(client, LINE)["forwards"]["busy"]["to"]["kind"] == "voicemail"
    knowing = marie.submit(late, FORM, step="validate")
    assert "C’est enregistré" in text(knowing)
    assert read(client, LINE)["forwards"]["busy"]["to"]["kind"] == "number"


def test_rules_that_another_one_has_made_meanwhile_cost_no_input(
    marie: Visitor, client: redis.Redis
) -> None:
    rules = [{"on": True, "to": {"kind": "voicemail"}, "callers": c} for c in ("fleet", "outside")]
    fields = {
        "busy__on": "on",
        "busy__service": "number",
        "busy__number": "06 12 34 56 78",
        "unreachable__on": "on",
        "unreachable__service": "voicemail",
    }
    page = marie.get(FORM)
    write(client, LINE, forwards={"busy": rules})
    late = marie.submit(page, FORM, step="validate", **fields)
    assert late.status == 422
    assert "Ce renvoi a des règles" in text(late)
    check = marie.submit(late, FORM, step="validate")
    assert "C’est enregistré" in text(marie.submit(check, FORM, step="validate"))
    forwards = read(client, LINE)["forwards"]
    assert forwards["busy"] == rules
    assert forwards["unreachable"]["on"] is True


def test_changed_between_check_and_valider(marie: Visitor, client: redis.Redis) -> None:
    fields = {"busy__on": "on", "busy__service": "voicemail"}
    check = marie.submit(marie.get(FORM), FORM, step="validate", **fields)
    write(client, LINE, label="Standard")
    assert marie.submit(check, FORM, step="validate").status == 409
    assert "forwards" not in read(client, LINE)


def test_a_chosen_voicemail_of_another_line_has_to_be_named(marie: Visitor) -> None:
    fields = {"busy__on": "on", "busy__service": "voicemail", "busy__box": "other"}
    answer = marie.submit(marie.get(FORM), FORM, step="validate", **fields)
    assert answer.status == 422
    assert 'id="busy-voicemail-error"' in answer.text


def test_the_only_fax_line_is_chosen_already(marie: Visitor, client: redis.Redis) -> None:
    fields = {"busy__on": "on", "busy__service": "fax"}
    check = marie.submit(marie.get(FORM), FORM, step="validate", **fields)
    marie.submit(check, FORM, step="validate")
    assert read(client, LINE)["forwards"]["busy"]["to"] == {"kind": "fax", "number": FAX}


def test_several_lines(marie: Visitor, client: redis.Redis) -> None:
    write(client, FAX, label="Télécopie", offer={"fax": True}, suspended=True)
    page = marie.get("/several?" + "&".join(f"line=%2B{n[1:]}" for n in (PEER, FAX, OTHER, LINE)))
    assert "Les mêmes renvois pour 3 lignes" in text(page)
    assert "Choisissez au moins un renvoi" in text(marie.submit(page, "/several", step="check"))
    fields = {"busy__on": "on", "busy__service": "number", "busy__number": "09 72 10 10 02"}
    check = marie.submit(page, "/several", step="check", **fields)
    assert "Lignes à changer : 2" in text(check)
    assert "09 72 10 10 02 Atelier : Une ligne ne peut pas" in text(check)
    suspended = "09 72 10 10 03 Télécopie Suspendue Occupée"
    row = f"{suspended} Désactivé ligne 09 72 10 10 02 (Atelier) Gratuit"
    assert row in text(check)
    assert client.xlen("audit:acme") == 0
    done = marie.submit(check, "/several", step="apply")
    assert "Lignes changées : 2" in text(done)
    assert read(client, FAX)["forwards"]["busy"]["to"]["number"] == PEER
    assert "forwards" not in read(client, PEER)
    assert client.xlen("audit:acme") == 2
    assert row in text(done)
    back = marie.submit(done, "/several/undo", step="check")
    assert "09 72 10 10 03 Télécopie Suspendue Occupée ligne 09 72 10 10 02 (Atelier) Dés" in text(
        back
    )
    assert client.xlen("audit:acme") == 2
    write(client, FAX, label="Télécopie", offer={"fax": True}, forwards={})  # by another user
    undone = marie.submit(back, "/several/undo", step="apply")
    assert "Lignes changées : 1" in text(undone)
    assert "09 72 10 10 03 : Modifiée depuis" in text(undone)
    assert "busy" not in read(client, LINE)["forwards"]
    again = marie.submit(undone, "/several/undo", step="check")
    marie.submit(again, "/several/undo", step="apply")
    assert read(client, LINE)["forwards"]["busy"]["to"]["number"] == PEER


def test_a_change_of_several_lines_is_shown_only_to_their_users(
    manager: Manager, marie: Visitor, client: redis.Redis
) -> None:
    page = marie.get("/several?all=1&q=atelier")
    fields = {"unreachable__on": "on", "unreachable__service": "voicemail"}
    check = marie.submit(page, "/several", step="check", **fields)
    sent = marie.send(check, "/several", step="apply")
    place = sent.headers["location"]
    assert marie.get(place).status == 200
    gil = Visitor(manager)
    gil.log_in("gil")
    assert gil.get(place).status == 404
    assert gil.get("/several/done?change=x").status == 404
    own = csrf_of(gil)
    token = place.partition("=")[2]
    fields_ = [("csrf", own), ("change", token), ("step", "apply")]
    gil.request("POST", "/several/undo", fields_)
    assert read(client, PEER)["forwards"]["unreachable"]["on"]


def test_several_found_lines_and_own_voicemails(marie: Visitor, client: redis.Redis) -> None:
    page = marie.get("/several?all=1&q=atelier")
    fields = {"unreachable__on": "on", "unreachable__service": "voicemail"}
    check = marie.submit(page, "/several", step="check", **fields)
    marie.submit(check, "/several", step="apply")
    for number in (PEER, TWIN):
        assert read(client, number)["forwards"]["unreachable"]["to"]["number"] == number


# -- languages and errors -----------------------------------------------------------------------


def test_the_language_is_the_browsers_until_it_is_switched(manager: Manager) -> None:
    visitor = Visitor(manager, "en-GB,en;q=0.9,fr;q=0.5")
    page = visitor.log_in("marie")
    assert "Choose the line" in text(page)
    assert '<html lang="en">' in page.text
    assert "Choisissez la ligne" in text(visitor.get("/lines?lang=fr"))
    assert "Choisissez la ligne" in text(visitor.get("/lines"))


def test_unknown_pages_are_pages(marie: Visitor) -> None:
    answer = marie.get("/nothing")
    assert answer.status == 404
    assert "Cette page n’existe pas" in text(answer)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/account", "GET, HEAD, POST"), ("/lines", "GET, HEAD"), ("/static/page.js", "GET, HEAD")],
)
def test_a_method_that_a_page_does_not_have_names_those_that_it_has(
    marie: Visitor, path: str, allowed: str
) -> None:
    answer = marie.request("DELETE", path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)


def test_a_refused_document_is_reported(marie: Visitor, client: redis.Redis) -> None:
    write(client, LINE, max_calls=0)
    answer = marie.get(f"/lines/{LINE}")
    assert answer.status == 409
    assert "max_calls" in text(answer)


# -- sessions that end ---------------------------------------------------------------------------


def test_a_first_visit_mentions_no_session(manager: Manager, client: redis.Redis) -> None:
    stranger = Visitor(manager)
    assert "session" not in text(stranger.get(FORM))
    marie = Visitor(manager)
    marie.log_in("marie")
    client.delete(*client.scan_iter("manager:session:*"))
    assert "Votre session est terminée" in text(marie.get(FORM))


def test_what_was_typed_outlives_the_session(manager: Manager, client: redis.Redis) -> None:
    marie = Visitor(manager)
    marie.log_in("marie")
    page = marie.get(FORM)
    client.delete(*client.scan_iter("manager:session:*"))
    fields = {"busy__on": "on", "busy__service": "number", "busy__number": "06 12 34 56 78"}
    asked = marie.submit(page, FORM, step="validate", **fields)
    assert asked.status == 401
    assert "rien n’est encore enregistré" in text(asked)
    asked = marie.submit(asked, "/login", account="marie", password="wrong wrong wrong")
    back = marie.submit(asked, "/login", account="marie", password=PASSWORD)
    assert back.status == 200
    assert 'name="busy-number" value="06 12 34 56 78"' in back.text
    assert "forwards" not in read(client, LINE)
    marie.submit(back, FORM, step="validate")  # that page has the cost
    assert read(client, LINE)["forwards"]["busy"]["to"]["number"] == "+33612345678"
    # it is only for this account and this page
    token = next(iter(client.scan_iter("manager:kept:*"))).removeprefix("manager:kept:")
    assert "Vous revoilà" not in text(marie.get(f"/lines/{PEER}/forwards?kept={token}"))
    other = Visitor(manager)
    other.log_in("support")
    assert "Vous revoilà" not in text(other.get(f"{FORM}?kept={token}"))


def test_what_was_typed_for_several_lines_outlives_it_too(
    manager: Manager, client: redis.Redis
) -> None:
    marie = Visitor(manager)
    marie.log_in("marie")
    page = marie.get("/several?all=1&q=atelier")
    client.delete(*client.scan_iter("manager:session:*"))
    fields = {"busy__on": "on", "busy__service": "number", "busy__number": "0140000000"}
    asked = marie.submit(page, "/several", step="check", **fields)
    back = marie.submit(asked, "/login", account="marie", password=PASSWORD)
    assert "Les mêmes renvois pour 2 lignes" in text(back)
    assert 'name="busy-number" value="0140000000"' in back.text
    stranger = marie.request("POST", "/several", [("x", "y")], Origin="https://evil.example")
    assert stranger.status == 403
