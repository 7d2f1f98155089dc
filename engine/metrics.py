"""Prometheus metrics of one worker (the contract's names, labels from closed sets only).

Everything the call path touches is one dictionary look-up and one addition. Values that others
hold (calls in progress, the age of the rules) are read when Prometheus asks, on the loop.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from engine import __version__

__all__ = ["CONTENT_TYPE_LATEST", "Histogram", "Metrics"]

CONDITIONS = ("none", "unconditional", "busy", "no_answer", "unreachable")
DESTINATIONS = ("line", "voicemail", "fax", "number", "none")
OUTCOMES = (
    "answered",
    "busy",
    "no_answer",
    "unreachable",
    "cancelled",
    "rejected",
    "failed",
)
REJECTIONS = (
    "stranger",
    "malformed",
    "too_large",
    "overload",
    "peer_limit",
    "line_limit",
    "draining",
    "unsupported",
    "no_contact",
    "loop_detected",
    "bad_number",
    "connections",
    "slow_reader",
    "internal",
)
# Races that were met and resolved (RFC 5407; each in docs/signalling.md). `other` takes what is not
# named here.
RACES = (
    "line_won",  # no-answer expiry against the phone's 200: the phone won
    "answer_after_cancel",  # a 200 crossed our CANCEL and lost: ACK and BYE
    "cancel_after_answer",  # the caller's CANCEL met our 200: the call stands
    "cancel_in_lookup",  # the caller gave up while Redis was asked
    "caller_gone_in_forward",  # the caller gave up while the call was on its way to a target
    "bye_before_ack",  # the caller ended a call whose 200 it never acknowledged
    "bye_in_reinvite",  # one side ended the call while an INVITE was under way
    "byes_crossed",  # both sides ended the call at once
    "glare",  # re-INVITEs that crossed: 491
    "reinvite_overlap",  # a second re-INVITE before the first was answered: 500
    "ack_lost",  # a callee repeated its 2xx: acknowledged again
    "ack_missing",  # a caller never acknowledged a 2xx: BYE after 64*T1
    "invite_again",  # a copy of an INVITE, late or by another way: no second call
    "fork_answered_late",  # a second phone of a forked call answered: ACK and BYE
    "other",
)
REGISTRATIONS = (
    "accepted", "challenged", "stale", "wrong_password", "limited", "unknown", "suspended",
    "malformed", "too_brief", "too_many", "redis_away", "overload", "error",
)  # fmt: skip
DOCUMENTS = ("line", "reg")

# Upper bounds in seconds, chosen for the question each histogram answers.
# Is 99 % of decisions under 1 ms, and where does the rest stand?
DECISION_S = (5e-5, 1e-4, 2e-4, 3.5e-4, 5e-4, 7.5e-4, 1e-3, 2e-3, 5e-3, 2e-2, 1e-1, 1)
# Memory answers in microseconds, Redis in about a hundred; how slow is slow?
LOOKUP_S = (2e-6, 1e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 2e-2, 5e-2, 0.25)
# Does the caller hear ringing soon?
POST_DIAL_S = (5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10)

# name for watch() -> (metric, help)
WATCHED = {
    "active_calls": ("renvoi_active_calls", "Calls in progress."),
    "redis_up": ("renvoi_redis_up", "1 while Redis answers."),
    "rules_age": (
        "renvoi_rules_age_seconds",
        "Time since the rules in memory were last known to be current; 0 while they are.",
    ),
    "invalidation_lag": (
        "renvoi_invalidation_lag_seconds",
        "From a write in Redis until this worker knew of it, last measured.",
    ),
    "connections": ("renvoi_connections", "TCP and TLS connections that stand."),
    "loop_lag": ("renvoi_loop_lag_seconds", "How late the event loop ran its last timer."),
    "cdr_backlog": ("renvoi_cdr_backlog", "Call records that wait to be written to Redis."),
    "cdr_lost": ("renvoi_cdr_lost", "Call records that were lost: memory and spool were full."),
    "legs": ("renvoi_legs", "Sides of calls that stand: one for the caller, one for each phone."),
    "dialogs": ("renvoi_sip_dialogs", "PJSIP's dialogs, those that only wait to end included."),
    "transactions": ("renvoi_sip_transactions", "PJSIP's transactions."),
    "tasks": ("renvoi_call_tasks", "Coroutines of calls."),
    "log_dropped": ("renvoi_log_dropped", "Log lines dropped because the output was slow."),
}


class Histogram:
    """Counts observations, in seconds, by upper bound.

    Written and read on the loop only, hence without the lock of prometheus_client's own, which
    costs several times as much, several times per call.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        result, so_far = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            result.append((bound, float(so_far)))
        return result


class _Histograms(Collector):
    """One histogram metric: its children by label value ("" when it has no label)."""

    def __init__(self, name: str, text: str, label: str, children: Mapping[str, Histogram]):
        self._name, self._text, self._label, self._children = name, text, label, children

    def collect(self) -> Iterable[Metric]:
        labels = [self._label] if self._label else []
        family = HistogramMetricFamily(self._name, self._text, labels=labels)
        for value, child in self._children.items():
            family.add_metric([value] if labels else [], child.buckets(), child.total)
        yield family


class _Messages(Collector):
    """SIP messages by direction and kind, counted elsewhere."""

    def __init__(self) -> None:
        self.counts: Callable[[], Mapping[tuple[str, str], int]] = dict

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "renvoi_sip_messages",
            "SIP messages by direction (in, out) and kind.",
            labels=["direction", "kind"],
        )
        for (direction, kind), count in sorted(self.counts().items()):
            family.add_metric([direction, kind], count)
        yield family


