"""Transfers in Redis: the payers are taken once."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from engine.call_tasks import CallTasks
from engine.records.record import ForwardRecord
from engine.transfers import Owed, Transfers
from store.client import close, connect
from store.keys import transfer_key
from tests.patience import within
from tests.redis.servers import running_server

LINE = "+33972101001"


@pytest.mark.parametrize("asks", [True, False])
def test_a_loop_that_is_late_once_takes_the_payers(
    asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are no longer in Redis, and the engine's loop runs timers before it reads."""
    patience_s = within(0.1)
    monkeypatch.setattr("engine.transfers._PATIENCE_S", patience_s)
    key = transfer_key("a", "b")
    owed = Owed([ForwardRecord(LINE, "busy", "number", LINE, "fleet", 0, "acme")], LINE)

    async def take(url: str) -> None:
        client = connect(url)
        services: Any = SimpleNamespace(
            redis=client, rejections=SimpleNamespace(redis=lambda *_: None)
        )
        tasks = CallTasks(asyncio.get_running_loop())
        transfers = Transfers(services, tasks, lambda *_: None)
        try:
            await transfers._write(key, owed)
            if not asks:
                transfers.reported(key)
            taking = asyncio.create_task(transfers._take("a", "b", ask=asks))
            for _ in range(5):
                await asyncio.sleep(0)  # it is sent
            time.sleep(2 * patience_s)  # noqa: ASYNC251  the loop is busy with other calls
            assert await taking == owed
        finally:
            await close(client)

    with running_server() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(take(server.url))
