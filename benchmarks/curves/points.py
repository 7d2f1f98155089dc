"""One point of a curve: calls through an engine of a certain size, CPU per call and p99."""

from __future__ import annotations

import math
import random
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import redis

from benchmarks.duel.cases import CASES, Case
from benchmarks.duel.contenders import DuelRig
from benchmarks.figures import percentile
from benchmarks.load import Plan, Run, finish_all
from benchmarks.processes import CpuMeter, free_port
from benchmarks.rig import HOST, LINES, called, document
from benchmarks.subject import CHECKOUT, Subject
from benchmarks.wire import Wire

_IDLE_S = 2.0
_CHUNK = 50_000
# A Lua script writes the lines inside Redis: from here it would take minutes.
_POPULATE = """
for index = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
  local number = string.format('+339%08d', index)
  redis.call('SET', 'line:' .. number, (string.gsub(ARGV[3], '@', number)))
  redis.call('ZADD', 'reg:' .. number, ARGV[4], ARGV[5])
end
"""


@dataclass(frozen=True)
class Point:
    """`x` is what the curve is drawn over; times in ms on the wire; cpu in us per call."""

    x: float
    cpu_us: float
    p50_ms: float | None
    p99_ms: float | None
    calls: int
    lost: int
    rate: float


@dataclass
class Series:
    """The points of one curve."""

    name: str
    points: list[Point] = field(default_factory=list)

    def slope(self, figure: str, log: bool) -> float | None:
        """Least squares: change of `figure` for each 1 of x, or for ten times x when `log`."""
        pairs = [(p.x, getattr(p, figure)) for p in self.points if getattr(p, figure) is not None]
        if len(pairs) < 2:
            return None
        xs = [math.log10(x) if log else x for x, _ in pairs]
        return statistics.linear_regression(xs, [y for _, y in pairs]).slope


@dataclass
class Curve:
    """A picture: one or more series over the same x."""

    name: str
    title: str
    x_label: str
    log: bool
    series: list[Series]

    def slopes(self) -> dict[str, dict[str, float | None]]:
        """By series: us per call and ms of p99, each for 1 of x or for ten times x."""
        return {
            one.name: {
                "cpu_us": one.slope("cpu_us", self.log),
                "p99_ms": one.slope("p99_ms", self.log),
            }
            for one in self.series
        }

    def as_dict(self) -> dict[str, object]:
        """For the JSON line."""
        return asdict(self) | {"slopes": self.slopes()}


class SizedRig(DuelRig):
    """Renvoi with a number of lines in Redis, workers, max_calls, and a delay to Redis."""

    def __init__(
        self,
        subject: Subject,
        cores: tuple[int, int],
        *,
        case: Case = CASES["bridged"],
        lines: int = 0,
        at_random: bool = False,
        workers: int = 1,
        max_calls: int | None = None,
        redis_ms: float = 0.0,
    ) -> None:
        """`lines`: in Redis, 0 = the usual 500. `at_random`: calls go to any of them, else to the
        usual 500. `redis_ms`: added to each round trip."""
        super().__init__(subject, None, case, cores=cores, start_s=60.0)
        self.workers = workers
        if workers > 1:
            self.sip_port = free_port(several=workers)
            self.first_admin_port = free_port(socket.SOCK_STREAM, several=workers + 1)
            self.admin_port = self.first_admin_port + workers
        self.max_calls = max_calls
        self._lines, self._at_random, self._redis_ms = lines, at_random, redis_ms
        self._random = random.Random(7)
        # The calls in progress of a curve, and those that are measured.
        self.limits = {"calls": 40_000}

    def called_by(self, index: int) -> str:
        """See DuelRig."""
        if self._at_random:
            return f"+339{self._random.randrange(self._lines):08d}"
        return called(index % LINES)

    def write_rules(self) -> None:
        """See Rig."""
        super().write_rules()
        phone = f"sip:phone@{HOST}:{self.phone_port}"
        expiry = f"{time.time() + 86400:.0f}"
        with redis.Redis(host=HOST, port=self.redis_port) as client:
            for start in range(0, self._lines, _CHUNK):
                end = min(self._lines, start + _CHUNK)
                client.eval(_POPULATE, 0, str(start), str(end), document("@", None), expiry, phone)

    def start_engine(self) -> None:
        """See Rig; the relay is on the load's core."""
        if self._redis_ms:
            self.engine_redis_port = free_port(socket.SOCK_STREAM)
            ports = [str(self.engine_redis_port), str(self.redis_port)]
            command = [sys.executable, str(CHECKOUT / "benchmarks" / "relay.py")]
            relay = self.start([*command, *ports, f"{self._redis_ms:g}"], self.load_core)
            self.wait_until_ready(relay, "the relay", self._relay_answers)
        super().start_engine()

    def _relay_answers(self) -> bool:
        with redis.Redis(host=HOST, port=self.engine_redis_port) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


def send(rig: SizedRig, rate: float, calls: int, label: str, hold_s: float = 0.0) -> list[Run]:
    """Calls to all workers at once, a SIPp each."""
    return [
        Run(
            rig,
            Plan(rate=rate / rig.workers, calls=max(1, calls // rig.workers), hold_s=hold_s),
            label,
            target=(HOST, rig.sip_port + worker),
        )
        for worker in range(rig.workers)
    ]


def finish(lanes: Sequence[Run]) -> tuple[int, int]:
    """Wait until all have ended; calls started and lost."""
    outcomes = finish_all(lanes)
    return sum(one.last.started for one in outcomes), sum(one.lost for one in outcomes)


def warm(rig: SizedRig, label: str, rate: float = 150.0) -> None:
    """Each of the usual lines once through each worker, then a pause."""
    finish(send(rig, rate, LINES * rig.workers, f"{label}, warm-up"))
    time.sleep(4.0 if rig.workers > 1 else 0.5)  # the warm spare is starting


def measure(rig: SizedRig, x: float, rate: float, seconds: float, label: str) -> Point:
    """`rate` calls/s for `seconds`; the engine's idle use is subtracted."""
    assert rig.engine is not None
    idle = CpuMeter(rig.engine.pid)
    time.sleep(_IDLE_S)
    idle_share = idle.used_s() / idle.elapsed_s()
    meter = CpuMeter(rig.engine.pid)
    with Wire(rig.sip_port, rig.workers) as wire:
        started, lost = finish(send(rig, rate, round(rate * seconds), label))
        used_s = meter.used_s() - idle_share * meter.elapsed_s()
    decisions = wire.decisions_ms()
    return Point(
        x=x,
        cpu_us=used_s / max(started, 1) * 1e6,
        p50_ms=percentile(decisions, 0.5),
        p99_ms=percentile(decisions, 0.99),
        calls=started,
        lost=lost,
        rate=rate,
    )