class _Destinations(Collector):
    """Which destinations answer, as far as they are probed."""

    def __init__(self) -> None:
        self.up: Callable[[], Mapping[str, bool]] = dict

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "renvoi_destination_up",
            "1 while a destination's servers answer OPTIONS (sip.probe_s).",
            labels=["destination"],
        )
        for destination, up in self.up().items():
            family.add_metric([destination], float(up))
        yield family


class _One:
    """Looks like a registry that holds a single family, for generate_latest."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


class Metrics:
    """All metrics of a worker, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # series that nobody asks for
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        build = Gauge("renvoi_build_info", "Always 1.", ["version"], registry=self.registry)
        build.labels(__version__).set(1)

        calls = Counter(
            "renvoi_calls_total",
            "Calls that ended: the forward carried out, where to, and how it ended.",
            ["condition", "destination", "outcome"],
            registry=self.registry,
        )
        # All series exist from the start: the first failure must show as an increase.
        self._calls = {
            (condition, destination, outcome): calls.labels(condition, destination, outcome)
            for condition in CONDITIONS
            for destination in DESTINATIONS
            for outcome in OUTCOMES
        }
        self._rejected = self._children(
            "renvoi_rejected_total", "Requests refused before any rule.", "reason", REJECTIONS
        )
        self._races = self._children(
            "renvoi_races_total", "Races between the two sides of a call, by kind.", "kind", RACES
        )
        self._connections_failed = Counter(
            "renvoi_connections_failed_total",
            "TCP and TLS connections that could not be made.",
            registry=self.registry,
        )
        self._registrations = self._children(
            "renvoi_registrations_total", "REGISTER requests answered.", "result", REGISTRATIONS
        )
        self._documents = self._children(
            "renvoi_documents_refused_total", "Bad documents found in Redis.", "kind", DOCUMENTS
        )

        self.decision = Histogram(DECISION_S)
        self.post_dial_delay = Histogram(POST_DIAL_S)
        self.lookup_memory = Histogram(LOOKUP_S)
        self.lookup_redis = Histogram(LOOKUP_S)
        self.forward_delay = {name: Histogram(DECISION_S) for name in CONDITIONS[1:]}
        for collector in (
            _Histograms(
                "renvoi_decision_seconds",
                "INVITE received to next INVITE handed to the transport.",
                "",
                {"": self.decision},
            ),
            _Histograms(
                "renvoi_post_dial_delay_seconds",
                "INVITE received to first 18x sent to the caller.",
                "",
                {"": self.post_dial_delay},
            ),
            _Histograms(
                "renvoi_rule_lookup_seconds",
                "Time to have a line's rules, by where they were.",
                "source",
                {"memory": self.lookup_memory, "redis": self.lookup_redis},
            ),
            _Histograms(
                "renvoi_forward_delay_seconds",
                "A forward's trigger to the INVITE of its leg.",
                "condition",
                self.forward_delay,
            ),
        ):
            self.registry.register(collector)

        self._gauges = {
            name: Gauge(metric, text, registry=self.registry)
            for name, (metric, text) in WATCHED.items()
        }
        self._messages = _Messages()
        self.registry.register(self._messages)
        self._destinations = _Destinations()
        self.registry.register(self._destinations)

    def call_ended(self, condition: str, destination: str, outcome: str) -> None:
        """Counts a call. Labels outside the closed sets count as a failed call: an unknown end
        counts against us, and the series stay bounded.
        """
        child = self._calls.get((condition, destination, outcome))
        (child or self._calls["none", "none", "failed"]).inc()

    def rejected(self, reason: str) -> None:
        """Counts a request refused before any rule was read; an unknown reason is `internal`."""
        (self._rejected.get(reason) or self._rejected["internal"]).inc()

    def race(self, kind: str) -> None:
        """Counts a race; an unknown kind is `other`."""
        (self._races.get(kind) or self._races["other"]).inc()

    def connection_failed(self) -> None:
        """Counts a connection to a peer that could not be made."""
        self._connections_failed.inc()

    def registration(self, result: str) -> None:
        """Counts an answered REGISTER; `result` is one of REGISTRATIONS."""
        self._registrations[result].inc()

    def documents_refused(self, kind: str) -> None:
        """Counts a bad document; `kind` is `line` or `reg`."""
        (self._documents.get(kind) or self._documents["line"]).inc()

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """`read` gives a gauge's value whenever Prometheus asks; `name` is a key of WATCHED.

        Raises KeyError for another name.
        """
        self._gauges[name].set_function(lambda: _reading(read))

    def sip_messages(self, counts: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """`counts` gives the messages so far by (direction, kind) whenever Prometheus asks."""
        self._messages.counts = counts

    def destinations(self, up: Callable[[], Mapping[str, bool]]) -> None:
        """`up` tells of each probed destination whether it answers, whenever Prometheus asks."""
        self._destinations.up = up

    async def render(self) -> bytes:
        """The text for Prometheus, for the loop that the metrics are written on.

        Gives way to calls between families. A thread would not help: it needs the interpreter
        lock for the same time, and the values would change under it.
        """
        parts = []
        for family in self.registry.collect():
            parts.append(generate_latest(_One(family)))
            await asyncio.sleep(0)
        return b"".join(parts)

    def _children(
        self, name: str, text: str, label: str, values: Sequence[str]
    ) -> dict[str, Counter]:
        counter = Counter(name, text, [label], registry=self.registry)
        return {value: counter.labels(value) for value in values}


def _reading(read: Callable[[], float]) -> float:
    """One failing source must not take the other metrics with it."""
    try:
        return float(read())
    except Exception:
        return float("nan")
