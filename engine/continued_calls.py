"""Continues the calls of a process that has died, or was replaced, in the process that has its
place and its ports.

A call whose two sides had answered goes on. A call that still rang is ended on both sides: its
phones get CANCEL, its caller 503 with `Retry-After: 0`, so that the caller's server can try again.
All this happens before the first datagram is read, so that no message of a continued call meets a
process that does not know it.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from engine.call_entry import ActiveCall
from engine.call_facts import AnyLeg, CallFacts, EndedLeg
from engine.call_outcome import Outcome, Over
from engine.call_services import CallServices
from engine.calls import Calls
from engine.processes.journal import Journal, Left
from engine.telemetry.metrics import CONTINUED, ENDED, LOST, TAKEN_OVER
from sip.incoming import Incoming
from sip.leg_state import LegState
from sip.outgoing import Outgoing
from sip.state import ANSWERED
from store import background_tasks


class _Legs(NamedTuple):
    caller: Incoming
    callees: list[AnyLeg]


class ContinuedCalls:
    """The calls that other processes left to this one."""

    def __init__(self, services: CallServices, calls: Calls, journal: Journal) -> None:
        self._services = services
        self._calls = calls
        self._journal = journal

    async def take(self, left: list[Left]) -> None:
        """Continue what can go on. What cannot, for its age or its place, stays in `left`."""
        takeover_s = self._services.config.timers.takeover_s
        results: Counter[str] = Counter()
        for journal in left:
            results[LOST] += journal.lost
            if journal.age_s > takeover_s and not journal.is_handed_over:
                continue
            taken: list[str] = []
            async for call in background_tasks.giving_way(list(journal.active)):
                result = self._take(call)
                if result is not None:
                    results[result] += 1
                    taken.append(call.id)
            done = set(taken)
            journal.active = [call for call in journal.active if call.id not in done]
            self._journal.continued(taken)
        if sum(results.values()):
            self._services.metrics.taken_over(results)
            self._services.log.warning(
                "calls.taken_over", **{result: results[result] for result in TAKEN_OVER}
            )

    def _take(self, entry: ActiveCall) -> str | None:
        """What became of it; None if it is not continued here."""
        if not entry.signalling or not self._is_here(entry.signalling):
            return None
        try:
            legs = self._legs(entry.signalling)
            if legs is None:
                return None
            facts = entry.restored(self._services.changed, legs.callees)
            facts.takeovers += 1
            so_far = _so_far(facts, legs)
            call = self._calls.resume(legs.caller, facts, so_far)
        except Exception as error:
            self._services.log.error("call.error", call=entry.id, exc_info=error)
            return LOST
        call.path.resume(entry)
        for leg in legs.callees:
            if isinstance(leg, Outgoing):
                leg.owner = facts
        return CONTINUED if isinstance(so_far, Outgoing) else ENDED

    def _is_here(self, signalling: list[LegState | None]) -> bool:
        """Whether its peers reach this process: at the addresses that they know."""
        endpoint = self._services.endpoint
        return all(endpoint.is_ours(leg.contact) for leg in signalling if leg is not None)

    def _legs(self, signalling: list[LegState | None]) -> _Legs | None:
        endpoint = self._services.endpoint
        caller, *callees = signalling
        if caller is None:
            return None
        endpoint.layer.expect_orphans()
        return _Legs(
            Incoming.continued(endpoint, caller),
            [
                Outgoing.continued(endpoint, leg) if leg is not None else EndedLeg()
                for leg in callees
            ],
        )


def _so_far(facts: CallFacts, legs: _Legs) -> Outgoing | Over:
    """The callee that has answered a caller who has the answer; otherwise the end that is due."""
    answered = [leg for leg in legs.callees if isinstance(leg, Outgoing) and leg.state >= ANSWERED]
    if legs.caller.state >= ANSWERED and len(answered) == 1:
        return answered[0]
    if facts.answered is not None:  # one side had hung up
        return Over(Outcome.ANSWERED, 200, "bye")
    return Over(Outcome.FAILED, 503, "worker_died")
