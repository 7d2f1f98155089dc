"""Confirms that a change is in force: every live worker acknowledges it.

The writer of `line:<number>` then writes a probe. Redis reports both to every worker on the same
stream of invalidations, in order. So a worker that receives the probe knows that the line has
changed. If it has it in memory it reads it again, then it acknowledges (`worker_registry.py`). The
probe's key has the line's key as its hash tag: in a Redis Cluster both are on one node, and so on
one stream.

| key | type | content |
|---|---|---|
| `workers` | zset | ids of workers; the score is the unix time until which each counts as live |
| `worker:<id>` | string, JSON | `LiveWorker`; expires unless renewed |
| `probe:{line:<number>}:<token>` | string | no meaning; expires |
| `ack:{line:<number>}:<token>` | hash | id -> unix ms; expires |
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from store.keys import WORKERS, ack_key, probe_key, worker_key

if TYPE_CHECKING:
    import redis
    import redis.asyncio

SKEW_S = 20.0
"""Seconds by which the clocks of hosts that share a Redis may differ."""
WITHIN_S = 1.5  # how long a writer waits; the promise is one second
_PROBE_LIFE_S = 60
_PROBE_AGAIN_S = 0.25  # a worker whose stream was just interrupted receives the next one
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.03

Command = tuple[str | bytes | int, ...]


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """One worker that takes calls. `started` in unix seconds, `sip` and `admin` as it listens."""

    id: str
    host: str
    index: int
    pid: int
    started: float
    sip: tuple[str, ...]
    admin: str
    version: str

    def __str__(self) -> str:
        return f"{self.host}/{self.index} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class Acks:
    """The acknowledgements of a change.

    Attributes:
        workers: those that were alive.
        said: by id of each worker that has acknowledged: milliseconds until the writer received it.
        took_ms: how long the writer waited, in milliseconds.
    """

    workers: tuple[LiveWorker, ...]
    said: Mapping[str, float] = field(default_factory=dict)
    took_ms: float = 0.0

    @property
    def missing(self) -> tuple[LiveWorker, ...]:
        """The workers that have not acknowledged yet."""
        return tuple(worker for worker in self.workers if worker.id not in self.said)

    @property
    def complete(self) -> bool:
        """Whether there are workers, and all have it in force."""
        return bool(self.workers) and not self.missing

    def in_words(self) -> str:
        """As text: "in force on 2 of 2 workers after 12 ms"."""
        if not self.workers:
            return "no engine runs: in force as soon as one does"
        many = len(self.workers)
        text = f"in force on {many - len(self.missing)} of {many} worker{'s' * (many > 1)}"
        if self.complete:
            return f"{text} after {max(self.said.values()):.0f} ms"
        silent = ", ".join(map(str, self.missing))
        return f"{text} after {self.took_ms:.0f} ms, no word from {silent}"

    def plain(self) -> dict[str, Any]:
        """The same for JSON: counts, milliseconds, and the missing workers."""
        return {
            "workers": len(self.workers),
            "acknowledged": len(self.workers) - len(self.missing),
            "complete": self.complete,
            "ms": round(max(self.said.values()) if self.complete else self.took_ms, 1),
            "missing": [asdict(worker) for worker in self.missing],
        }


Step = tuple[float, Sequence[Command]]
Asking = Generator[Step, list[Any] | None, Acks]


async def in_force(client: redis.asyncio.Redis, number: str, within_s: float = WITHIN_S) -> Acks:
    """Ask every live worker whether the change of line `number` is in force there.

    Call it after Redis has answered the write. Returns when all have acknowledged, or after
    `within_s` seconds with those that have; at once without a live worker. Raises REDIS_ERRORS.
    """
    asking = _ask(number, within_s)
    step = _resume(asking, None)
    while not isinstance(step, Acks):
        await asyncio.sleep(step[0])
        step = _resume(asking, await _pipeline(client, step[1]).execute())
    return step


def in_force_blocking(client: redis.Redis, number: str, within_s: float = WITHIN_S) -> Acks:
    """The same as `in_force`, for commands that run outside a loop."""
    asking = _ask(number, within_s)
    step = _resume(asking, None)
    while not isinstance(step, Acks):
        time.sleep(step[0])
        step = _resume(asking, _pipeline(client, step[1]).execute())
    return step


def _pipeline(client: Any, commands: Sequence[Command]) -> Any:
    pipe = client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    return pipe


async def live_workers(client: redis.asyncio.Redis) -> tuple[LiveWorker, ...]:
    """The live workers, by host and index. Raises REDIS_ERRORS."""
    some: Any = client
    ids = await some.zrange(WORKERS, 0, -1)
    return _living([await some.get(worker_key(_text(id_))) for id_ in ids])


def live_workers_blocking(client: redis.Redis) -> tuple[LiveWorker, ...]:
    """The same as `live_workers`, for commands."""
    some: Any = client
    ids = some.zrange(WORKERS, 0, -1)
    return _living([some.get(worker_key(_text(id_))) for id_ in ids])


def _resume(asking: Asking, answers: list[Any] | None) -> Step | Acks:
    """The next question, or the result."""
    try:
        return asking.send(answers)
    except StopIteration as end:
        acks: Acks = end.value
        return acks


def _ask(number: str, within_s: float) -> Asking:
    """The questions as a generator: each a pause in seconds and the commands to send then; it
    receives their answers."""
    probe = probe_key(number, secrets.token_hex(8))
    send_probe: Command = ("SET", probe, "1", "EX", _PROBE_LIFE_S)
    read_acks: Command = ("HGETALL", ack_key(probe))
    begun = time.monotonic()
    answers = yield 0.0, [("ZRANGE", WORKERS, 0, -1)]
    ids = [_text(id_) for id_ in answers[0]] if answers else []
    if not ids:
        return Acks(())
    probed = time.monotonic()
    answers = yield 0.0, [send_probe, *(("GET", worker_key(id_)) for id_ in ids)]
    workers = _living(answers[1:] if answers else [])
    said: dict[str, float] = {}
    pause_s = 0.0
    while True:
        acks = Acks(workers, said, 1000 * (time.monotonic() - begun))
        if not acks.missing or acks.took_ms >= 1000 * within_s:
            return acks
        commands = [read_acks]
        if time.monotonic() - probed >= _PROBE_AGAIN_S:
            probed = time.monotonic()
            commands.append(send_probe)
        answers = yield pause_s, commands
        pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        now_ms = 1000 * (time.monotonic() - begun)
        for id_ in _pairs(answers[0] if answers else {}):
            said.setdefault(id_, now_ms)


def _living(documents: Sequence[bytes | str | None]) -> tuple[LiveWorker, ...]:
    """The workers of these documents. Of a worker that was killed and restarted, only the new one,
    which has the same addresses."""
    by_place: dict[tuple[Any, ...], LiveWorker] = {}
    for document in documents:
        if document is None:
            continue
        try:
            worker = msgspec.json.decode(document, type=LiveWorker)
        except msgspec.DecodeError:
            continue  # not written by a worker
        place = (worker.host, worker.sip)
        if place not in by_place or by_place[place].started < worker.started:
            by_place[place] = worker
    return tuple(sorted(by_place.values(), key=lambda w: (w.host, w.index, w.sip)))


def _pairs(answer: Any) -> list[str]:
    """The fields of a hash, which a raw HGETALL returns as a dictionary or as a flat list."""
    fields = answer if isinstance(answer, Mapping) else answer[::2]
    return [_text(name) for name in fields]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
