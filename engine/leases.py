"""Live calls per line: counted in this worker, and leased in Redis for lines with a limit.

A lease is a member of the sorted set `live:<number>` whose score is its expiry in unix seconds.
Leases are renewed while the call lasts; those of a dead worker expire. One background task talks to
Redis, in order: an ended call is removed from the set before the next one asks, and a hang-up that
cancels a call cancels no command.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from store import background_tasks
from store.client import Client, exchange
from store.connection import Command, Connection, dial_like
from store.keys import LIVE
from store.redis_errors import REDIS_ERRORS, kind_of
from store.script import Script, send

_log = structlog.get_logger("live")

# A call waits for Redis this long, counted in ticks of the loop. A late tick does not count,
# because the answer may already be in the socket, and a decision without it could admit one call
# too many.
_TICK_S = 0.015
_TICKS = 6  # under the 100 ms promised
_EXCHANGE_S = 1.0  # a slower Redis counts as away
_RETRY_S = 0.5
_GATHER_S = 0.02  # released leases are collected this long
_CHUNK = 500  # lease changes per exchange, so that the loop runs in between

# KEYS: live:<number>. ARGV: now, expiry of the new lease, call id, max_calls, calls without lease,
# seconds after which the key goes (0 = never). Returns -1 if admitted, otherwise the number of
# calls found. A call that is already there does not count against itself.
_ADMIT = Script("""
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
local found = redis.call('ZCARD', KEYS[1]) + tonumber(ARGV[5])
if redis.call('ZSCORE', KEYS[1], ARGV[3]) then found = found - 1 end
if found >= tonumber(ARGV[4]) then return found end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3])
if ARGV[6] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[6]) end
return -1
""")
_ADMITTED = -1
_UNKNOWN = -2  # Redis did not answer

_Lease = tuple[str, str]  # (number, call id)


@dataclass(slots=True, eq=False)
class _Request:
    number: str
    call_id: str
    max_calls: int
    reply: asyncio.Future[int]
    ticks: int = 0  # waited so far


class LiveCalls:
    """Calls in progress per line. With `shared` false, or Redis away, only this worker's count.

    `lease_s` is the life of a lease in seconds; it is renewed every third of that. `clock` gives
    unix seconds. `kind` is the prefix of the key: other counts by line have their own
    (`forwards.py`). `key_s`: the key expires so long after its last admission; 0 = when it is
    empty. `local_decisions` counts admissions that should have asked Redis and could not;
    `on_error` gets the reason.
    """

    def __init__(
        self,
        redis: Client | None,
        *,
        shared: bool,
        lease_s: float = 60,
        clock: Callable[[], float] = time.time,
        kind: str = LIVE,
        key_s: int = 0,
        on_error: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.local_decisions = 0
        self.on_error = on_error
        self._redis: Any = redis if shared else None
        self._in_cluster = isinstance(self._redis, RedisCluster)
        self._connection: Connection | None = None
        self._lease_s = lease_s
        self._clock = clock
        self._kind = kind
        self._key_s = key_s
        self._calls: dict[str, set[str]] = {}
        self._leased: dict[str, set[str]] = {}
        self._requests: list[_Request] = []
        # Changes for Redis: when the lease expires anyway if the call has left, otherwise None.
        self._changes: dict[_Lease, float | None] = {}
        self._renewals: deque[_Lease] = deque()
        self._away = False
        self._asked = False  # an exchange is in progress
        self._exchange_ticks = 0  # so long
        self._ticking: asyncio.TimerHandle | None = None
        self._waiting: set[_Request] = set()
        self._next_renewal = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "local" if self._redis is None else "away" if self._away else "shared"
        return f"<LiveCalls {state} lines={len(self._calls)} pending={len(self._changes)}>"

    def count(self, number: str) -> int:
        """Calls in progress on a line in this worker."""
        return len(self._calls.get(number, ()))

    def has(self, number: str, call_id: str) -> bool:
        """Whether the call counts on the line."""
        return call_id in self._calls.get(number, ())

    def is_leased(self, number: str, call_id: str) -> bool:
        """Whether other workers count the call too."""
        return call_id in self._leased.get(number, ())

    def add(self, number: str, call_id: str, *, lease: bool = False) -> None:
        """Count a call without asking. `lease`: other workers count it too."""
        self._calls.setdefault(number, set()).add(call_id)
        if lease and self._redis is not None:
            self._leased.setdefault(number, set()).add(call_id)
            self._change(number, call_id, None)

    def numbers(self) -> list[str]:
        """The numbers that calls count on."""
        return list(self._calls)

    def has_unleased(self, number: str) -> bool:
        """Whether some of its calls have no lease."""
        if self._redis is None:
            return False
        return len(self._calls.get(number, ())) > len(self._leased.get(number, ()))

    def lease(self, number: str) -> set[str]:
        """Lease all calls of a number from now on. Returns the ids of those that had none."""
        unleased = self._calls.get(number, set()) - self._leased.get(number, set())
        for call_id in unleased:
            self.add(number, call_id, lease=True)
        return unleased

    def leave(self, number: str, call_id: str) -> None:
        """Stop counting the call on the line. Harmless for a call that is not counted."""
        _discard(self._calls, number, call_id)
        if _discard(self._leased, number, call_id):
            self._change(number, call_id, self._clock() + self._lease_s)

    def keep(self, number: str, call_id: str) -> None:
        """Stop counting a call, but let its lease expire: it is neither renewed nor released."""
        _discard(self._calls, number, call_id)
        _discard(self._leased, number, call_id)

    def renew(self) -> None:
        """Renew all leases now, because after a clock step they may have expired."""
        if self._task is not None:
            self._renew_all()
            self._wake.set()

    def release(self, number: str, call_id: str) -> None:
        """Remove a lease that a dead process may have left."""
        if number and self._redis is not None:
            self._change(number, call_id, self._clock() + self._lease_s)

    async def admit(self, number: str, call_id: str, max_calls: int) -> int | None:
        """Count the call on the line if fewer than `max_calls` are there.

        Returns None if it was admitted, otherwise the number of calls found. Waits at most 100 ms.
        """
        known = call_id in self._calls.get(number, ())
        here = self.count(number) - known
        if here >= max_calls:  # the limit is reached even without the other workers
            return here
        reply = _UNKNOWN
        if self._can_ask():
            request = _Request(
                number, call_id, max_calls, asyncio.get_running_loop().create_future()
            )
            self._requests.append(request)
            self._waiting.add(request)
            self._tick_on()
            self._wake.set()
            try:
                reply = await request.reply
            except asyncio.CancelledError:
                if not known:  # the answer may have arrived in the same turn of the loop
                    self.leave(number, call_id)
                raise
            finally:
                self._waiting.discard(request)
        if reply == _ADMITTED:
            return None
        if reply != _UNKNOWN:
            return reply
        return self._admit_locally(number, call_id, max_calls)

    async def start(self) -> None:
        """Start the exchange with Redis. Until then decisions are local."""
        if self._redis is not None:
            self._next_renewal = asyncio.get_running_loop().time() + self._lease_s / 3
            self._task = asyncio.create_task(self._run(), name="live")

    async def close(self, deadline_s: float = 1.0) -> None:
        """Release all own leases within `deadline_s`; the rest expire."""
        self._closing = True
        task, self._task = self._task, None
        for timer in (self._timer, self._ticking):
            if timer is not None:
                timer.cancel()
        self._timer = self._ticking = None
        if task is None:
            return
        lapse = self._clock() + self._lease_s
        for number, call_ids in self._leased.items():
            self._changes.update({(number, call_id): lapse for call_id in call_ids})
        self._leased.clear()
        self._wake.set()
        try:
            await asyncio.wait({task}, timeout=deadline_s)
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=deadline_s)

    # Decisions

    def _can_ask(self) -> bool:
        if self._task is None or self._away:
            return False
        # An exchange already hangs: do not queue behind it.
        return not self._asked or self._exchange_ticks < _TICKS

    def _tick_on(self) -> None:
        """Keep ticking while a call waits for Redis."""
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        assert self._ticking is not None
        late = asyncio.get_running_loop().time() - self._ticking.when() > _TICK_S
        self._ticking = None
        if not late:
            self._count_tick()
        if self._waiting or self._asked:
            self._tick_on()

    def _count_tick(self) -> None:
        if self._asked:
            self._exchange_ticks += 1
        for request in self._waiting:
            request.ticks += 1
            if request.ticks >= _TICKS and not request.reply.done():
                request.reply.set_result(_UNKNOWN)

    def _admit_locally(self, number: str, call_id: str, max_calls: int) -> int | None:
        here = self.count(number) - (call_id in self._calls.get(number, ()))
        if self._redis is not None:
            self.local_decisions += 1
        if here >= max_calls:
            return here
        self.add(number, call_id, lease=True)
        return None

    def _change(self, number: str, call_id: str, lapse: float | None) -> None:
        if self._task is None:
            return
        self._changes[number, call_id] = lapse
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER_S, self._exchange_soon)

    def _exchange_soon(self) -> None:
        self._timer = None
        self._wake.set()

    # The background task

    async def _run(self) -> None:
        try:
            await background_tasks.continuing(self._talk, "live: the exchange with Redis stopped")
        finally:
            if self._connection is not None:
                await self._connection.close()

    async def _talk(self) -> None:
        self._wake.set()  # after an error something may wait
        while True:
            try:
                async with asyncio.timeout_at(self._next_renewal):
                    await self._wake.wait()
            except TimeoutError:
                self._renew_all()
            self._wake.clear()
            while self._away or self._requests or self._changes or self._renewals:
                await self._exchange()
                if asyncio.get_running_loop().time() >= self._next_renewal:
                    self._renew_all()
                if self._away:
                    if self._closing:
                        return
                    await asyncio.sleep(_RETRY_S)
            if self._closing:
                return

    def _renew_all(self) -> None:
        self._next_renewal = asyncio.get_running_loop().time() + self._lease_s / 3
        self._renewals = deque(
            (number, call_id) for number, call_ids in self._leased.items() for call_id in call_ids
        )

    async def _exchange(self) -> None:
        """Send the changes and then the admissions to Redis, in one round trip."""
        changes = self._take_changes()
        requests: list[_Request] = []
        if not self._changes:  # otherwise an ended call might still be counted
            requests = [request for request in self._requests if not request.reply.done()]
            self._requests = []
        now = self._clock()
        commands: list[Command] = []
        for (number, call_id), lapse in changes.items():
            if lapse is None:
                commands.append(("ZADD", self._kind + number, now + self._lease_s, call_id))
            else:
                commands.append(("ZREM", self._kind + number, call_id))
        commands += [self._question(one, now) for one in requests]
        if not commands:
            commands.append(("ZREM", self._kind, ""))  # whether it accepts writes again
        self._asked, self._exchange_ticks = True, 0
        self._tick_on()
        try:
            async with asyncio.timeout(_EXCHANGE_S):
                replies = await send(self._send, commands)
        except Exception as error:  # whatever it is, calls use the local count
            self._note_away(error, changes, requests)
            return
        finally:
            self._asked = False
        for reply in replies[: len(changes)]:
            if isinstance(reply, Exception):
                self._log_error(reply)
        for request, reply in zip(requests, replies[len(changes) :], strict=False):
            self._answer(request, reply)
        if self._away:
            _log.info("live.redis_back")
            self._away = False
            self._renew_all()  # it may have come back empty

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        """One round trip; over a dedicated connection if there is a single Redis, at a quarter of
        the cost of the client's pool. Repeated commands do no harm."""
        if self._in_cluster:
            return await exchange(self._redis, commands)
        connection = self._connection
        if connection is not None:
            if connection.is_open:
                try:
                    return await _ask(connection, commands)
                except REDIS_ERRORS:
                    # Probably dropped while idle. But another server may answer now, without them.
                    self._renew_all()
            await connection.close()
        connection = self._connection = Connection(dial_like(self._redis))
        try:
            await connection.open()
            return await _ask(connection, commands)
        except BaseException:
            await connection.close()
            raise

    def _take_changes(self) -> dict[_Lease, float | None]:
        """At most a chunk: first calls that began or ended, then leases due for renewal."""
        if len(self._changes) <= _CHUNK:
            changes, self._changes = self._changes, {}
        else:
            changes = {key: self._changes[key] for key in list(self._changes)[:_CHUNK]}
            for key in changes:
                del self._changes[key]
        for key, lapse in list(changes.items()):
            if lapse is None and key[1] not in self._leased.get(key[0], ()):
                del changes[key]
        while self._renewals and len(changes) < _CHUNK:
            number, call_id = self._renewals.popleft()
            if call_id in self._leased.get(number, ()):
                changes.setdefault((number, call_id), None)
        return changes

    def _question(self, request: _Request, now: float) -> Command:
        number, call_id = request.number, request.call_id
        unleased = self._calls.get(number, set()) - self._leased.get(number, set()) - {call_id}
        return _ADMIT.command(
            (self._kind + number,), now, now + self._lease_s, call_id, request.max_calls,
            len(unleased), self._key_s,
        )  # fmt: skip

    def _answer(self, request: _Request, reply: Any) -> None:
        if isinstance(reply, Exception):
            self._log_error(reply)
            reply = _UNKNOWN
        number, call_id = request.number, request.call_id
        if not request.reply.done():
            if reply == _ADMITTED:
                self._calls.setdefault(number, set()).add(call_id)
                self._leased.setdefault(number, set()).add(call_id)
            elif reply == _UNKNOWN:
                # Undone, unless the caller admits it by the local count.
                self._change(number, call_id, self._clock() + self._lease_s)
            request.reply.set_result(reply)
        elif reply in (_ADMITTED, _UNKNOWN) and call_id not in self._leased.get(number, ()):
            # The caller hung up, or it was decided otherwise meanwhile.
            self._change(number, call_id, self._clock() + self._lease_s)

    def _log_error(self, error: Exception) -> None:
        if self.on_error is not None:
            self.on_error(error)

    def _note_away(
        self, error: Exception, changes: dict[_Lease, float | None], requests: list[_Request]
    ) -> None:
        self._log_error(error)
        if not self._away:
            self._away = True
            expected = isinstance(error, REDIS_ERRORS)
            text = str(error) or type(error).__name__
            _log.warning("live.redis_away", error=text, exc_info=None if expected else error)
        for key, lapse in changes.items():
            self._changes.setdefault(key, lapse)  # the later change counts
        for request in requests:  # they may have been admitted nevertheless
            self._answer(request, _UNKNOWN)
        for request in self._requests:
            if not request.reply.done():
                request.reply.set_result(_UNKNOWN)
        self._requests = []
        # An expired lease needs no removal, which bounds the work after a long outage.
        now = self._clock()
        lapsed = [key for key, lapse in self._changes.items() if lapse is not None and lapse < now]
        for key in lapsed:
            del self._changes[key]


async def _ask(connection: Connection, commands: Sequence[Command]) -> list[Any]:
    """As `Connection.ask`. A read-only server counts as away, because it would lose the changes: it
    was a master, keeps its connections as a replica, and its name may lead to the next master."""
    replies = await connection.ask(commands)
    for reply in replies:
        if isinstance(reply, ResponseError) and kind_of(reply) == "read_only":
            raise reply
    return replies


def _discard(calls: dict[str, set[str]], number: str, call_id: str) -> bool:
    """Remove a call from a line; returns whether it was there. A line without calls leaves no
    entry."""
    there = calls.get(number)
    if there is None or call_id not in there:
        return False
    there.discard(call_id)
    if not there:
        del calls[number]
    return True
