"""Admission of new calls: limits of the engine, of each peer and of each line, and load shedding
when the engine cannot keep up.

A refusal says when to try again. Refused callers form a virtual queue that moves at the rate at
which room becomes free: Retry-After is the length of the queue divided by that rate. Nothing here
does I/O or reads a clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from engine.config import Limits
from sip.screening import Rejection

RETRY_MAX_S = 30  # the longest Retry-After, because the load changes quickly
RATE_MEMORY_S = 10.0  # averaging period of the rate of ended calls
KEPT = 1000  # peers or lines kept before idle ones are dropped

WINDOW_S = 0.2  # the load is measured this often,
SAMPLES = 3  # with at least so many measurements: one long turn of the loop is no overload
TO_TARGET_S = 1.0  # the time in which a wait that is too long or too short is corrected by half
FLOOR = 50.0  # calls/s that are always admitted, because another program may delay the loop
OPEN_AFTER = 10  # windows without refusals that end the shedding


class CallLimit:
    """A limit on calls at once, and on new calls per second.

    `most` and `per_second`: 0 = no limit. The bucket is one second deep.
    """

    __slots__ = ("_at", "_ended", "_ended_at", "_queue", "_queue_at", "_tokens", "calls", "most",
                 "per_second")  # fmt: skip

    def __init__(self, most: int, per_second: float) -> None:
        self.calls = 0
        self.most = most
        self.per_second = per_second
        self._tokens = float(per_second)
        self._at = -math.inf
        self._ended = self._ended_at = 0.0  # calls ended per second, and when that was computed
        self._queue = self._queue_at = 0.0

    def refuses(self, now: float) -> int | None:
        """None if there is room, otherwise the seconds until there is."""
        if self.most and self.calls >= self.most:
            return self.come_back(now, self.drain_rate(now))
        if self.per_second:
            gained = (now - self._at) * self.per_second
            self._tokens = min(max(1.0, self.per_second), self._tokens + gained)
            self._at = now
            if self._tokens < 1:
                return self.come_back(now, self.per_second)
        return None

    def enter(self) -> None:
        """Count an admitted call."""
        if self.per_second:
            self._tokens -= 1

    def leave(self, now: float) -> None:
        """End a call that counted in `calls`."""
        self.calls -= 1
        self._ended = self.drain_rate(now) + 1 / RATE_MEMORY_S
        self._ended_at = now

    def drain_rate(self, now: float) -> float:
        """The recent rate of ended calls per second."""
        return self._ended * math.exp((self._ended_at - now) / RATE_MEMORY_S)

    def come_back(self, now: float, rate: float) -> int:
        """Retry-After for one more refusal, if `rate` calls per second become possible."""
        self._queue = max(0.0, self._queue - (now - self._queue_at) * rate) + 1
        self._queue_at = now
        if self._queue >= rate * RETRY_MAX_S:
            self._queue = max(1.0, rate * RETRY_MAX_S)
            return RETRY_MAX_S
        return math.ceil(self._queue / rate)

    def is_idle(self, now: float) -> bool:
        """Whether it equals a new limit, so that it can be dropped."""
        if self.calls or not self.per_second:
            return not self.calls
        return self._tokens + (now - self._at) * self.per_second >= self.per_second


class Shedding:
    """Admits fewer calls when messages wait too long, and more again when they do not.

    The shortest wait of a window counts, because bursts wait too. `most_s` 0 = never sheds.
    """

    def __init__(self, most_s: float) -> None:
        self.most_s = most_s
        self.per_second = math.inf  # calls that may be admitted
        self._tokens = 0.0
        self._at = 0.0
        self._began = 0.0
        self._shortest = math.inf
        self._samples = 0
        self._late = False  # the previous window was too slow
        self._asked = self._entered = 0
        self._last = 0.0  # the shortest wait of the previous window
        self._can = 0.0  # calls/s with which the engine probably keeps up
        self._easy = 0  # consecutive windows without a refusal

    def refuses(self, now: float) -> bool:
        """Whether one more call is too many."""
        self._asked += 1
        if self.per_second == math.inf:
            return False
        depth = max(10.0, self.per_second * 0.05)
        self._tokens = min(depth, self._tokens + (now - self._at) * self.per_second)
        self._at = now
        return self._tokens < 1

    def enter(self) -> None:
        self._entered += 1
        if self.per_second != math.inf:
            self._tokens -= 1

    def waited(self, seconds: float, now: float) -> None:
        """Add one measurement of the wait of a message."""
        self._shortest = min(self._shortest, seconds)
        self._samples += 1
        span = now - self._began
        if span >= WINDOW_S and self._samples >= SAMPLES:
            if self.most_s:
                self._judge(span)
            self._began = now
            self._shortest = math.inf
            self._samples = self._asked = self._entered = 0

    def _judge(self, span: float) -> None:
        wait_s, entering = self._shortest, self._entered / span
        growth = (wait_s - self._last) / span
        self._last = wait_s
        shedding = self.per_second != math.inf
        if not shedding and wait_s > self.most_s and not self._late:
            self._late = True  # a second one in a row starts the shedding
            return
        self._late = wait_s > self.most_s
        if wait_s > self.most_s or (shedding and wait_s > self.most_s / 4):
            # Messages wait, so the engine is fully loaded. The rate at which the wait does not grow
            # is its capacity.
            can = entering / max(0.5, 1 + growth)
            self._can = can if not shedding else self._can + (can - self._can) / 8
            change = max(0.5, min(1.1, 1 - (wait_s - self.most_s / 2) / TO_TARGET_S))
            self.per_second = max(FLOOR, self._can * change)
            self._easy = 0
        elif shedding:
            self._easy = self._easy + 1 if self._asked <= self._entered else 0
            self.per_second *= 1.1 if self._shortest < self.most_s / 8 else 1.03
            self._can = max(self._can, self.per_second)
            if self._easy >= OPEN_AFTER:
                self.per_second = math.inf


class Admission:
    """The admission of new calls to a worker. `clock` gives monotonic seconds, `number_of` the
    called number of a Request-URI (None if it has none)."""

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float],
        number_of: Callable[[bytes], str | None],
    ) -> None:
        self.draining = False
        self._clock = clock
        self._number_of = number_of
        self._peers: dict[str, CallLimit] = {}
        self._lines: dict[str, CallLimit] = {}
        self.shedding = Shedding(limits.wait_s)
        self.engine = CallLimit(0, 0)
        self._by_peer = self._by_line = False
        self.limit(limits)

    def limit(self, limits: Limits, active: Iterable[tuple[str, str]] = ()) -> None:
        """Apply new limits; calls in progress stay counted. `active`: source and called number of
        each, for a limit per peer or line that begins now."""
        self._limits = limits
        self.engine.most, self.engine.per_second = limits.calls, limits.calls_per_second
        self.shedding.most_s = limits.wait_s
        by_peer = bool(limits.peer_calls or limits.peer_calls_per_second)
        by_line = bool(limits.line_calls or limits.line_calls_per_second)
        calls = list(active)
        if by_peer and not self._by_peer:
            self._peers = _counted(source for source, _ in calls)
        if by_line and not self._by_line:
            self._lines = _counted(called for _, called in calls)
        self._by_peer, self._by_line = by_peer, by_line
        for limit in self._peers.values():
            limit.most, limit.per_second = limits.peer_calls, limits.peer_calls_per_second
        for limit in self._lines.values():
            limit.most, limit.per_second = limits.line_calls, limits.line_calls_per_second

    def ask(self, source: bytes, target: bytes) -> Rejection | None:
        """As `sip.screening.AdmissionPolicy.ask`."""
        engine, now = self.engine, self._clock()
        if self.draining:
            rate = engine.drain_rate(now)
            left_s = engine.calls / rate if rate else RETRY_MAX_S
            return Rejection("draining", 503, max(1, min(RETRY_MAX_S, math.ceil(left_s))))
        retry_s = engine.refuses(now)
        if retry_s is not None:
            return Rejection("overload", 503, retry_s)
        if self.shedding.refuses(now):
            retry_s = engine.come_back(now, self.shedding.per_second)
            return Rejection("overload", 503, retry_s)
        peer = line = None
        if self._by_peer:
            peer = self._peer(source.decode("ascii"), now)
            retry_s = peer.refuses(now)
            if retry_s is not None:
                return Rejection("peer_limit", 503, retry_s)
        if self._by_line:
            number = self._number_of(target)
            if number is not None:
                line = self._line(number, now)
                retry_s = line.refuses(now)
                if retry_s is not None:
                    # 503 would concern the whole engine (RFC 3261 21.5.4): the peer would stop
                    # calls to all other lines, or try this one elsewhere.
                    return Rejection("line_limit", 480, retry_s)
        engine.enter()
        self.shedding.enter()
        if peer is not None:
            peer.enter()
        if line is not None:
            line.enter()
        return None

    def began(self, source: str, called: str) -> None:
        """Count a call as in progress, until `ended`."""
        self.engine.calls += 1
        if self._by_peer:
            self._peer(source, self._clock()).calls += 1
        if self._by_line:
            self._line(called, self._clock()).calls += 1

    def ended(self, source: str, called: str) -> None:
        """The call has ended."""
        now = self._clock()
        self.engine.leave(now)
        for known, name in ((self._peers, source), (self._lines, called)):
            limit = known.get(name) if known else None
            if limit is not None and limit.calls:
                limit.leave(now)

    def waited(self, seconds: float) -> None:
        """As `sip.screening.AdmissionPolicy.waited`."""
        self.shedding.waited(seconds, self._clock())

    def _peer(self, source: str, now: float) -> CallLimit:
        limits = self._limits
        return _kept(self._peers, source, limits.peer_calls, limits.peer_calls_per_second, now)

    def _line(self, number: str, now: float) -> CallLimit:
        limits = self._limits
        return _kept(self._lines, number, limits.line_calls, limits.line_calls_per_second, now)


def _counted(names: Iterable[str]) -> dict[str, CallLimit]:
    """The calls of each name, without a limit yet."""
    found: dict[str, CallLimit] = {}
    for name in names:
        found.setdefault(name, CallLimit(0, 0)).calls += 1
    return found


def _kept(
    known: dict[str, CallLimit], name: str, most: int, per_second: int, now: float
) -> CallLimit:
    limit = known.get(name)
    if limit is None:
        if len(known) >= KEPT and len(known) % KEPT == 0:
            for idle in [name for name, limit in known.items() if limit.is_idle(now)]:
                del known[idle]
        limit = known[name] = CallLimit(most, per_second)
    return limit
