"""One look-up in progress: the reads of a number's keys, and how the answers are combined.

The line and its registrations may be on two servers of a cluster, and the use of its plan on a
third. The result is current only while none of the spans of these reads has ended.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import AskError, MovedError, ResponseError

from store.cache import Entry, Slot, Span
from store.connection import Command
from store.keys import line_key, registrations_key, usage_key
from store.layout import Layout
from store.shard import Shard, Unavailable

_MOST_CONTACTS = 32
_MOST_ATTEMPTS = 5


@dataclass(slots=True)
class Lookup:
    """A read of one number.

    Attributes:
        future: awaited by all that need it: the entry, None if Redis does not answer.
        document: bytes, None if there is none, a ResponseError if the key is not a string.
        members: contacts and expiries, as Redis lists them; a ResponseError if the key is not a
            sorted set.
        used: the value of the usage key.
        spans: the spans in which the answers were read.
        begun: monotonic seconds when the first of them was asked for.
        overtaken: an invalidation has arrived during the read.
        slot: the result of document and registrations, once they are there.
        until: unix seconds at the end of the month whose use was read.
    """

    number: str
    future: "asyncio.Future[Entry | None]"
    layout: Layout
    on_read: "Callable[[Lookup], None]"
    on_failed: "Callable[[Lookup], None]"
    document: bytes | ResponseError | None = None
    members: Any = None
    used: Any = None
    spans: list[Span | None] = field(default_factory=list)
    begun: float = 0.0
    overtaken: bool = False
    waiting: int = 0
    failed: bool = False
    slot: Slot | None = None
    until: float = 0.0

    def read(self, unix_now: float) -> None:
        """Read the document and the registrations that have not expired."""
        live = (registrations_key(self.number), "+inf", f"({unix_now}", "WITHSCORES")
        self._ask("document", ("GET", line_key(self.number)))
        self._ask("members", ("ZREVRANGEBYSCORE", *live, "LIMIT", 0, _MOST_CONTACTS))

    def read_plan(self, month: str, until: float) -> None:
        """Read the use of the month's plan too."""
        self.until = until
        self._ask("used", ("HGET", usage_key(self.number, month), "deducted"))

    def span(self) -> Span | None:
        """The span that covers all answers; None if one is not covered."""
        joint: Span | None = None
        for span in self.spans:
            if span is None:
                return None
            joint = span if joint is None else joint.with_other(span)
        return joint

    def _ask(self, part: str, command: Command) -> None:
        self.waiting += 1
        self._send(part, command, self.layout.shard_of(str(command[1])), 1)

    def _send(self, part: str, command: Command, shard: Shard | None, attempt: int) -> None:
        if shard is None:
            self._fail()
            return

        def take(reply: Any, span: Span | None, begun: float) -> None:
            if isinstance(reply, AskError):
                self._follow(part, command, reply, attempt)
                return
            if isinstance(reply, Unavailable):
                # A replaced shard no longer answers; its successor does.
                heir = self.layout.shard_of(str(command[1]))
                if heir is not shard and attempt < _MOST_ATTEMPTS:
                    self._send(part, command, heir, attempt + 1)
                else:
                    self._fail()
                return
            setattr(self, part, reply)
            self.spans.append(span)
            self.begun = min(self.begun, begun) if self.begun else begun
            self.waiting -= 1
            if not self.waiting and not self.failed:
                self.on_read(self)

        shard.ask(command, take)

    def _follow(self, part: str, command: Command, error: AskError, attempt: int) -> None:
        """Follow a key that has moved, or is moving, to another server."""
        shard = self.layout.redirect(error)
        if shard is None or attempt >= _MOST_ATTEMPTS:
            self._fail()
            return
        if not isinstance(error, MovedError):
            # Its slot is moving: a read there now is not covered by that server's stream.
            self.spans.append(None)
            shard.ask(("ASKING",), _ignore)
        self._send(part, command, shard, attempt + 1)

    def _fail(self) -> None:
        if not self.failed:
            self.failed = True
            self.on_failed(self)


def seconds_used(reply: object) -> float:
    """Used seconds of a plan or a cap. An invalid number counts as 0."""
    if not isinstance(reply, bytes):
        return 0.0
    try:
        seconds = float(reply)
    except ValueError:
        return 0.0
    # NaN fails every comparison and is useless.
    return seconds if seconds > 0 else 0.0


def pairs(reply: Any) -> Sequence[tuple[bytes, float]] | ResponseError:
    """Members with their scores."""
    if isinstance(reply, ResponseError):
        return reply
    return [(reply[i], float(reply[i + 1])) for i in range(0, len(reply), 2)]


def _ignore(reply: Any, span: Span | None, begun: float) -> None:
    """Ignore the answer."""
