"""The end of a process does not depend on how a Redis connection closes."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import TimeoutError as Slow

from store.client import close


@pytest.mark.parametrize("error", [Slow("Timed out closing connection after 0.9"), Lost("gone")])
async def test_a_connection_that_does_not_close_in_time_is_left(error: Exception) -> None:
    class Client:
        async def aclose(self) -> None:
            raise error

    client: Any = Client()
    await close(client)
