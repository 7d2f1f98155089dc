"""A store on any Redis, and functions that wait for its state."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from rules.numbers import Numbering
from store.client import Client, close
from store.lines import Store, Unavailable
from tests.patience import within

FRANCE = Numbering("FR")


def document(number: str, **fields: Any) -> str:
    return json.dumps({"number": number, "fleet": "acme"} | fields)


@asynccontextmanager
async def store_on(client: Client, cache_lines: int = 1000) -> AsyncIterator[Store]:
    """A store that runs on a client, which is closed with it."""
    store = Store(
        client,
        numbering=FRANCE,
        cache_lines=cache_lines,
        stale_max_s=3600,
        timezone="Europe/Paris",
        canary=f"test-{time.monotonic_ns()}",
    )
    try:
        await store.start()
        yield store
    finally:
        await store.close()
        await close(client)


async def until(condition: Callable[[], object], limit_s: float = 10) -> float:
    """Wait for a condition; the seconds it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < within(limit_s), "it did not happen"
        await asyncio.sleep(0.002)
    return time.monotonic() - start


async def labelled(store: Store, number: str, expected: str, limit_s: float = 1.0) -> float:
    """Wait until the rules in force are the expected ones; the seconds it took."""
    start = time.monotonic()
    while True:
        with suppress(Unavailable):
            entry = store.peek(number) or await store.look_up(number)
            if entry.line is not None and entry.line.label == expected:
                return time.monotonic() - start
        assert time.monotonic() - start < within(limit_s), f"{number}: {expected} is not in force"
        await asyncio.sleep(0.002)


async def settled(store: Store, *numbers: str) -> None:
    """Look numbers up until all are current in memory."""
    await until(lambda: store.redis_up and store.age_s() == 0)
    deadline = time.monotonic() + within(5)
    while missing := [number for number in numbers if store.peek(number) is None]:
        assert time.monotonic() < deadline, missing
        with suppress(Unavailable):  # on a busy machine a look-up of many may take too long
            await asyncio.gather(*map(store.look_up, missing))
