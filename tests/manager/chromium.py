"""A real Chromium; every page that it opens is checked: its console, and axe-core."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.manager.browser import PASSWORD
from tests.manager.site import Manager
from tests.patience import within

# The headless build needs half of the CPU time.
PROGRAM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
AXE = Path(sys.prefix) / "axe" / "node_modules" / "axe-core" / "axe.min.js"
# The directory for screenshots, for example: RENVOI_SCREENSHOTS=docs/manager make test
# ARGS=tests/manager/test_browser.py
SCREENSHOTS = os.environ.get("RENVOI_SCREENSHOTS")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 860}
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
_WAIT_MS = int(1000 * within(10))
expect.set_options(timeout=_WAIT_MS)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=PROGRAM, args=_FLAGS, timeout=2 * _WAIT_MS
        )
        try:
            yield browser
        finally:
            await browser.close()


class Person:
    """A person with a browser. `complaints`: messages on its console."""

    def __init__(self, manager: Manager, context: BrowserContext, page: Page) -> None:
        self.manager = manager
        self.page = page
        self.complaints: list[str] = []
        self._context = context
        context.set_default_timeout(_WAIT_MS)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._on_console)

    @classmethod
    async def sit_down(
        cls,
        browser: Browser,
        manager: Manager,
        language: str = "fr-FR",
        size: dict[str, int] = DESK,
        javascript: bool = True,
        dark: bool = False,
    ) -> Person:
        viewport: Any = size
        context = await browser.new_context(
            locale=language,
            viewport=viewport,
            java_script_enabled=javascript,
            has_touch=size is PHONE,
            reduced_motion="reduce",
            color_scheme="dark" if dark else "light",
        )
        return cls(manager, context, await context.new_page())

    async def leave(self) -> None:
        """Close the browser; its console must be empty."""
        await self._context.close()
        assert not self.complaints

    def _on_console(self, message: Any) -> None:
        # The status of an answer that the page itself handles is not a complaint.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    async def go(self, path: str) -> None:
        await self.page.goto(self.manager.url + path)

    async def log_in(self, name: str = "marie") -> None:
        await self.go("/login")
        await self.page.fill("#account", name)
        await self.page.fill("#password", PASSWORD)
        await self.page.click("main button")
        await self.page.wait_for_url("**/lines")

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.page.keyboard.press(key)

    async def tab_to(self, selector: str) -> None:
        """Tab until that element has the focus."""
        for _ in range(80):
            await self.page.keyboard.press("Tab")
            here = "s => document.activeElement && document.activeElement.matches(s)"
            if await self.page.evaluate(here, selector):
                return
        raise AssertionError(f"Tab never leads to {selector}")

    async def says(self, text: str) -> None:
        """Wait until the page shows this text."""
        await self.page.get_by_text(text).first.wait_for()

    async def shown(self, name: str) -> None:
        """Check the page with axe-core; save a screenshot if screenshots are requested."""
        if SCREENSHOTS:
            folder = Path(SCREENSHOTS)
            folder.mkdir(parents=True, exist_ok=True)
            await self.page.mouse.move(0, 0)
            # A fixed bar would be in the middle of a page that is longer than the screen.
            bar = "() => innerWidth < 900 && !!document.querySelector('.stays')"
            whole = not await self.page.evaluate(bar)
            await self.page.screenshot(path=folder / f"{name}.png", full_page=whole)
        found = await self.axe()
        assert not found, (name, found)

    async def axe(self) -> list[str]:
        """The violations that axe-core finds in the page: rule and element."""
        await self.page.evaluate(AXE.read_text("utf-8"))
        found = await self.page.evaluate("async () => (await axe.run()).violations")
        return [
            f"{rule['impact']} {rule['id']}: {node['html'][:160]}"
            for rule in found
            for node in rule["nodes"]
        ]
