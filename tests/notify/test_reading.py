"""The reader of streams, beside a Redis that does not answer."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import redis.asyncio

from engine.config import Config
from notify.ledger import Kept, Ledger
from notify.reading import Reader
from store import background_tasks
from tests.patience import within


async def test_a_reader_that_is_stopped_while_it_connects_leaves_nothing_behind() -> None:
    """The lease may be lost, or a signal come, while Redis is silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        client = redis.asyncio.Redis(host=host, port=port)
        reader = Reader(
            client,
            Config(),
            cast(Ledger, None),
            Kept("0-0", {}, [], {}),
            admits=lambda delivery, more: None,
            on_waiting=lambda deliveries: None,
            on_dropped=lambda delivery, why: None,
        )
        before = asyncio.all_tasks()
        reading = asyncio.create_task(reader.run())
        async with asyncio.timeout(within(2)):
            while not asyncio.all_tasks() - before - {reading}:
                await asyncio.sleep(0)
        await background_tasks.end([reading])
        assert asyncio.all_tasks() == before
        await client.aclose()
