"""A relay in front of a Redis, whose connections can go silent without being closed."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class Relay:
    """Listens on its own port and relays bytes in both directions until `go_dead`."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path
        self._tasks: set[asyncio.Task[None]] = set()
        self._alive: list[asyncio.Event] = []
        self._server: asyncio.Server | None = None
        self.accepted = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def go_dead(self) -> None:
        """Present connections relay nothing more and are not closed; new connections work."""
        for alive in self._alive:
            alive.clear()
        self._alive = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        alive = asyncio.Event()
        alive.set()
        self._alive.append(alive)
        there, back = await asyncio.open_unix_connection(self._path)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await asyncio.gather(_pass(reader, back, alive), _pass(there, writer, alive))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for each in (writer, back):
                with contextlib.suppress(RuntimeError):
                    each.close()


async def _pass(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, alive: asyncio.Event
) -> None:
    while data := await source.read(65536):
        await alive.wait()
        target.write(data)
        await target.drain()
    await alive.wait()
    target.close()
