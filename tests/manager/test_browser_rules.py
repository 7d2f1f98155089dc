"""Rules, do not disturb and profiles in a real Chromium, with a real engine: a call follows each
*Valider*."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import redis
from playwright.async_api import Browser, expect

from tests.manager.browser import PASSWORD
from tests.manager.chromium import PHONE, Person, chromium
from tests.manager.site import Manager, read, write
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import RunningEngine, Setup

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINE, PEER = "+33972101001", "+33972101002"
MOBILE, TYPED = "+33612345678", "06 12 34 56 78"
VIP, CALLER = "+33140000001", "+33140000002"
OWN = {"kind": "voicemail", "number": LINE}
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FLEET: dict[str, Any] = {
    "name": "acme",
    "calendars": {
        "toujours": {"weekly": {day: ["00:00-24:00"] for day in DAYS}},
        "bureau": {"weekly": {day: ["09:00-12:30", "14:00-18:00"] for day in DAYS[:5]}},
    },
    "lists": {"vip": [VIP]},
}
PROFILES: dict[str, Any] = {
    "Bureau": {"forwards": {"unreachable": {"on": True, "to": OWN}}},
    "Congés": {"forwards": {"unconditional": {"on": True, "to": OWN}}},
}


@pytest.fixture(scope="module")
def engine(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = Engine(tmp_path_factory.mktemp("engine"), server.url)
    running.start()
    yield running
    assert running.stop() == 0, running.log


@pytest.fixture(scope="module", autouse=True)
def accounts(manager: Manager) -> None:
    manager.command("manager", "account", "add", "marie", "--fleet", "acme", typed=PASSWORD + "\n")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def setup(
    engine: Engine, client: redis.Redis, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Setup]:
    running_engine = RunningEngine(engine, client, tmp_path_factory.mktemp("setup"))
    async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
        yield setup


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def lines(client: redis.Redis, setup: Setup) -> None:
    for key in [*client.scan_iter("audit:*"), *client.scan_iter("manager:attempts:*")]:
        client.delete(key)
    hours = {"mobile": "hours", "mobile_hours": 2}
    client.set("fleet:acme", json.dumps(FLEET))
    write(client, LINE, label="Accueil", offer=hours, profiles=PROFILES)
    by_hours = [
        {"on": True, "when": "not bureau", "to": {"kind": "voicemail", "number": PEER}},
        {"on": True, "callers": "list:vip", "to": {"kind": "number", "number": MOBILE}},
    ]
    no_answer = {"on": True, "after_s": 20, "to": {"kind": "number", "number": LINE}}
    forwards = {"unconditional": by_hours, "no_answer": no_answer}
    write(client, PEER, label="Atelier", forwards=forwards)
    client.delete(f"reg:{LINE}")
    await setup.settle(fleets=True)


async def goes_to(setup: Setup, kind: str, number: str, caller: str = CALLER) -> None:
    """Place a call to the line: it reaches that server with that number, and is answered."""
    identity = ("P-Asserted-Identity", f"<sip:{caller}@renvoi.test>")
    call = await setup.call(LINE, caller=caller, headers=[identity])
    arrived = await setup.server(kind).incoming(number)
    arrived.respond(200)
    answer = await call.final()
    assert answer.code == 200
    call.ack(answer)
    await call.hang_up()


async def is_refused(setup: Setup, code: int, caller: str = CALLER) -> None:
    identity = ("P-Asserted-Identity", f"<sip:{caller}@renvoi.test>")
    call = await setup.call(LINE, caller=caller, headers=[identity])
    assert (await call.final()).code == code


WORDS = {
    "fr-FR": {
        "manage": "Gérer", "add_rules": "Ajouter des règles (Tous les appels)", "number": "Numéro",
        "reject": "Refuser l’appel", "always": "pendant « toujours »", "vip": "liste « vip »",
        "cost": "Déduit de vos 2 h vers les mobiles", "validate": "Valider",
        "done": "C’est en vigueur", "proof": "Le serveur d’appels l’a confirmé en ",
        "rules": "Gérer les règles (Tous les appels)", "week": "Les sept jours à venir",
        "blocked": "appelants bloqués, liste « vip »", "off": "Désactivé",
    },
    "en-GB": {
        "manage": "Manage", "add_rules": "Add rules (All calls)", "number": "Number",
        "reject": "Refuse the call", "always": "while “toujours” is open", "vip": "list “vip”",
        "cost": "Deducted from your 2 h to mobiles", "validate": "Confirm",
        "done": "It is in force", "proof": "The call server confirmed it within ",
        "rules": "Manage the rules (All calls)", "week": "The next seven days",
        "blocked": "blocked callers, list “vip”", "off": "Off",
    },
}  # fmt: skip


@pytest.mark.parametrize("language", WORDS)
async def test_rules_are_added_turned_off_and_removed_and_each_time_a_call(
    browser: Browser, manager: Manager, setup: Setup, client: redis.Redis, language: str
) -> None:
    words, short = WORDS[language], language[:2]
    marie = await Person.sit_down(browser, manager, language)
    page = marie.page
    await marie.log_in()
    await marie.go(f"/lines/{LINE}/forwards")
    await page.get_by_role("link", name=words["add_rules"]).click()
    await page.locator("#unconditional-on").check()
    await page.get_by_role("radio", name=words["number"], exact=True).check()
    await page.fill("#unconditional-number", TYPED)
    await page.select_option("#unconditional-when", label=words["always"])
    await marie.says(words["cost"])
    await marie.shown(f"{short}-14-rule")
    await page.get_by_role("button", name=words["validate"]).click()
    await marie.says(words["done"])
    await marie.says(words["proof"])
    await goes_to(setup, "number", MOBILE)
    # A rule before it, for certain callers.
    await marie.go(f"/lines/{LINE}/forwards")
    await page.get_by_role("link", name=words["rules"]).click()
    await page.locator("#unconditional-on").check()
    await page.get_by_role("radio", name=words["reject"]).check()
    await page.select_option("#unconditional-callers", label=words["vip"])
    await marie.says(words["blocked"])
    await page.get_by_role("button", name=words["validate"]).click()
    await marie.says(words["done"])
    await is_refused(setup, 603, VIP)
    await goes_to(setup, "number", MOBILE)
    await marie.go(f"/lines/{LINE}")
    await marie.says(words["week"])
    await marie.go(f"/lines/{PEER}")
    await marie.shown(f"{short}-15-week")
    # Turn that one off, and remove the other.
    await marie.go(f"/lines/{LINE}/rules/unconditional")
    await marie.shown(f"{short}-16-rules")
    await page.locator("input[name=rule-0-on]").uncheck()
    await page.locator("input[name=rule-1-drop]").check()
    await expect(page.locator("#preview ins")).to_have_text(words["off"])
    await page.get_by_role("button", name=words["validate"]).click()
    await marie.says(words["done"])
    await is_refused(setup, 480, VIP)
    await is_refused(setup, 480)
    rule = {"on": False, "to": {"kind": "reject"}, "callers": "list:vip"}
    assert read(client, LINE)["forwards"]["unconditional"] == rule
    assert client.xlen("audit:acme") == 3
    await marie.leave()


async def test_do_not_disturb_by_one_tap_on_a_phone(
    browser: Browser, manager: Manager, setup: Setup, client: redis.Redis
) -> None:
    phone = await setup.endpoint()
    client.zadd(f"reg:{LINE}", {phone.uri(): time.time() + 600})
    await setup.settle()
    marie = await Person.sit_down(browser, manager, size=PHONE)
    page = marie.page
    await marie.log_in()
    await page.get_by_role("link", name="09 72 10 10 01").tap()
    await page.get_by_role("button", name="Activer Ne pas déranger").tap()
    await marie.says("C’est en vigueur")
    await marie.says("Ne pas déranger : Désactivé → Activé")
    await is_refused(setup, 486)
    await page.get_by_role("link", name="Retour à la ligne").tap()
    await marie.says("Gestion des appels")
    await page.wait_for_load_state()
    wide = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not await page.evaluate(wide), "it scrolls sideways"
    await marie.shown("phone-5-do-not-disturb")
    await page.get_by_role("button", name="Désactiver Ne pas déranger").tap()
    await marie.says("Ne pas déranger : Activé → Désactivé")
    call = await setup.call(LINE, caller=CALLER)
    (await phone.incoming()).respond(486)
    assert (await call.final()).code == 486
    await marie.leave()


@pytest.mark.parametrize("javascript", [True, False])
async def test_a_profile_is_used_and_left(
    browser: Browser, manager: Manager, setup: Setup, javascript: bool
) -> None:
    marie = await Person.sit_down(browser, manager, javascript=javascript)
    page = marie.page
    await marie.log_in()
    await is_refused(setup, 480)  # no phone is connected
    for profile in ("Congés", "Bureau"):
        await marie.go(f"/lines/{LINE}")
        await page.select_option("#profile", label=profile)
        await page.get_by_role("button", name="Aperçu Profil").click()
        await marie.says("Vérifiez, puis validez")
        await marie.says("Gratuit : messagerie.")
        if javascript:
            await marie.shown(f"fr-17-profile-{profile[0].lower()}")
        await page.get_by_role("button", name="Valider").click()
        await marie.says("C’est en vigueur")
        await marie.says(f"Profil « {profile} »")
        await goes_to(setup, "voicemail", LINE)
    await marie.go(f"/lines/{LINE}")
    await page.select_option("#profile", label="Congés")
    await page.fill("#until", "2099-01-05T08:00")
    await page.get_by_role("button", name="Aperçu Profil").click()
    await marie.says("Congés, Bureau")
    await page.get_by_role("button", name="Modifier").click()
    await expect(page.locator("#until")).to_have_value("2099-01-05T08:00")
    await expect(page.locator("#profile")).to_have_value("Congés")
    await page.select_option("#profile", value="")
    await page.fill("#until", "")
    await page.get_by_role("button", name="Aperçu Profil").click()
    await page.get_by_role("button", name="Valider").click()
    await marie.says("C’est en vigueur")
    await is_refused(setup, 480)
    await expect(page.locator(".proof")).to_contain_text("confirmé")
    await marie.leave()


async def test_an_administrator_writes_a_calendar_and_a_rule_uses_it(
    browser: Browser, manager: Manager, setup: Setup
) -> None:
    marie = await Person.sit_down(browser, manager)
    page = marie.page
    await marie.log_in()
    await page.get_by_role("link", name="Calendriers").click()
    await page.fill("#new-name", "astreinte")
    for day in DAYS:
        await page.fill(f"#new-{day}", "00:00-24:00")
    await page.fill("#new-holidays", "Mars")
    await page.locator("#new-name").press("Enter")
    await marie.says("Un pays comme FR")
    await expect(page.locator("#new-mon")).to_have_value("00:00-24:00")
    await page.fill("#new-holidays", "")
    await page.locator("#new-name").press("Enter")
    await expect(page.get_by_role("heading", name="astreinte")).to_be_visible()
    await marie.shown("fr-18-calendars")
    await setup.settle(fleets=True)
    await marie.go(f"/lines/{LINE}/rules/unreachable")
    await page.locator("#unreachable-on").check()
    await page.get_by_role("radio", name="Messagerie", exact=True).check()
    await page.select_option("#unreachable-when", label="pendant « astreinte »")
    await expect(page.locator("#preview ins")).to_contain_text("astreinte")
    await page.get_by_role("button", name="Valider").click()
    await marie.says("C’est en vigueur")
    await goes_to(setup, "voicemail", LINE)
    await marie.leave()
