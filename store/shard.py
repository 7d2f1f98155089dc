"""One Redis server and the keys it holds: all of them, or a cluster node's share.

Its reads go over one connection, many in one round trip: commands that arrive during an exchange
form the next one. Beside it runs its stream of invalidations. A canary each second proves that both
work and that the server accepts writes.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

from redis.exceptions import AskError, ReadOnlyError, ResponseError

from store import background_tasks
from store.cache import Span
from store.canary import Canary
from store.connection import Command, Connection, Dial
from store.invalidation_stream import Invalidations
from store.redis_errors import REDIS_ERRORS, kind_of, refuses

PATIENCE_S = 1.0
"""Seconds of silence after which a server counts as away."""
SLOW_S = 0.05
"""Seconds of silence after which calls with a last good copy no longer wait for it."""
_LARGEST_BATCH = 400
_DOWN_EVERY_S = 0.25
_CANARY_TTL_S = 60
_RECONNECT_REFUSED_S = 5.0


class Unavailable(Exception):
    """Redis does not answer, and there is no cached data."""


class Taker(Protocol):
    """Gets the reply to a command: bytes, a list or a ResponseError, or `Unavailable` without one;
    the span of the read (None: the stream was off); and when the exchange began (monotonic
    seconds)."""

    def __call__(self, reply: Any, span: Span | None, begun: float) -> None: ...


class Watcher(Protocol):
    """Gets the reports of a shard."""

    def on_keys(self, shard: "Shard", keys: Sequence[bytes] | None) -> None:
        """These keys have changed; None means all of them."""

    def on_stream(self, shard: "Shard") -> None:
        """Its stream of invalidations has started; changes may have been missed before."""

    def on_answers(self, shard: "Shard", replies: Sequence[Any]) -> None:
        """Its replies to `Shard.questions`."""

    def on_shard_trouble(self, shard: "Shard", error: BaseException, kind: str) -> None:
        """It failed. `kind` is one of `redis_errors.KINDS`."""


class Shard:
    """One server.

    Args:
        name: for messages and logs.
        dial: makes a connection to it.
        prefixes: of the watched keys; that of the canary is added.
        canary: the worker's unique id.
        every_s: seconds between two canaries.

    Attributes:
        up: it answered the last command, which is sent at least once a second.
        span: the present period without a missed invalidation; None between two.
        lost_at: monotonic seconds when the last span ended.
        refused: why it refuses writes ("read_only", "full"...); None while it accepts them.
        questions: commands sent with every canary.
    """

    def __init__(
        self,
        name: str,
        dial: Dial,
        *,
        prefixes: Sequence[str],
        canary: str,
        watcher: Watcher,
        questions: Sequence[Command] = (),
        every_s: float = 1.0,
    ) -> None:
        self.name = name
        self.up = False
        self.span: Span | None = None
        self.lost_at = time.monotonic()
        self.refused: str | None = None
        self.questions = questions
        self.canary = Canary(canary)
        self.answered = asyncio.Event()
        self._dial = dial
        self._every_s = every_s
        self._watcher = watcher
        self._stream = Invalidations(
            dial,
            (*prefixes, self.canary.prefix),
            on_live=self._live,
            on_keys=self._on_keys_changed,
            on_lost=self._lost,
            on_error=lambda error: self._trouble(error, "stream" if self.up else kind_of(error)),
        )
        self._queue: list[tuple[Command, Taker]] = []
        self._flying: list[tuple[Command, Taker]] = []
        self._connection: Connection | None = None
        self._asked_at: float | None = None
        self._limit: asyncio.Timeout | None = None  # of the exchange in progress
        self._stale = False  # the connection is not to be used again
        self._reconnected_at = -_RECONNECT_REFUSED_S
        self._canary_due = True
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        state = "up" if self.up else "down"
        return f"<Shard {self.name} {state} stream={'on' if self.span else 'off'}>"

    def start(self) -> None:
        """Begin to connect."""
        self._tasks = [
            background_tasks.keep(work, f"{name} stopped", name=f"{name} {self.name}")
            for name, work in (
                ("rules: invalidations", self._stream.run),
                ("rules: reader", self._read_for_ever),
                ("rules: canary", self._sing),
            )
        ]

    async def tried(self) -> None:
        """Wait until it has answered or failed (1 s at most), or is closed."""
        await self._stream.tried.wait()
        await self.answered.wait()

    async def close(self) -> None:
        """Stop, and end all waiting for answers."""
        await background_tasks.end(self._tasks)
        self._tasks = []
        self._stream.tried.set()
        self.answered.set()
        self._down(Unavailable("closed"))
        await self._disconnect()

    def ask(self, command: Command, taker: Taker) -> None:
        """Send a command with the next exchange."""
        self._queue.append((command, taker))
        self._wake.set()

    @property
    def prompt(self) -> bool:
        """Whether an answer can be expected at once: it is up, and does not hang."""
        asked_at = self._asked_at
        return self.up and (asked_at is None or time.monotonic() - asked_at < SLOW_S)

    def probe(self) -> None:
        """Check at once whether it is there."""
        self._canary_due = True
        self._wake.set()

    def restart(self) -> None:
        """Reconnect: its name may lead to another server, or its slots may have changed."""
        self.interrupt()
        self._stale = True
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())
        self._stream.restart()
        self.probe()

    def interrupt(self) -> None:
        """Changes may have been missed: everything read from it is in doubt."""
        if self.span is not None:
            self.lost_at = time.monotonic()
            self.span.end(self.lost_at)
            self.span = None
            self._stream.restart()

    # Reading: one task, one batch at a time.

    async def _read_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._canary_due or self._queue:
                try:
                    await self._exchange()
                except REDIS_ERRORS as error:
                    await self._fail(error)
                except Exception as error:
                    # An error with one answer must not stop the other reads.
                    background_tasks.report("rules: an exchange failed", error)
                    await self._fail(error)
                # A silent server is asked again before this loop ends: the next canary is due.
                self.answered.set()

    async def _exchange(self) -> None:
        """Send the canary if it is due, and the queued commands, in one round trip."""
        own: list[Command] = []
        if self._canary_due:
            self._canary_due = False
            self.canary.send()
            own = [("SET", self.canary.key, "1", "EX", _CANARY_TTL_S), *self.questions]
        batch = self._flying = self._queue[:_LARGEST_BATCH]
        del self._queue[:_LARGEST_BATCH]
        span, begun = self.span, time.monotonic()
        self._asked_at = begun
        try:
            async with asyncio.timeout(PATIENCE_S) as self._limit:
                replies = await self._ask([*own, *(command for command, _ in batch)])
        finally:
            self._asked_at = self._limit = None
        for reply in replies[len(own) :]:
            if isinstance(reply, ResponseError) and refuses(reply):
                raise reply
        self.up = True
        if own:
            self._hear_canary(replies[0])
            if self.questions:
                self._watcher.on_answers(self, replies[1 : len(own)])
        self._flying = []  # not before: after an error above they still need a reply
        for (_, taker), reply in zip(batch, replies[len(own) :], strict=True):
            _give(taker, reply, span, begun)

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        if self._stale:
            await self._disconnect()
            self._stale = False
        if self._connection is not None and self._connection.is_open:
            try:
                return await self._connection.ask(commands)
            except REDIS_ERRORS:
                # Probably dropped while idle: one attempt on a new connection.
                await self._disconnect()
        connection = self._connection = Connection(self._dial)
        await connection.open()
        return await connection.ask(commands)

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _fail(self, error: BaseException) -> None:
        self._trouble(error, kind_of(error))
        await self._disconnect()
        self._down(Unavailable(str(error) or "no answer"))

    def _down(self, why: Unavailable) -> None:
        self.up = False
        waiting = [*self._flying, *self._queue]
        self._flying, self._queue = [], []
        for _, taker in waiting:
            _give(taker, why, None, 0.0)

    # The canary

    def _hear_canary(self, reply: object) -> None:
        if not isinstance(reply, ResponseError):
            self.refused = None
            return
        self.canary.expect_nothing()
        if isinstance(reply, AskError):
            return
        # It answers but refuses writes: a replica, no memory left, or no rights.
        self.refused = kind_of(reply)
        self._trouble(reply, self.refused)
        now = time.monotonic()
        if isinstance(reply, ReadOnlyError) and now - self._reconnected_at > _RECONNECT_REFUSED_S:
            # After a reconnect its name may lead to a master again.
            self._reconnected_at = now
            self.restart()

    async def _sing(self) -> None:
        while True:
            self.probe()
            await asyncio.sleep(self._every_s if self.up else _DOWN_EVERY_S)
            if self.canary.is_missed and self.up and self.span is not None:
                self._trouble(TimeoutError("changes are not reported"), "stream")
                self.interrupt()

    # The stream

    def _live(self) -> None:
        self.span = Span()
        self._watcher.on_stream(self)
        self.canary.expect_nothing()
        self.probe()

    def _lost(self, heard_at: float) -> None:
        if self.span is not None:
            self.span.end(heard_at)
            self.span = None
            self.lost_at = heard_at
        # Check at once whether the server is gone, or only this connection.
        self.probe()

    def _on_keys_changed(self, keys: Sequence[bytes] | None) -> None:
        if keys is None and self.span is not None:
            # Everything was deleted, so all cached data are stale, as after an interruption.
            self.forget()
        self._watcher.on_keys(self, keys)

    def forget(self) -> None:
        """Mark everything read so far as in doubt; the stream continues."""
        if self.span is not None:
            self.span.end(time.monotonic())
            self.span = Span()

    def doubt(self) -> None:
        """As `forget`, because it holds other keys now, whose changes may have been missed."""
        self.forget()
        self._watcher.on_stream(self)

    def _trouble(self, error: BaseException, kind: str) -> None:
        try:
            self._watcher.on_shard_trouble(self, error, kind)
        except Exception as fault:  # those who wait for an answer must get it
            background_tasks.report("rules: a failure was not noted", fault)


def _give(taker: Taker, reply: Any, span: Span | None, begun: float) -> None:
    try:
        taker(reply, span, begun)
    except Exception as error:
        background_tasks.report("rules: a look-up failed", error)
