"""Replaces the workers one after the other: by the code on disk after SIGUSR2, for keys that need a
restart after SIGHUP.

SIGUSR2 replaces the supervisor first (`upgrade.py` tries the new code and executes it); the next
supervisor adopts the workers and replaces them here. If one cannot be replaced, the others stay:
the configuration from before is in force again.
"""

from __future__ import annotations

import asyncio

from structlog.typing import FilteringBoundLogger

from engine.config import Config
from engine.processes.worker_pool import WorkerPool
from engine.telemetry import log


class RollingRestart:
    """The rolling restarts of one supervisor, at most one at a time."""

    def __init__(self, pool: WorkerPool, logger: FilteringBoundLogger) -> None:
        self._pool = pool
        self._log = logger
        self._before = pool.config, pool.document  # restored after a failure
        self._task: asyncio.Task[None] | None = None

    @property
    def in_progress(self) -> bool:
        return self._task is not None and not self._task.done()

    def adopt(self, config: Config, document: object) -> None:
        """Another configuration is in force for the workers that start from now on."""
        if not self.in_progress:
            self._before = self._pool.config, self._pool.document
        self._pool.adopt(config, document)

    def start(self) -> None:
        """Replace every worker that was started before now. A restart in progress continues and
        includes the newer ones."""
        self._pool.renew()
        if not self.in_progress:
            self._task = asyncio.ensure_future(self._replace_all())

    async def over(self) -> None:
        """Wait until none is in progress."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _replace_all(self) -> None:
        while (slot := self._pool.oldest) is not None:
            problem = await self._pool.replace(slot)
            if problem:  # before a second worker
                self._log.error("roll.stopped", worker=slot.index, error=problem)
                self._pool.adopt(*self._before)
                log.apply(self._pool.config.log)
                self._pool.keep_old()
                return
        self._log.info("roll.done")
