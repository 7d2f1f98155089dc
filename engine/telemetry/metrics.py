"""Prometheus metrics of one worker (the contract's names, labels from closed sets only).

On the call path each count is one dictionary look-up and one addition. Values of other parts (calls
in progress, the age of the rules) are read on the loop when Prometheus asks. docs/metrics.md
defines each metric and the figures computed from it. The supervisor's own metrics are in
`engine/processes/aggregate.py`, those of the other processes in `manager/health.py` and
`notify/health.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from engine import __version__
from engine.call_outcome import STAR_CODE, Outcome
from engine.records.record import CallRecord, LegRecord
from engine.telemetry.exposition import (
    CONTENT_TYPE,
    Counters,
    Family,
    Histogram,
    Histograms,
    Reading,
    Readings,
    process_families,
    render,
)
from rules.decide import PREVENTED
from rules.model import Billing, Condition, Kind
from rules.numbers import REFUSALS
from sip import compiled
from store import redis_errors

__all__ = ["CONTENT_TYPE", "Histogram", "Metrics"]


def _values(enum: type[StrEnum]) -> tuple[str, ...]:
    return tuple(each.value for each in enum)


CONDITIONS = ("none", *_values(Condition))
ROLES = ("line", *_values(Kind))
DESTINATIONS = (*ROLES, "none")
OUTCOMES = _values(Outcome)
BILLING = _values(Billing)
REJECTIONS = (
    "stranger",
    "foreign",
    "takeover",
    "refer",
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
    "source_connections",
    "slow_reader",
    "internal",
)
# Races that were resolved (RFC 5407; each in docs/signalling.md). `other` is for all kinds not
# named here.
RACES = (
    "line_won",  # no-answer expiry against the phone's 200: the phone won
    "answer_after_cancel",  # a 200 crossed our CANCEL and lost: ACK and BYE
    "cancel_after_answer",  # the caller's CANCEL met our 200: the call continues
    "cancel_in_lookup",  # the caller cancelled while Redis was asked
    "caller_gone_in_forward",  # the caller cancelled during a forward
    "bye_before_ack",  # the caller ended a call whose 200 it never acknowledged
    "bye_in_reinvite",  # one side ended the call during a re-INVITE
    "byes_crossed",  # both sides ended the call at once
    "glare",  # re-INVITEs that crossed: 491
    "reinvite_overlap",  # a second re-INVITE before the first was answered: 500
    "ack_lost",  # a side repeated its 2xx: acknowledged again
    "ack_missing",  # a caller never acknowledged a 2xx: BYE after 64*T1
    "invite_again",  # a copy of an INVITE, late or over another path: no second call
    "fork_answered_late",  # a second phone of a forked call answered: ACK and BYE
    "other",
)
REGISTRATIONS = (
    "accepted", "challenged", "stale", "wrong_password", "limited", "unknown", "suspended",
    "malformed", "too_brief", "too_many", "misplaced", "redis_away", "overload", "error",
)  # fmt: skip
DOCUMENTS = ("line", "reg", "fleet")

# The final answers to callers: those that RFC 6076 and the ITU's figures name, the rest by class.
CODES = (
    "200", "2xx", "3xx",
    "403", "404", "408", "480", "486", "487", "488", "4xx",
    "500", "503", "504", "5xx",
    "600", "603", "6xx",
)  # fmt: skip
# How an answered call ended: a BYE of either side, another call that took its place (Replaces), or
# what cut it off.
CONVERSATION_ENDS = (
    "bye", "replaced", "session_expired", "max_call", "fleet_cap", "ack_timeout", "transport",
    "shutdown", "other",
)  # fmt: skip
# How one outgoing leg ended. `given_up`: cancelled, because its time was over, somebody else
# answered or the caller hung up.
LEG_RESULTS = ("answered", "busy", "no_answer", "unreachable", "refused", "given_up")
RING_ENDS = ("answered", "no_answer")
# What became of a call of a process that died or was replaced: it goes on here; it rang, or one
# side had gone; its entry in the journal could not be read.
CONTINUED, ENDED, LOST = "continued", "ended", "lost"
TAKEN_OVER = (CONTINUED, ENDED, LOST)

# Upper bounds in seconds, chosen for the question that each histogram answers.
# Are 99 % of decisions under 1 ms, and how long do the others take?
DECISION_S = (5e-5, 1e-4, 2e-4, 3.5e-4, 5e-4, 7.5e-4, 1e-3, 2e-3, 5e-3, 2e-2, 1e-1, 1)
# Memory answers in microseconds, Redis in about a hundred; how slow is slow?
LOOKUP_S = (2e-6, 1e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 2e-2, 5e-2, 0.25)
# Does the caller get ringing soon?
POST_DIAL_S = (5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10)
# How long do people let it ring? after_s is 5 to 60 s.
RING_S = (2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 90, 180)
# How late is a no-answer forward? A person would not notice a tenth of a second.
OVERRUN_S = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2, 5)
# Wrong numbers, messages left, talks, fax, the limit of four hours.
CONVERSATION_S = (2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)

# name for watch() -> (metric, type, help)
WATCHED = {
    "active_calls": ("renvoi_active_calls", "gauge", "Calls in progress."),
    "calls_limit": (
        "renvoi_calls_limit", "gauge", "limits.calls: calls in progress allowed, 0 = no limit.",
    ),
    "oldest_call": (
        "renvoi_oldest_call_seconds", "gauge",
        "Age of the oldest call in progress, from its INVITE.",
    ),
    "max_call": ("renvoi_max_call_seconds", "gauge", "timers.max_call_s: longest conversation."),
    "redis_up": ("renvoi_redis_up", "gauge", "1 while Redis answers."),
    "rules_age": (
        "renvoi_rules_age_seconds", "gauge",
        "Time since the rules in memory were last known to be current; 0 while they are.",
    ),
    "invalidation_lag": (
        "renvoi_invalidation_lag_seconds", "gauge",
        "From a write in Redis until this worker knew of it; grows while it cannot be shown.",
    ),
    "connections": ("renvoi_connections", "gauge", "TCP and TLS connections now open."),
    "loop_lag": (
        "renvoi_loop_lag_seconds", "gauge",
        "How late the event loop ran its timers, the worst of the last 15 s.",
    ),
    "cdr_backlog": (
        "renvoi_cdr_backlog", "gauge", "Call records that wait to be written to Redis.",
    ),
    "cdr_lost": (
        "renvoi_cdr_lost_total", "counter", "Call records lost: memory and spool were full.",
    ),
    "live_unshared": (
        "renvoi_live_unshared_total", "counter",
        "Calls and forwards counted without Redis on lines with limits: it did not tell in time.",
    ),
    "standby_calls": (
        "renvoi_standby_calls", "gauge",
        "Answered calls that Redis has for another host (calls.standby).",
    ),
    "standby_waiting": (
        "renvoi_standby_waiting", "gauge", "Changes of answered calls that are not in Redis yet.",
    ),
    "legs": (
        "renvoi_legs", "gauge",
        "Sides of calls in progress: one for the caller, one for each phone.",
    ),
    "dialogs": (
        "renvoi_sip_dialogs", "gauge",
        "Dialogs, those included that are over and may still be spoken of.",
    ),
    "transactions": ("renvoi_sip_transactions", "gauge", "Transactions."),
    "tasks": ("renvoi_call_tasks", "gauge", "Coroutines of calls."),
    "log_dropped": (
        "renvoi_log_dropped_total", "counter", "Log lines dropped because the output was slow.",
    ),
    "trace_dropped": (
        "renvoi_trace_dropped_total", "counter",
        "SIP messages and calls that were not traced because the server took no more.",
    ),
}  # fmt: skip


class Metrics:
    """All metrics of a worker."""

    def __init__(self) -> None:
        build = Readings("renvoi_build_info", "gauge", "Always 1.", ["version", "compiled"])
        machine_code = "no" if compiled.serving() == "python" else "yes"
        build.read = lambda: {(__version__, machine_code): 1}
        self._calls = Counters(
            "renvoi_calls_total",
            "Calls that ended: the forward carried out, where to, and how it ended.",
            ["condition", "destination", "outcome"],
            [(c, d, o) for c in CONDITIONS for d in DESTINATIONS for o in OUTCOMES],
        )
        self._answers = Counters(
            "renvoi_answers_total", "Final answers to callers, by SIP code.", ["code"], CODES
        )
        self._ends = Counters(
            "renvoi_conversation_ends_total",
            "Answered calls that ended, by what ended them.",
            ["why"],
            CONVERSATION_ENDS,
        )
        self._taken_over = Counters(
            "renvoi_calls_taken_over_total",
            "Calls of a process that died or was replaced, by what became of them here.",
            ["result"],
            TAKEN_OVER,
        )
        self._targets = Counters(
            "renvoi_targets_total",
            "Outgoing legs that ended, by where they went and how.",
            ["destination", "result"],
            [(role, result) for role in ROLES for result in LEG_RESULTS],
        )
        self._arrivals = Counters(
            "renvoi_line_arrivals_total",
            "Calls that reached a line, by whether it had a live registration.",
            ["registered"],
            ("yes", "no"),
        )
        self._billed = Counters(
            "renvoi_billed_seconds_total",
            "Seconds of conversation that forwarding lines pay for, by billing class.",
            ["billing"],
            BILLING,
        )
        self._prevented = Counters(
            "renvoi_forwards_prevented_total",
            "Forwards that are on, were due and did not happen, by why not.",
            ["reason"],
            PREVENTED,
        )
        self._rejected = Counters(
            "renvoi_rejected_total", "Requests refused before any rule.", ["reason"], REJECTIONS
        )
        self._races = Counters(
            "renvoi_races_total", "Races between the two sides of a call, by kind.", ["kind"], RACES
        )
        self._connections_failed = Counters(
            "renvoi_connections_failed_total",
            "TCP and TLS connections that could not be made.",
            [],
            [""],
        )
        self._registrations = Counters(
            "renvoi_registrations_total", "REGISTER requests answered.", ["result"], REGISTRATIONS
        )
        self._documents = Counters(
            "renvoi_documents_refused_total", "Bad documents found in Redis.", ["kind"], DOCUMENTS
        )
        self._targets_refused = Counters(
            "renvoi_targets_refused_total",
            "Forwards that are on to a number that is refused, in lines as they were read.",
            ["reason"],
            REFUSALS,
        )
        self._redis_errors = Counters(
            "renvoi_redis_errors_total",
            "What was wrong with Redis, by kind, each time it was met.",
            ["kind"],
            redis_errors.KINDS,
        )
        decision = Histograms(
            "renvoi_decision_seconds",
            "INVITE received to next INVITE handed to the transport.",
            DECISION_S,
        )
        post_dial_delay = Histograms(
            "renvoi_post_dial_delay_seconds",
            "INVITE received to first 18x sent to the caller.",
            POST_DIAL_S,
        )
        lookup = Histograms(
            "renvoi_rule_lookup_seconds",
            "Time to have a line's rules, by where they were.",
            LOOKUP_S,
            "source",
            ("memory", "redis"),
        )
        forward_delay = Histograms(
            "renvoi_forward_delay_seconds",
            "A forward's trigger to the INVITE of its leg.",
            DECISION_S,
            "condition",
            CONDITIONS[1:],
        )
        ring = Histograms(
            "renvoi_ring_seconds",
            "First 18x of a line or target to its answer, or to the end of its ring time.",
            RING_S,
            "end",
            RING_ENDS,
        )
        ring_overrun = Histograms(
            "renvoi_ring_overrun_seconds",
            "How much longer than its ring time (after_s, max_ring_s) a phone was left to ring.",
            OVERRUN_S,
        )
        conversation = Histograms(
            "renvoi_conversation_seconds",
            "Answer to the end of the call: completed by a BYE or a takeover, or cut off.",
            CONVERSATION_S,
            "end",
            ("completed", "cut_off"),
        )
        self.decision = decision[""]
        self.post_dial_delay = post_dial_delay[""]
        self.lookup_memory, self.lookup_redis = lookup["memory"], lookup["redis"]
        self.forward_delay = forward_delay
        self.ring_answered, self.ring_no_answer = ring["answered"], ring["no_answer"]
        self.ring_overrun = ring_overrun[""]
        self._completed, self._cut_off = conversation["completed"], conversation["cut_off"]

        self._watched = {name: Reading(*watched) for name, watched in WATCHED.items()}
        self._messages = Readings(
            "renvoi_sip_messages_total",
            "counter",
            "SIP messages by direction (in, out) and kind.",
            ["direction", "kind"],
        )
        self._destinations = Readings(
            "renvoi_destination_up",
            "gauge",
            "1 while a destination's servers answer OPTIONS (sip.probe_s).",
            ["destination"],
        )
        self.families: tuple[Family, ...] = (
            build, self._calls, self._answers, self._ends, self._taken_over, self._targets,
            self._arrivals,
            self._billed, self._prevented, self._rejected, self._races, self._connections_failed,
            self._registrations, self._documents, self._targets_refused,
            self._redis_errors,
            decision, post_dial_delay, lookup, forward_delay,
            ring, ring_overrun, conversation, *self._watched.values(), self._messages,
            self._destinations, *process_families(),
        )  # fmt: skip

    # -- calls ------------------------------------------------------------------------------------

    def call_over(self, record: CallRecord) -> None:
        """Count everything at the end of a call: outcome, answer, legs, cost."""
        self.call_ended(record.condition, record.destination, record.outcome)
        self._answers.counts[code_class(record.code)] += 1
        for leg in record.legs:
            key = (leg.role, leg_result(leg))
            if key in self._targets.counts:
                self._targets.counts[key] += 1
        # Also of a call whose caller never got the answer: its target's side was connected.
        for forward in record.forwards:
            if forward.billing in self._billed.counts:
                self._billed.counts[forward.billing] += forward.seconds
        if record.answered is None or record.why == STAR_CODE:  # no conversation
            return
        conversation = self._completed if record.why in ("bye", "replaced") else self._cut_off
        conversation.observe(max(0.0, record.ended - record.answered))
        ends = self._ends.counts
        ends[record.why if record.why in ends else "other"] += 1

    def call_ended(self, condition: str, destination: str, outcome: str) -> None:
        """Count a call. Labels outside the closed sets count as a failed call, so that an unknown
        end counts against us and the series stay bounded.
        """
        key = (condition, destination, outcome)
        counts = self._calls.counts
        counts[key if key in counts else ("none", "none", "failed")] += 1

    def line_reached(self, registered: bool) -> None:
        """Count a call that has reached a line, by whether it has a live registration."""
        self._arrivals.counts["yes" if registered else "no"] += 1

    def taken_over(self, results: Mapping[str, int]) -> None:
        """Count calls of another process, by TAKEN_OVER."""
        for result in TAKEN_OVER:
            self._taken_over.counts[result] += results.get(result, 0)

    def forward_prevented(self, reason: str) -> None:
        """Count a forward that was due and did not happen; `reason` is one of
        `rules.decide.PREVENTED`."""
        self._prevented.counts[reason] += 1

    # -- requests, connections, documents ---------------------------------------------------------

    def rejected(self, reason: str) -> None:
        """Counts a request refused before any rule was read; an unknown reason is `internal`."""
        counts = self._rejected.counts
        counts[reason if reason in counts else "internal"] += 1

    def race(self, kind: str) -> None:
        """Counts a race; an unknown kind is `other`."""
        counts = self._races.counts
        counts[kind if kind in counts else "other"] += 1

    def connection_failed(self) -> None:
        """Counts a connection to a peer that could not be made."""
        self._connections_failed.counts[""] += 1

    def registration(self, result: str) -> None:
        """Counts an answered REGISTER; `result` is one of REGISTRATIONS."""
        self._registrations.counts[result] += 1

    def documents_refused(self, kind: str) -> None:
        """Counts a bad document; `kind` is `line` or `reg`."""
        counts = self._documents.counts
        counts[kind if kind in counts else "line"] += 1

    def target_refused(self, reason: str) -> None:
        """Counts a target that is refused; `reason` is one of `rules.numbers.REFUSALS`."""
        self._targets_refused.counts[reason] += 1

    def redis_error(self, kind: str) -> None:
        """Counts an error of Redis; `kind` is one of `store.redis_errors.KINDS`."""
        counts = self._redis_errors.counts
        counts[kind if kind in counts else "other"] += 1

    # -- values of other parts --------------------------------------------------------------------

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """`read` returns a value whenever Prometheus asks; `name` is a key of WATCHED.

        Raises KeyError for another name.
        """
        self._watched[name].read = read

    def sip_messages(self, counts: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """`counts` returns the messages so far by (direction, kind) whenever Prometheus asks."""
        self._messages.read = counts

    def destinations(self, up: Callable[[], Mapping[str, bool]]) -> None:
        """`up` returns whether each probed destination answers, whenever Prometheus asks."""
        self._destinations.read = lambda: {name: int(is_up) for name, is_up in up().items()}

    async def render(self) -> bytes:
        """The text for Prometheus, for the loop that the metrics are written on."""
        return await render(self.families)


def code_class(code: int) -> str:
    """The label of a final response: the code if it is in CODES, otherwise its class, such as
    "4xx"."""
    exact = str(code)
    if exact in _CODES:
        return exact
    classed = f"{code // 100}xx"
    return classed if classed in _CODES else "5xx"


_CODES = frozenset(CODES)


def leg_result(leg: LegRecord) -> str:
    """How an outgoing leg ended, one of LEG_RESULTS (the outcome table of docs/signalling.md,
    without a gateway's Reason)."""
    code = leg.code
    if leg.answered is not None:
        return "answered"
    if code in (0, 487):
        return "given_up"
    if code in (486, 600, 603, 607, 608):
        return "busy"
    if leg.rang is not None and code in (408, 480):
        return "no_answer"
    if leg.rang is None and (code in (404, 408, 410, 480) or code >= 500):
        return "unreachable"
    return "refused"
