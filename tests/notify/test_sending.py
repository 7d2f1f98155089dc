"""The sender of notifications, without Redis and without a network."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections import Counter
from typing import Any, cast

import pytest

from engine.config import Config
from notify.attempts import Drop, Reason
from notify.deliveries import Delivery
from notify.health import Health
from notify.ledger import Kept, Ledger, LostLease
from notify.sending import Outgoing, Sender
from notify.serve import Service
from tests.patience import within

URL = "https://crm.example.com/renvoi"
DOCUMENT = json.dumps({"name": "acme", "notify": {"webhook": {"url": URL}}}).encode()


class Redis:
    """The document of the owner; `broken`: what the first look at it raises."""

    def __init__(self, broken: Exception | None = None) -> None:
        self._broken = broken

    async def get(self, _key: str) -> bytes:
        broken, self._broken = self._broken, None
        if broken is not None:
            raise broken
        return DOCUMENT


class Sent:
    """What is sent, instead of sending it."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def why_not(self, _delivery: Delivery) -> Drop | None:
        return None

    async def send(self, delivery: Delivery) -> None:
        self.events.append(delivery.event)


class Counts:
    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def sent(self, channel: str, event: str, took_s: float) -> None:
        self.counted["sent"] += 1

    def failed(self, channel: str, reason: Reason) -> None:
        self.counted[reason.value] += 1

    def dropped(self, channel: str, why: Drop) -> None:
        self.counted[why.value] += 1


def delivery(event: str, place: int) -> Delivery:
    return Delivery(f"msg_{place}", "fleet:acme", "webhook", URL, event, time.time(), {})


async def sent(redis: Redis, *events: str) -> tuple[list[str], Counter[str]]:
    """What is sent when these wait for one URL."""
    config = Config()
    object.__setattr__(config.notify, "retry_s", 0.01)
    out, counts = Sent(), Counts()
    sender = Sender(redis, config, cast(Ledger, None), cast(Outgoing, cast(Any, out)), counts, [])
    sender.add(delivery(event, place) for place, event in enumerate(events))
    async with asyncio.timeout(within(5)):
        while sender.waiting:
            await asyncio.sleep(0.01)
    await sender.close(drain=False)
    return out.events, counts.counted


async def test_a_fault_of_ours_blocks_none() -> None:
    events, counted = await sent(Redis(KeyError("x")), "missed_call", "missed_call")
    assert len(events) == 2
    assert counted == {"fault": 1, "sent": 2}


async def test_an_error_beside_an_attempt_leaves_no_target_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("notify.sending._AWAY_S", 0.0)
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )
    whole, broken = Sender._finish, [KeyError("x")]

    def finish(sender: Sender, target: Any) -> None:
        if broken:
            raise broken.pop()
        whole(sender, target)

    monkeypatch.setattr(Sender, "_finish", finish)
    events, _ = await sent(Redis(), "missed_call")
    assert set(events) == {"missed_call"}
    assert [type(error) for error in reported] == [KeyError]


async def test_an_error_of_ours_does_not_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notify.serve._STANDBY_S", 0.0)
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )
    service: Any = object.__new__(Service)
    service._ended = asyncio.Event()
    works = 0

    async def hold() -> bool:
        return True

    async def work() -> None:
        nonlocal works
        works += 1
        if works == 1:
            raise KeyError("x")
        service._ended.set()

    service._hold, service._work = hold, work
    async with asyncio.timeout(within(5)):
        await Service.run(service)
    assert works == 2
    assert [type(error) for error in reported] == [KeyError]


async def test_more_than_one_part_may_lose_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no error: a process that hung stands by."""
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["message"])
    )

    class Reader:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        async def run(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise LostLease

    class Lease:
        async def load(self, _unix_now: float) -> Kept:
            return Kept("0-0", {}, [], {})

        async def hold(self) -> bool:
            return False

        async def let_go(self) -> None:
            raise LostLease

    monkeypatch.setattr("notify.serve.Reader", Reader)
    monkeypatch.setattr("notify.serve.RENEW_S", 0.0)
    service = Service(Redis(), Config(), Health(Config()), asyncio.Event())
    service._ledger = cast(Ledger, Lease())
    async with asyncio.timeout(within(5)):
        await service._work()
    gc.collect()  # asyncio reports errors of tasks that nobody has asked about
    assert reported == []
    assert service._logged == "notify.standby"
