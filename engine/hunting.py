"""What rings for a call, in which order and for how long: the phones of a line, the target of a
forward. `ringing.py` has the legs themselves and their races.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from engine.call_outcome import Outcome, Over, of_code
from engine.destinations import uri_of
from engine.registration.own_addresses import hops_of
from rules.contact import groups
from rules.model import Condition, Line
from rules.ringing_outcome import target_failure, verdict
from sip.outgoing import Outgoing

if TYPE_CHECKING:
    from engine.call_path import CallPath
    from engine.call_services import CallServices
    from engine.ringing import Ringing
    from rules.decide import ForwardTo, Ring
    from store.cache import Entry


class Hunting:
    """Rings what the rules decide, for one call."""

    __slots__ = ("_path", "_ringing", "_services")

    def __init__(self, services: CallServices, ringing: Ringing, path: CallPath) -> None:
        self._services = services
        self._ringing = ringing
        self._path = path

    async def ring_line(self, line: Line, entry: Entry, decision: Ring) -> Outgoing | Condition:
        """Ring every registered contact, group after group.

        Returns the leg that answered, or the condition. The line's no-answer time runs from the
        first 18x of any group. Raises Over if the caller gets the phone's own code.
        """
        timers, ringing = self._services.config.timers, self._ringing
        contacts = entry.live_contacts(time.time())
        alone = len(contacts) == 1 and not line.may_forward_ringing
        ring_s = decision.after_s if decision.after_s is not None else timers.max_ring_s
        hunt = groups(contacts)
        result: Outgoing | Condition | None = None
        for group in hunt:
            for contact in group:
                hops = hops_of(contact.path)
                ringing.dial(
                    "line", line.number, contact.uri, hops,
                    trusted=False, alone=alone, contact=contact,
                )  # fmt: skip
            group_s = math.inf if group is hunt[-1] else timers.group_ring_s
            result = await ringing.wait(timers.pre_ringing_s, ring_s, group_s=group_s)
            if isinstance(result, Outgoing):
                return result
            if result is Condition.NO_ANSWER or ringing.attempt.decline() is not None:
                break
        self._path.leave(line.number)
        if result is Condition.NO_ANSWER:
            return result
        ringing.attempt.check_size()
        outcome = verdict(ringing.attempt.failures())
        if isinstance(outcome, Condition):
            return outcome
        raise Over(of_code(outcome), outcome, "passed_on", ringing.attempt.response_with(outcome))

    async def ring_target(self, decision: ForwardTo) -> Outgoing:
        """Ring the target of a forward. Raises Over with its code if it fails, because nothing else
        is tried."""
        if self._services.probing.is_down(decision.kind):
            raise Over(Outcome.UNREACHABLE, 480, "destination_down")
        self._ringing.dial(
            decision.kind,
            decision.number,
            uri_of(self._services.config.destinations, decision),
            trusted=True,
            alone=True,
        )
        return await self.answer_of_target()

    async def answer_of_target(self) -> Outgoing:
        """Wait for the one leg that is dialled. Raises Over if it fails."""
        most_s = self._services.config.timers.max_ring_s
        result = await self._ringing.wait(most_s, most_s, most_s=most_s)
        if isinstance(result, Outgoing):
            return result
        if result is not None:
            raise Over(Outcome(result.value), 480, "target_no_answer")
        self._ringing.attempt.check_size()
        failures = self._ringing.attempt.failures()
        if not failures:
            raise Over(Outcome.UNREACHABLE, 480, "target_undialled")
        failure = failures[-1]
        code = target_failure(failure)
        outcome = of_code(code)
        if code == 480:
            unanswered = failure.code in (408, 480) and failure.rang
            outcome = Outcome.NO_ANSWER if unanswered else Outcome.UNREACHABLE
        raise Over(outcome, code, "target_failed", self._ringing.attempt.response_with(code))
