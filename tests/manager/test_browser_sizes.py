"""The pages in a real Chromium at the widths of desktops and phones, in light and dark, in both
languages: nothing scrolls sideways, axe-core finds no fault, ticks are kept."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import redis
from playwright.async_api import Browser, expect

from tests.manager.browser import PASSWORD
from tests.manager.chromium import DESK, PHONE, Person, chromium
from tests.manager.site import Manager, write

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINE, PEER, FAX, BOSS = (f"+3397210100{n}" for n in (1, 2, 3, 4))
SMALL = {"width": 320, "height": 640}
WIDE = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def accounts(manager: Manager) -> None:
    for name, whose in (("marie", ["--fleet", "acme"]), ("support", ["--operator"])):
        manager.command("manager", "account", "add", name, *whose, typed=PASSWORD + "\n")


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> None:
    for key in client.scan_iter("manager:attempts:*"):
        client.delete(key)
    boss = {"on": True, "to": {"kind": "number", "number": "+33612345678"}}
    busy = {"on": True, "to": {"kind": "number", "number": BOSS}}
    hours = {"mobile": "hours", "mobile_hours": 2}
    write(client, LINE, label="Accueil", max_calls=2, offer=hours, forwards={"busy": busy})
    write(client, PEER, label="Atelier de mécanique générale et de peinture", suspended=True)
    write(client, FAX, label="Télécopie", offer={"fax": True})
    write(
        client,
        BOSS,
        label="Direction",
        forwards={"unconditional": boss, "busy": busy | {"on": False}},
    )
    client.zadd(f"reg:{LINE}", {"sip:accueil@127.0.0.1:9": time.time() + 600})
    client.zadd(f"reg:{BOSS}", {"sip:boss@127.0.0.1:9": time.time() + 600})


PAGES = {
    "lines": "/lines",
    "line": f"/lines/{LINE}",
    "forwards": f"/lines/{LINE}/forwards",
    "history": f"/lines/{LINE}/calls",
    "rules": f"/lines/{LINE}/rules/unconditional",
    "calendars": "/calendars",
    "own": "/account",
    "accounts": "/accounts",
    "several": f"/several?line=%2B{LINE[1:]}&line=%2B{PEER[1:]}",
}


@pytest.mark.parametrize("language", ["fr-FR", "en-GB"])
@pytest.mark.parametrize("size", [DESK, PHONE, SMALL], ids=["1280", "390", "320"])
async def test_every_page_at_every_width(
    browser: Browser, manager: Manager, language: str, size: dict[str, int]
) -> None:
    dark = size is PHONE  # dark on phones
    marie = await Person.sit_down(browser, manager, language, size, dark=dark)
    await marie.log_in()
    for name, path in PAGES.items():
        await marie.go(path)
        await marie.shown(f"{language[:2]}-{size['width']}-{name}")
        assert not await marie.page.evaluate(WIDE), f"{path} scrolls sideways"
        header = await marie.page.locator("header.top").bounding_box()
        assert header is not None
        assert header["height"] < 70, "the header takes more than one row"
    await marie.leave()


OPERATORS = ("fleets", "live", "registrations", "changes", "accounts", "lines")


@pytest.mark.parametrize("size", [DESK, PHONE, SMALL], ids=["1280", "390", "320"])
async def test_the_operators_pages_at_every_width(
    browser: Browser, manager: Manager, size: dict[str, int]
) -> None:
    language = "en-GB" if size is PHONE else "fr-FR"
    support = await Person.sit_down(browser, manager, language, size, dark=size is PHONE)
    await support.log_in("support")
    for name in OPERATORS:
        await support.go(f"/{name}")
        await support.shown(f"operator-{size['width']}-{name}")
        assert not await support.page.evaluate(WIDE), f"{name} scrolls sideways"
    await support.leave()


async def test_dark_is_dark(browser: Browser, manager: Manager) -> None:
    marie = await Person.sit_down(browser, manager, dark=True)
    await marie.go("/login")
    assert not await marie.axe()
    ground = "() => getComputedStyle(document.body).backgroundColor"
    assert await marie.page.evaluate(ground) == "rgb(18, 23, 31)"
    await marie.leave()


async def test_cost_and_valider_stay_in_sight_on_a_phone(
    browser: Browser, manager: Manager
) -> None:
    marie = await Person.sit_down(browser, manager, size=PHONE)
    page = marie.page
    await marie.log_in()
    await marie.go(f"/lines/{LINE}/forwards")
    validate = page.get_by_role("button", name="Valider")
    await expect(validate).to_be_in_viewport()
    await page.locator("#unconditional-on").tap()
    await page.locator("input[name=unconditional-service][value=number]").tap()
    await page.fill("#unconditional-number", "0612345678")
    cost = page.locator(".cost-now")
    await expect(cost).to_contain_text("Déduit du forfait")
    await expect(cost).to_be_in_viewport()
    await expect(validate).to_be_in_viewport()
    await marie.leave()


async def test_ticks_stay_across_searches(browser: Browser, manager: Manager) -> None:
    marie = await Person.sit_down(browser, manager)
    page = marie.page
    await marie.log_in()
    await page.get_by_label("Choisir 09 72 10 10 01").check()
    await page.fill("#q", "direction")
    await marie.says("1 ligne pour « direction »")
    await page.get_by_label("Choisir toutes les lignes").check()
    await marie.says("2 lignes choisies")
    await page.fill("#q", "")
    await marie.says("4 lignes")
    await expect(page.get_by_label("Choisir 09 72 10 10 01")).to_be_checked()
    await expect(page.get_by_label("Choisir 09 72 10 10 02")).not_to_be_checked()
    await page.fill("#q", "atelier")
    await marie.says("1 ligne pour « atelier »")
    await page.get_by_role("button", name="Appliquer à plusieurs lignes").click()
    await marie.says("Les mêmes renvois pour 2 lignes")
    await marie.go("/lines")
    await page.get_by_role("button", name="Tout décocher").click()
    await expect(page.get_by_label("Choisir 09 72 10 10 01")).not_to_be_checked()
    await marie.leave()
