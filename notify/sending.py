"""Sends what waits: each target by itself, one message at a time.

A target that fails is tried again with growing pauses, each time with the message whose last
attempt is the longest ago, so that one message that is always refused does not hold up the others.
Targets that fail have attempts of their own, so that they never delay those that work.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from engine.config import Config, ConfigError
from engine.telemetry.log import get_logger
from notify.attempts import Drop, Failure, Reason, pause_s
from notify.deliveries import Channel, Delivery, is_still_wanted
from notify.ledger import Commit, Ledger
from notify.mail import Mailer
from notify.signing import secret_of, signed
from notify.webhook import Webhooks
from store import background_tasks
from store.redis_errors import REDIS_ERRORS

MOST_WAITING = 100_000
"""Notifications that may wait, for all targets together."""
_AT_ONCE = 32
"""Attempts in progress to targets that work, and as many to those that fail."""
_DONE_EVERY_S = 0.2
_AWAY_S = 1.0
_DRAIN_S = 5.0

Place = tuple[Channel, str]
_log = get_logger("notify")


class Counts(Protocol):
    """What is counted."""

    def sent(self, channel: str, event: str, took_s: float) -> None: ...

    def failed(self, channel: str, reason: Reason) -> None: ...

    def dropped(self, channel: str, why: Drop) -> None: ...


class Outgoing:
    """One attempt to deliver, whatever the channel."""

    def __init__(self, client: Any, webhooks: Webhooks, mailer: Mailer) -> None:
        self._client = client
        self._webhooks = webhooks
        self._mailer = mailer

    def why_not(self, delivery: Delivery) -> Drop | None:
        """Why it cannot be sent now."""
        return self._mailer.why_not(delivery.target) if delivery.channel == "email" else None

    async def send(self, delivery: Delivery) -> None:
        """Raises Failure, and REDIS_ERRORS before anything is sent."""
        if delivery.channel == "email":
            await self._mailer.send(delivery)
            return
        secret = await secret_of(self._client, delivery.owner)
        body = delivery.body
        fields = signed(secret, delivery.id, time.time(), body)
        await self._webhooks.post(delivery.target, body, fields)


class Sender:
    """Delivers what waits.

    Args:
        done: ids of what is done, and of which the ledger may not know yet. They outlive the
            sender, so that what was delivered while Redis was away is not delivered again.
    """

    def __init__(
        self,
        client: Any,
        config: Config,
        ledger: Ledger,
        outgoing: Outgoing,
        counts: Counts,
        done: list[str],
    ) -> None:
        self.is_closing = False
        self._client = client
        self._settings = config.notify
        self._ledger = ledger
        self._outgoing = outgoing
        self._counts = counts
        self._known: set[str] = set()
        self._targets: dict[Place, _Target] = {}
        self._done = done
        self._lanes = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_AT_ONCE)

    @property
    def waiting(self) -> int:
        """Notifications that wait."""
        return len(self._known)

    @property
    def failing(self) -> int:
        """Targets whose last attempt failed."""
        return sum(target.failures > 0 for target in self._targets.values())

    @property
    def oldest_s(self) -> float:
        """How long ago the oldest that waits has happened; 0 = none waits."""
        every = (each.at for target in self._targets.values() for each in target.waiting)
        oldest = min(every, default=None)
        return 0.0 if oldest is None else max(0.0, time.time() - oldest)

    def admits(self, delivery: Delivery, more: int) -> Drop | None:
        """Why it cannot wait; None if it can. `more` wait for its target besides."""
        if time.time() - delivery.at > self._settings.give_up_s:
            return Drop.EXPIRED
        target = self._targets.get((delivery.channel, delivery.target))
        waiting = more + (len(target.waiting) if target is not None else 0)
        if waiting >= self._settings.queue or len(self._known) + more >= MOST_WAITING:
            return Drop.FULL
        return self._outgoing.why_not(delivery)

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """They wait, and are in the ledger."""
        done = frozenset(self._done)
        for delivery in deliveries:
            if delivery.id in self._known or delivery.id in done:
                continue
            self._known.add(delivery.id)
            place = delivery.channel, delivery.target
            target = self._targets.get(place)
            if target is None:
                target = self._targets[place] = _Target(self, place)
            target.waiting.append(delivery)
            target.start()

    def drop(self, delivery: Delivery, why: Drop) -> None:
        """It is not sent."""
        self._counts.dropped(delivery.channel, why)
        _log.info(
            "notify.dropped", owner=delivery.owner, channel=delivery.channel, host=delivery.host,
            about=delivery.event, why=why.value, message=delivery.id,
        )  # fmt: skip

    async def run(self) -> None:
        """Tell the ledger what is done, until cancelled. Raises REDIS_ERRORS and LostLease."""
        while True:
            await asyncio.sleep(_DONE_EVERY_S)
            await self.settle()

    async def close(self, *, drain: bool) -> None:
        """Stop. `drain`: attempts in progress may end, for a limited time. What they delivered
        beyond it is delivered again, with the same id."""
        self.is_closing = True
        tasks = [t.task for t in self._targets.values() if t.task is not None]
        pausing = [t.task for t in self._targets.values() if not t.is_trying]
        await background_tasks.end(pausing)
        if drain and tasks:
            await asyncio.wait(tasks, timeout=_DRAIN_S)
        await background_tasks.end(tasks)

    async def settle(self) -> None:
        """Tell the ledger what is done."""
        if self._done:
            done = list(self._done)
            await self._ledger.commit(Commit(done=done), time.time())
            del self._done[: len(done)]

    # Called by the targets

    async def attempt(self, target: _Target) -> float:
        """Send the first that waits for the target; seconds until its next attempt."""
        delivery = target.waiting[0]
        try:
            why = await self._why_drop(delivery)
            if why is not None:
                self.drop(delivery, why)
                self._finish(target)
                return 0.0
            async with self._lanes[target.failures > 0]:
                begun = time.monotonic()
                await self._outgoing.send(delivery)
        except Failure as failure:
            return self._failed(target, delivery, failure)
        except REDIS_ERRORS:
            return _AWAY_S
        except Exception as error:  # of ours: it must stop neither the target nor the others
            background_tasks.report("notify: an attempt stopped", error)
            return self._failed(target, delivery, Failure(Reason.FAULT, type(error).__name__))
        self._counts.sent(delivery.channel, delivery.event, time.monotonic() - begun)
        if target.failures:
            _log.info(
                "notify.recovered", owner=delivery.owner, channel=delivery.channel,
                host=delivery.host, attempts=target.failures + 1, waiting=len(target.waiting) - 1,
            )  # fmt: skip
        target.failures = 0
        self._finish(target)
        return 0.0

    def forget(self, target: _Target) -> None:
        """Nothing waits for the target."""
        self._targets.pop(target.place, None)

    async def _why_drop(self, delivery: Delivery) -> Drop | None:
        if time.time() - delivery.at > self._settings.give_up_s:
            return Drop.EXPIRED
        if not is_still_wanted(delivery, await self._client.get(delivery.owner)):
            return Drop.WITHDRAWN
        return self._outgoing.why_not(delivery)

    def _failed(self, target: _Target, delivery: Delivery, failure: Failure) -> float:
        self._counts.failed(delivery.channel, failure.reason)
        target.failures += 1
        if target.failures == 1 or failure.final:
            _log.warning(
                "notify.failed", owner=delivery.owner, channel=delivery.channel,
                host=delivery.host, about=delivery.event, reason=failure.reason.value,
                error=str(failure), message=delivery.id,
            )  # fmt: skip
        if failure.final:
            self.drop(delivery, Drop.REFUSED)
            self._finish(target)
        else:
            target.waiting.rotate(-1)
        return pause_s(target.failures, self._settings.retry_s, self._settings.retry_max_s)

    def _finish(self, target: _Target) -> None:
        delivery = target.waiting.popleft()
        self._known.discard(delivery.id)
        self._done.append(delivery.id)


class _Target:
    """One URL or address, and what waits for it, sent by a task while there is some."""

    def __init__(self, sender: Sender, place: Place) -> None:
        self.place = place
        self.waiting: deque[Delivery] = deque()
        self.failures = 0
        self.is_trying = False
        self.task: asyncio.Task[None] | None = None
        self._sender = sender

    def start(self) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self._run(), name="notify: target")

    async def _run(self) -> None:
        while self.waiting:
            self.is_trying = True
            try:
                wait_s = await self._sender.attempt(self)
            except Exception as error:  # what waits for the target must not wait for ever
                background_tasks.report("notify: a target was not served", error)
                wait_s = _AWAY_S
            self.is_trying = False
            if self._sender.is_closing:
                return
            await asyncio.sleep(wait_s)
        self._sender.forget(self)


def tls_context(config: Config) -> ssl.SSLContext:
    """The TLS of webhooks and of the SMTP server. Raises ConfigError."""
    ca = config.notify.tls_ca
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as error:  # also SSLError
        reason = " ".join(str(error).split())
        raise ConfigError("notify.tls_ca", str(ca), f"cannot be used: {reason}") from None
