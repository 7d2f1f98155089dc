"""The whole journey in a real Chromium, with a real engine: after *Valider* the next call goes to
the new target. Every page passes axe-core."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

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

LINE, PEER, FAX, BOSS, OTHER = (f"+3397210100{n}" for n in (1, 2, 3, 4, 9))
MOBILE, TYPED = "+33612345678", "06 12 34 56 78"
CALLER = "+33140000001"


@pytest.fixture(scope="module")
def engine(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = Engine(tmp_path_factory.mktemp("engine"), server.url)
    running.start()
    yield running
    assert running.stop() == 0, running.log


@pytest.fixture(scope="module", autouse=True)
def accounts(manager: Manager) -> None:
    for name, whose in (("marie", ["--fleet", "acme"]), ("support", ["--operator"])):
        manager.command("manager", "account", "add", name, *whose, typed=PASSWORD + "\n")


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


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> None:
    for key in [*client.scan_iter("audit:*"), *client.scan_iter("manager:attempts:*")]:
        client.delete(key)
    hours = {"mobile": "hours", "mobile_hours": 2}
    forwards = {"no_answer": {"on": True, "after_s": 20, "to": {"kind": "voicemail"}}}
    write(client, LINE, label="Accueil", max_calls=2, offer=hours, forwards=forwards)
    write(client, PEER, label="Atelier")
    write(client, FAX, label="Télécopie", offer={"fax": True})
    write(client, BOSS, label="Direction", offer={"mobile": "unlimited"})
    write(client, OTHER, fleet="globex", label="Secret")
    client.zadd(f"reg:{LINE}", {"sip:accueil@127.0.0.1:9": time.time() + 600})


async def goes_to(setup: Setup, kind: str, number: str) -> None:
    """Place a call to the line: it reaches that server with that number, and is answered."""
    call = await setup.call(LINE, caller=CALLER)
    arrived = await setup.server(kind).incoming(number)
    arrived.respond(200)
    answer = await call.final()
    assert answer.code == 200
    call.ack(answer)
    await call.hang_up()


WORDS = {
    "fr-FR": {
        "choose": "Choisissez la ligne",
        "management": "Gestion des appels",
        "forwarding": "Renvoi d’appels",
        "manage": "Gérer",
        "all": "Renvoyer tous les appels vers",
        "number": "Numéro",
        "cost": "Déduit de vos 2 h vers les mobiles : il reste 2 h 00",
        "conflict": "« Tous les appels » l’emporte",
        "validate": "Valider",
        "done": "C’est en vigueur",
        "proof": "Le serveur d’appels l’a confirmé en ",
    },
    "en-GB": {
        "choose": "Choose the line",
        "management": "Call management",
        "forwarding": "Call forwarding",
        "manage": "Manage",
        "all": "Forward all calls to",
        "number": "Number",
        "cost": "Deducted from your 2 h to mobiles: 2 h 00 left",
        "conflict": "“All calls” comes first",
        "validate": "Confirm",
        "done": "It is in force",
        "proof": "The call server confirmed it within ",
    },
}


@pytest.mark.parametrize("language", WORDS)
async def test_the_journey_and_then_a_call(
    browser: Browser, manager: Manager, setup: Setup, client: redis.Redis, language: str
) -> None:
    words, short = WORDS[language], language[:2]
    marie = await Person.sit_down(browser, manager, language)
    page = marie.page
    await marie.go("/login")
    await marie.shown(f"{short}-1-login")
    await marie.log_in()
    await marie.says(words["choose"])
    await marie.shown(f"{short}-2-lines")
    await page.get_by_role("link", name="09 72 10 10 01").click()
    await marie.says(words["management"])
    await marie.shown(f"{short}-3-line")
    await page.get_by_role("link", name=words["manage"]).click()
    await page.get_by_role("heading", name=words["forwarding"]).first.wait_for()
    await marie.shown(f"{short}-4-forwards")
    await page.get_by_label(words["all"], exact=True).check()
    group = page.get_by_role("group", name=words["all"])
    await group.get_by_role("radio", name=words["number"]).check()
    await page.fill("#unconditional-number", TYPED)
    await marie.says(words["cost"])
    await marie.says(words["conflict"])
    await marie.shown(f"{short}-5-preview")
    await page.get_by_role("button", name=words["validate"]).click()
    await marie.says(words["done"])
    await marie.says(words["proof"])
    await goes_to(setup, "number", MOBILE)
    await marie.shown(f"{short}-6-done")
    assert client.xlen("audit:acme") == 1
    await marie.go(f"/lines/{LINE}")
    await marie.shown(f"{short}-7-after")
    await marie.leave()


async def test_without_javascript(browser: Browser, manager: Manager, setup: Setup) -> None:
    marie = await Person.sit_down(browser, manager, javascript=False)
    page = marie.page
    await marie.log_in()
    await page.get_by_role("link", name="09 72 10 10 01").click()
    await page.get_by_role("link", name="Gérer").click()
    await page.check("#unconditional-on")
    await page.check("input[name=unconditional-service][value=voicemail]")
    await page.check("input[name=unconditional-box][value=other]")
    await page.fill("#unconditional-voicemail", "Atelier")
    await page.get_by_role("button", name="Valider").click()
    await marie.says("Vérifiez, puis validez")
    await marie.says("Gratuit : messagerie.")
    await page.get_by_role("button", name="Modifier").click()
    await expect(page.locator("#unconditional-voicemail")).to_have_value("Atelier")
    await page.get_by_role("button", name="Aperçu").click()
    await page.get_by_role("button", name="Valider").click()
    await marie.says("C’est en vigueur")
    await goes_to(setup, "voicemail", PEER)
    await marie.leave()


async def test_keyboard_only(browser: Browser, manager: Manager, setup: Setup) -> None:
    marie = await Person.sit_down(browser, manager)
    page = marie.page
    await marie.go("/login")
    await marie.tab_to("#account")
    await page.keyboard.type("marie")
    await marie.press("Tab")
    await page.keyboard.type(PASSWORD)
    await marie.press("Enter")
    await page.wait_for_url("**/lines")
    await marie.press("/")
    await page.keyboard.type("accueil")
    await marie.says("1 ligne")
    await marie.press("ArrowDown", "Enter")
    await page.wait_for_url(f"**/lines/{LINE}")
    await marie.press("Tab", "Enter")  # the skip link
    await marie.tab_to("a.primary")
    await marie.press("Enter")
    await page.wait_for_url("**/forwards")
    await marie.tab_to("#unconditional-on")
    await marie.press("Space")
    await marie.tab_to("input[name=unconditional-service]")
    await marie.press("ArrowRight", "ArrowRight")
    await marie.tab_to("#unconditional-number")
    await page.keyboard.type("0140000099")
    await marie.says("Au tarif d’un appel ordinaire")
    await marie.tab_to("button.primary")
    await marie.press("Enter")
    await marie.says("C’est en vigueur")
    await goes_to(setup, "number", "+33140000099")
    await marie.leave()


async def test_on_a_phone(browser: Browser, manager: Manager, setup: Setup) -> None:
    marie = await Person.sit_down(browser, manager, size=PHONE)
    page = marie.page
    await marie.log_in()
    await marie.shown("phone-1-lines")
    await page.get_by_role("link", name="09 72 10 10 01").tap()
    await marie.says("Gestion des appels")
    await marie.shown("phone-2-line")
    await page.get_by_role("link", name="Gérer").tap()
    await page.locator("#unconditional-on").tap()
    await page.locator("input[name=unconditional-service][value=fax]").tap()
    chosen = page.locator("#unconditional-fax option:checked")
    await expect(chosen).to_have_text("09 72 10 10 03 – Télécopie")  # the only fax line
    await marie.says("Gratuit : fax du parc.")
    wide = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not await page.evaluate(wide), "it scrolls sideways"
    await marie.shown("phone-3-forwards")
    await page.get_by_role("button", name="Valider").tap()
    await marie.says("C’est en vigueur")
    await marie.shown("phone-4-done")
    await goes_to(setup, "fax", FAX)
    await marie.leave()


async def test_an_operator_sees_a_live_call(
    browser: Browser, manager: Manager, setup: Setup, client: redis.Redis
) -> None:
    support = await Person.sit_down(browser, manager)
    await support.log_in("support")
    write(client, LINE, label="Accueil", forwards={"unconditional": {
        "on": True, "to": {"kind": "number", "number": MOBILE},
    }})  # fmt: skip
    call = await setup.call(LINE, caller=CALLER)
    arrived = await setup.server("number").incoming(MOBILE)
    arrived.respond(200)
    answer = await call.final()
    call.ack(answer)
    await support.go("/live")
    row = support.page.get_by_role("row", name="01 40 00 00 01")
    await expect(row).to_contain_text("09 72 10 10 01 Accueil")
    await expect(row).to_contain_text(TYPED)
    await call.hang_up()
    await support.leave()


REFUSALS = [
    ("number", "09 72 10 10 01", "Une ligne ne peut pas se renvoyer à elle-même."),
    ("number", "08 99 12 34 56", "Les numéros surtaxés ne sont pas possibles."),
    ("number", "112", "Les numéros d’urgence ne sont pas possibles."),
    ("number", "3900", "Les numéros courts ne sont pas possibles."),
    ("number", "tante Odile", "n’est ni un numéro ni le nom d’une ligne."),
    ("number", "06 12 34 56", "Il manque des chiffres à ce numéro."),
    ("number", "", "Indiquez un numéro."),
    ("voicemail", "09 72 10 10 09", "Ce n’est pas une ligne de votre parc."),
]


async def test_every_refusal_at_its_field(
    browser: Browser, manager: Manager, engine: Engine, client: redis.Redis
) -> None:
    before = client.get(f"line:{LINE}")
    marie = await Person.sit_down(browser, manager)
    page = marie.page
    await marie.log_in()
    for service, typed, problem in REFUSALS:
        await marie.go(f"/lines/{LINE}/forwards")
        await page.check("#busy-on")
        await page.check(f"input[name=busy-service][value={service}]")
        if service == "voicemail":
            await page.check("input[name=busy-box][value=other]")
        field = page.locator(f"#busy-{service}")
        await field.fill(typed)
        await page.get_by_role("button", name="Valider").click()
        summary = page.locator("#errors")
        await expect(summary).to_be_focused()
        await expect(summary).to_contain_text(problem)
        await expect(field).to_have_value(typed)
        await expect(field).to_have_attribute("aria-invalid", "true")
        await expect(page.locator(f"#busy-{service}-error")).to_contain_text(problem)
        await summary.get_by_role("link").click()
        await expect(field).to_be_focused()
    await page.fill("#no_answer-after", "90")
    await marie.press("Tab")
    await marie.says("Corrigez d’abord ce qui suit")
    await page.get_by_role("button", name="Valider").click()
    await marie.says("Il y a 2 problèmes")
    await marie.shown("fr-8-refused")
    assert client.get(f"line:{LINE}") == before
    await marie.leave()


async def test_two_people_at_one_line(
    browser: Browser, manager: Manager, engine: Engine, client: redis.Redis
) -> None:
    marie = await Person.sit_down(browser, manager)
    support = await Person.sit_down(browser, manager)
    await marie.log_in()
    await support.log_in("support")
    for person, number in ((marie, TYPED), (support, "09 72 10 10 02")):
        await person.go(f"/lines/{LINE}/forwards")
        await person.page.check("#busy-on")
        await person.page.check("input[name=busy-service][value=number]")
        await person.page.fill("#busy-number", number)
        await expect(person.page.locator("#preview")).to_contain_text(number)
    await support.page.get_by_role("button", name="Valider").click()
    await support.says("C’est en vigueur")
    await marie.page.get_by_role("button", name="Valider").click()
    await marie.says("Cette ligne vient d’être modifiée")
    await expect(marie.page.locator("#changed")).to_contain_text("support")
    await expect(marie.page.locator("#changed")).to_contain_text("ligne 09 72 10 10 02")
    await expect(marie.page.locator("#changed")).to_contain_text(f"numéro {TYPED}")
    await marie.shown("fr-9-changed")
    assert read(client, LINE)["forwards"]["busy"]["to"]["number"] == PEER
    await marie.page.get_by_role("button", name="Valider").click()
    await marie.says("C’est en vigueur")
    assert read(client, LINE)["forwards"]["busy"]["to"]["number"] == MOBILE
    await marie.leave()
    await support.leave()


async def test_several_lines(
    browser: Browser, manager: Manager, engine: Engine, client: redis.Redis
) -> None:
    marie = await Person.sit_down(browser, manager)
    page = marie.page
    await marie.log_in()
    for number in ("09 72 10 10 01", "09 72 10 10 02", "09 72 10 10 04"):
        await page.get_by_label(f"Choisir {number}").check()
    await page.get_by_role("button", name="Appliquer à plusieurs lignes").click()
    await marie.says("Les mêmes renvois pour 3 lignes")
    group = page.get_by_role("group", name="Si la ligne est injoignable")
    await group.get_by_label("Activer", exact=True).check()
    await group.get_by_role("radio", name="Numéro").check()
    await page.fill("#unreachable-number", "09 72 10 10 02")
    await marie.shown("fr-10-several")
    await page.get_by_role("button", name="Aperçu").click()
    await marie.says("Lignes à changer : 2")
    await marie.shown("fr-11-several-check")
    await page.get_by_role("button", name="Valider").click()
    await marie.says("Lignes changées : 2")
    await marie.shown("fr-12-several-done")
    assert read(client, BOSS)["forwards"]["unreachable"]["to"]["number"] == PEER
    await marie.leave()


async def test_suggestions_and_search_while_typing(
    browser: Browser, manager: Manager, engine: Engine
) -> None:
    marie = await Person.sit_down(browser, manager)
    page = marie.page
    await marie.log_in()
    await page.fill("#q", "ateli")
    await marie.says("1 ligne")
    await expect(page.locator("a.pick")).to_have_count(1)
    await marie.go(f"/lines/{LINE}/forwards")
    await page.check("#busy-on")
    await page.check("input[name=busy-service][value=number]")
    await page.locator("#busy-number").press_sequentially("direc")
    await expect(page.locator("#busy-number-list option")).to_have_count(1)
    await expect(page.locator("#busy-number-list option")).to_have_attribute(
        "value", "09 72 10 10 04"
    )
    await marie.go("/nothing")
    await marie.shown("fr-13-nothing")
    await marie.leave()
