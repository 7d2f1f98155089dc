"""The form of the forwards in a real Chromium during input: never an outdated cost, and no
unnecessary error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import redis
from playwright.async_api import Browser, expect

from tests.manager.browser import PASSWORD
from tests.manager.chromium import Person, chromium
from tests.manager.site import Manager, read, write
from tests.scenarios.processes import RedisServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINE, PEER, OTHER = (f"+3397210100{n}" for n in (1, 2, 9))
FORM = f"/lines/{LINE}/forwards"
MOBILE = "06 12 34 56 78"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def accounts(manager: Manager) -> None:
    manager.command("manager", "account", "add", "marie", "--fleet", "acme", typed=PASSWORD + "\n")


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> None:
    for key in [*client.scan_iter("audit:*"), *client.scan_iter("manager:attempts:*")]:
        client.delete(key)
    write(client, LINE, label="Accueil", max_calls=2, offer={"mobile": "unlimited"})
    write(client, PEER, label="Atelier")
    write(client, OTHER, fleet="globex", label="Secret")


async def fills_in(browser: Browser, manager: Manager) -> Person:
    """A person who has chosen *Messagerie* for all calls; the page shows that it is free."""
    marie = await Person.sit_down(browser, manager)
    await marie.log_in()
    await marie.go(FORM)
    await marie.page.check("#unconditional-on")
    await expect(marie.page.locator("#preview")).to_contain_text("Gratuit : messagerie.")
    return marie


async def chooses_a_mobile(marie: Person) -> None:
    await marie.page.check("input[name=unconditional-service][value=number]")
    await marie.page.fill("#unconditional-number", MOBILE)


async def test_no_old_cost_when_redis_is_away(browser: Browser, tmp_path: Path) -> None:
    server = RedisServer(tmp_path, keeps=True)
    server.start()
    manager = Manager(tmp_path, server.url)
    manager.start()
    try:
        write(server.client, LINE, label="Accueil", offer={"mobile": "unlimited"})
        write(server.client, PEER, label="Atelier")
        manager.command("manager", "account", "add", "marie", "--fleet", "acme", typed=PASSWORD)
        marie = await fills_in(browser, manager)
        server.kill()
        await chooses_a_mobile(marie)
        preview = marie.page.locator("#preview")
        await expect(preview).to_contain_text("Aperçu indisponible")
        assert "Gratuit" not in await preview.inner_text()
        assert not await marie.axe()
        await marie.page.get_by_role("button", name="Valider").click()
        await marie.says("Rien n’a été modifié")
        server.start()
        retry = marie.page.get_by_role("button", name="Réessayer")
        await retry.click()
        await marie.says("Hors forfait")  # not written until its cost was shown
        assert "forwards" not in read(server.client, LINE)
        await marie.leave()
    finally:
        status = manager.stop()
        server.stop()
    assert status == 0
    assert "Traceback" not in manager.log


async def test_an_ended_session_shows_no_old_cost_and_keeps_what_was_typed(
    browser: Browser, manager: Manager, client: redis.Redis
) -> None:
    marie = await fills_in(browser, manager)
    client.delete(*client.scan_iter("manager:session:*"))
    await chooses_a_mobile(marie)
    preview = marie.page.locator("#preview")
    await expect(preview).to_contain_text("votre session est terminée")
    assert "Gratuit" not in await preview.inner_text()
    await preview.get_by_role("button", name="Se reconnecter").click()
    await marie.says("vous retrouverez votre saisie")
    await marie.page.fill("#account", "marie")
    await marie.page.fill("#password", PASSWORD)
    await marie.page.click("main button")
    await marie.says("Vous revoilà")
    await expect(marie.page.locator("#unconditional-number")).to_have_value(MOBILE)
    await expect(preview).to_contain_text("Hors forfait")
    await marie.page.get_by_role("button", name="Valider").click()
    await marie.says("C’est enregistré")
    assert read(client, LINE)["forwards"]["unconditional"]["to"]["number"] == "+33612345678"
    await marie.leave()


async def test_a_number_is_judged_when_it_is_left_not_at_every_key(
    browser: Browser, manager: Manager
) -> None:
    marie = await fills_in(browser, manager)
    page, preview = marie.page, marie.page.locator("#preview")
    await page.check("input[name=unconditional-service][value=number]")
    field = page.locator("#unconditional-number")
    problem = page.locator("#unconditional-number-error")
    await field.press_sequentially("06123")
    await expect(preview).to_contain_text("dès que la saisie est complète")
    await expect(problem).to_have_count(0)
    await marie.press("Tab")
    await expect(problem).to_contain_text("Il manque des chiffres à ce numéro.")
    await expect(preview).to_contain_text("Corrigez d’abord")
    await expect(field).to_have_attribute("aria-invalid", "true")
    assert not await marie.axe()
    await field.fill(MOBILE)
    await expect(problem).to_have_count(0)
    await expect(preview).to_contain_text("Hors forfait")
    assert await field.get_attribute("aria-invalid") is None
    await marie.leave()


async def test_an_error_goes_when_it_is_corrected(browser: Browser, manager: Manager) -> None:
    marie = await fills_in(browser, manager)
    page = marie.page
    for condition in ("unconditional", "busy"):
        await page.check(f"#{condition}-on")
        await page.check(f"input[name={condition}-service][value=number]")
        await page.fill(f"#{condition}-number", "0612")
    await page.get_by_role("button", name="Valider").click()
    summary = page.locator("#errors")
    await expect(summary).to_contain_text("Il y a 2 problèmes")
    await page.fill("#busy-number", MOBILE)
    await expect(summary).to_contain_text("Il y a un problème")
    await expect(page.locator("#busy-number-error")).to_have_count(0)
    await page.uncheck("#unconditional-on")
    await expect(summary).to_have_count(0)
    await expect(page.locator(".problem")).to_have_count(0)
    await marie.leave()
