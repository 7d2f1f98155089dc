"""Continues the calls of a process that has died, or was replaced, in the process that has its
place and its ports.

A call whose two sides had answered goes on, and so does one that rings one line or one target, if
its entry says that nothing in it belongs to one process alone (`call_entry.is_plain`). A
call in another state, such as a list of targets, is ended on both sides: its phones get CANCEL, its
caller 503 with `Retry-After: 0`, so that the caller's server can try again.
What is known of the calls comes from the journal (`processes/journal.py`): a locked file in shared
memory in which each process keeps the facts of its calls and the state of their legs.
All this happens before the first datagram is read, so that no message of a continued call meets a
process that does not know it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from engine.call import SoFar
from engine.call_entry import ActiveCall, LeftCalls
from engine.call_facts import NOT_WAITING, AnyLeg, CallFacts, EndedLeg
from engine.call_outcome import STAR_CODE, Outcome, Over
from engine.call_services import CallServices
from engine.call_tasks import CallTasks
from engine.calls import Calls
from engine.processes.journal import Journal
from engine.ringing import Rings
from engine.telemetry.metrics import CONTINUED, ENDED, LOST, TAKEN_OVER
from rules.model import METERED
from sip import state
from sip.continued_call import connect
from sip.incoming import Incoming
from sip.leg import Leg
from sip.leg_state import LegState
from sip.outgoing import Outgoing
from sip.state import ANSWERED, EARLY
from store import background_tasks
from store.lines import Unavailable

_READ_AT_ONCE = 50
# However short `timers.takeover_s` is, because on a busy machine a replacement starts slowly.
HANDED_OVER_S = 120.0
MOST_ATTEMPTS = 2  # to continue the calls of one process: one of them may end whoever tries


class ContinuedCalls:
    """The calls that other processes left to this one."""

    def __init__(
        self, services: CallServices, calls: Calls, journal: Journal, tasks: CallTasks
    ) -> None:
        self._services = services
        self._calls = calls
        self._journal = journal
        self._tasks = tasks

    async def take(self, left: Sequence[LeftCalls]) -> None:
        """Continue what can go on. What cannot, for its age, its place or an error, stays in
        `left`."""
        takeover_s = self._services.config.timers.takeover_s
        results: Counter[str] = Counter()
        entries: list[ActiveCall] = []
        handed_over: set[str] = set()
        for journal in left:
            results[LOST] += journal.lost
            least_s = HANDED_OVER_S if journal.is_handed_over else 0.0
            if journal.age_s > max(takeover_s, least_s):
                continue
            if journal.attempts >= MOST_ATTEMPTS:
                self._services.log.error("journal.given_up", journal=journal.name)
                continue
            journal.attempt()
            entries += journal.active
            if journal.is_handed_over:
                handed_over.update(entry.id for entry in journal.active)
        taken: set[str] = set()
        entries.sort(key=lambda entry: entry.received)  # `Calls` has the oldest first
        async for entry in background_tasks.giving_way(entries):
            result = self._take(entry, handed_over=entry.id in handed_over)
            if result is not None:
                results[result] += 1
            if result in (CONTINUED, ENDED):
                taken.add(entry.id)
        for journal in left:
            journal.active = [call for call in journal.active if call.id not in taken]
        self._journal.continued(list(taken))
        if sum(results.values()):
            self._services.metrics.taken_over(results)
            self._services.log.warning(
                "calls.taken_over", **{result: results[result] for result in TAKEN_OVER}
            )
        if left:
            payers = {f.line for entry in entries for f in entry.forwards if f.billing in METERED}
            self._tasks.start(self._read(payers))

    def _take(self, entry: ActiveCall, *, handed_over: bool) -> str | None:
        """What became of it; None if it is not continued here."""
        if not entry.signalling or not self._is_here(entry.signalling):
            return None
        legs: dict[Leg, LegState | None] = {}
        try:
            facts, so_far = self._restored(entry, legs, handed_over=handed_over)
            caller, *_ = legs
            assert isinstance(caller, Incoming)
            self._calls.resume(caller, facts, so_far, entry)
        except Exception as error:
            self._services.log.error("call.error", call=entry.id, exc_info=error)
            for each in legs:
                each.detach()
                each.hangup()
            return LOST
        return ENDED if isinstance(so_far, Over) else CONTINUED

    def _is_here(self, signalling: list[LegState | None]) -> bool:
        """Whether its peers reach this process: at the addresses that they know."""
        endpoint = self._services.endpoint
        return all(endpoint.is_ours(leg.contact) for leg in signalling if leg is not None)

    def _restored(
        self, entry: ActiveCall, legs: dict[Leg, LegState | None], *, handed_over: bool
    ) -> tuple[CallFacts, SoFar]:
        """The facts of a call and how far it came. Its legs are added to `legs`."""
        endpoint = self._services.endpoint
        endpoint.layer.expect_orphans()
        first, *others = entry.signalling
        caller = Incoming.continued(endpoint, first) if first else Incoming.gone(endpoint)
        legs[caller] = first
        callees: list[AnyLeg] = []
        for kept in others:
            if kept is None:
                callees.append(EndedLeg())
                continue
            leg = Outgoing.continued(endpoint, kept)
            legs[leg] = kept
            callees.append(leg)
        facts = entry.restored(self._services.changed, callees)
        facts.takeovers += 1
        for each in legs:
            each.owner = facts
        so_far: SoFar = _answered(facts, caller, callees)
        # A call that ended two processes by its ringing does not get a third one.
        if entry.is_plain and (handed_over or entry.takeovers == 0):
            rings = _rings(facts, caller, callees, entry.visited, may_begin=handed_over)
            so_far = rings or so_far
        winner = legs.get(so_far) if isinstance(so_far, Outgoing) else None
        if isinstance(so_far, Outgoing) and first is not None and winner is not None:
            connect(caller, first, so_far, winner)
        return facts, so_far

    async def _read(self, lines: set[str]) -> None:
        """Read what the other processes knew: which transfers are pending, and the lines that pay.
        Nobody may call these soon, and what is left of their plans decides what their calls use of
        a cap."""
        await self._calls.handovers.transfers.look()
        store, wanted = self._services.store, list(lines)
        while wanted:
            some, wanted = wanted[:_READ_AT_ONCE], wanted[_READ_AT_ONCE:]
            with suppress(Unavailable):
                await asyncio.gather(*map(store.look_up, some))


def _answered(facts: CallFacts, caller: Incoming, callees: list[AnyLeg]) -> Outgoing | Over:
    """The callee that has answered a caller who has the answer; otherwise the end that is due."""
    answered = [leg for leg in callees if isinstance(leg, Outgoing) and leg.state >= ANSWERED]
    if ANSWERED <= caller.state < state.ENDED and len(answered) == 1:
        return answered[0]
    if facts.answered is None:
        return Over(Outcome.FAILED, 503, "worker_died")
    # One side had hung up, or the caller had dialled a star code.
    return Over(Outcome.ANSWERED, 200, "bye" if facts.legs else STAR_CODE)


def _rings(
    facts: CallFacts,
    caller: Incoming,
    callees: list[AnyLeg],
    visited: tuple[str, ...],
    *,
    may_begin: bool,
) -> Rings | None:
    """What rings, if the call can go on from there: the phones of one line, or one target. Nothing
    has been dialled yet: it begins again, if it `may_begin`. None: it cannot go on."""
    invite = caller.invite
    if caller.state > EARLY or invite is None or invite.first(b"replaces") is not None:
        return None
    if not facts.legs and not facts.forwards:
        return Rings((), ()) if may_begin else None
    alive = [leg for leg in callees if isinstance(leg, Outgoing)]
    ringing = tuple(leg for leg in alive if leg.state is EARLY and not leg.is_cancelled)
    places = {(facts.legs[leg].role, facts.legs[leg].number) for leg in ringing}
    if len(places) != 1 or any(leg.state >= ANSWERED for leg in alive):
        return None
    ((role, number),) = places
    last = facts.forwards[-1] if facts.forwards else None
    is_line = role == "line" and visited[-1:] == (number,)
    is_target = role != "line" and last is not None and (last.kind, last.number) == (role, number)
    if not (is_line or is_target) or facts.waits == NOT_WAITING:
        return None
    return Rings(ringing, tuple(leg for leg in alive if leg.is_cancelled))
