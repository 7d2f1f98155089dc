"""A worker's reports in Redis: that it is alive, and which changes it has in force.

`acks.py` is the writer's side, which asks the workers. This is not on the call path: a probe costs
one entry in a set, and a separate task does the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from redis.asyncio import Redis

from engine import __version__
from engine.changes.acks import SKEW_S, LiveWorker
from store import background_tasks
from store.keys import WORKERS, ack_key, worker_key
from store.redis_errors import REDIS_ERRORS

LIFE_S = 5
"""Seconds without a renewed heartbeat after which a worker counts as dead."""
RENEW_S = 1.5
FORGET_S = 3600  # how long the index keeps a worker without a heartbeat
ACK_LIFE_S = 60
MOST_PROBES = 10_000  # that wait for Redis; writers ask again
GOODBYE_S = 1.0


class WorkerHeartbeat:
    """Renews one worker's heartbeat in Redis and acknowledges probes. `on_error` gets a failure of
    Redis, `on_workers` each time the number of live workers, including this one."""

    def __init__(
        self,
        redis: Redis,
        worker: LiveWorker,
        *,
        on_error: Callable[[BaseException], None] | None = None,
        on_workers: Callable[[int], None] | None = None,
    ) -> None:
        self.on_error = on_error
        self.on_workers = on_workers
        self._redis: Any = redis
        self._worker = worker
        self._probes: set[str] = set()
        self._said: dict[str, None] = {}  # acknowledged; reported again when they expire
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the heartbeats; if Redis is away they are retried."""
        await self._announce()
        self._tasks = [
            asyncio.create_task(self._renew(), name="presence: renew"),
            asyncio.create_task(self._acknowledge(), name="presence: acknowledge"),
        ]

    async def close(self) -> None:
        """Remove the entry, so that nobody waits for this worker."""
        if not self._tasks:
            return
        await background_tasks.end(self._tasks)
        self._tasks = []
        with contextlib.suppress(*REDIS_ERRORS):
            async with asyncio.timeout(GOODBYE_S):
                await self._redis.delete(worker_key(self._worker.id))
                await self._redis.zrem(WORKERS, self._worker.id)

    def on_probe(self, key: str) -> None:
        """The stream has reported a probe: all earlier changes are in force here."""
        if key not in self._said and len(self._probes) < MOST_PROBES:
            self._probes.add(key)
            self._wake.set()

    async def _announce(self) -> None:
        """Never raises; it is retried."""
        try:
            await self._write()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Both loops continue as long as the worker, whatever the error."""
        if not isinstance(error, REDIS_ERRORS):
            background_tasks.report("presence: the heartbeat failed", error)
        elif self.on_error is not None:
            self.on_error(error)

    async def _write(self) -> None:
        now, worker = time.time(), self._worker
        pipe = self._redis.pipeline(transaction=False)
        pipe.set(worker_key(worker.id), orjson.dumps(worker), ex=LIFE_S)
        pipe.zadd(WORKERS, {worker.id: now + LIFE_S})
        pipe.zremrangebyscore(WORKERS, "-inf", now - FORGET_S)
        pipe.zcount(WORKERS, now - SKEW_S, "+inf")
        *_, count = await pipe.execute()
        if self.on_workers is not None:
            self.on_workers(max(1, count))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self._announce()

    async def _acknowledge(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            probes, self._probes = self._probes, set()
            try:
                pipe = self._redis.pipeline(transaction=False)
                for probe in probes:
                    ack = ack_key(probe)
                    pipe.hset(ack, self._worker.id, round(time.time() * 1000))
                    pipe.expire(ack, ACK_LIFE_S)
                await pipe.execute()
            except Exception as error:
                self._failed(error)
                continue  # not sent: a waiting writer sends the probe again
            self._said.update(dict.fromkeys(probes))
            while len(self._said) > MOST_PROBES:
                del self._said[next(iter(self._said))]


def myself(id_: str, index: int, sip: Iterable[object], admin: object) -> LiveWorker:
    """The entry of a worker that listens on these addresses."""
    return LiveWorker(
        id=id_,
        host=socket.gethostname(),
        index=index,
        pid=os.getpid(),
        started=time.time(),
        sip=tuple(map(str, sip)),
        admin=str(admin),
        version=__version__,
    )
