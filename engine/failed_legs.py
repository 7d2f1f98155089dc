"""How an attempt to ring a line or target failed: the final responses of its legs, for the rules
and for the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over
from rules.model import Condition
from rules.ringing_outcome import Failure, stops_all, verdict
from sip import headers
from sip.events import Failed
from sip.message import Message

if TYPE_CHECKING:
    from sip.outgoing import Outgoing


class Attempt:
    """The failures of one attempt: a line with its contacts, or a forward's target."""

    __slots__ = ("_facts", "_failed", "_given_up", "too_large")

    def __init__(self, facts: CallFacts) -> None:
        self._facts = facts
        self._failed: list[Failed[Outgoing]] = []
        self._given_up: list[Failure] = []  # legs that nobody answered in time
        self.too_large = False  # one of its INVITEs did not fit into a packet and was not sent

    def clear(self) -> None:
        """Reset, because another line or target is tried, or somebody answered."""
        self._failed.clear()
        self._given_up.clear()
        self.too_large = False

    def resume(self, role: str, number: str) -> None:
        """Continue an attempt of another process: its legs with this role and number have failed
        if they are over."""
        for leg in self._facts.legs.values():
            if (leg.role, leg.number) == (role, number) and leg.ended is not None:
                rang = leg.rang is not None
                silent = leg.code in (0, 408) and not rang
                self._given_up.append(Failure(leg.code or 408, leg.q850, rang, silent))

    def check_size(self) -> None:
        """Raises Over if nobody was called because the INVITE fits into no packet: the caller must
        get the reason, and a forward would not fit either."""
        if self.too_large and not self._failed and not self._given_up:
            raise Over(Outcome.FAILED, 513, "too_large")

    def failed(self, event: Failed[Outgoing]) -> None:
        self._failed.append(event)

    def given_up(self, leg: Outgoing) -> None:
        """A leg was cancelled because its time was over."""
        rang = self._facts.has_rung(leg)
        self._given_up.append(Failure(408, rang=rang, transport=not rang))

    def passed_over(self, failure: Failure) -> None:
        """A target of a list is not rung."""
        self._given_up.append(failure)

    def was_given_up(self, failure: Failure) -> bool:
        """Whether it is that of a leg whose time was over."""
        return failure.code == 408 and any(failure is one for one in self._given_up)

    def failures(self) -> list[Failure]:
        return self._given_up + [self._failure(failed) for failed in self._failed]

    def _failure(self, failed: Failed[Outgoing]) -> Failure:
        failure = Failure(
            code=failed.code,
            q850=headers.q850_cause(failed.message),
            rang=self._facts.has_rung(failed.leg),
            transport=failed.message is None,
        )
        if self._facts.is_beside(failed.leg) and not isinstance(verdict([failure]), Condition):
            # What a gateway objects to is no reason to stop the line's phones and forwards.
            return Failure(480, rang=failure.rang)
        return failure

    def response_with(self, code: int) -> Message | None:
        """A response with this code, whose headers the caller may get."""
        for failed in self._failed:
            if failed.code == code:
                return failed.message
        return None

    def declines(self, failed: Failed[Outgoing]) -> bool:
        """Whether a final response is the person's decision, which ends the ringing everywhere: a
        6xx, but of what rings beside a line only one that means busy."""
        if not stops_all(failed.code):
            return False
        beside = self._facts.is_beside(failed.leg)
        return not beside or verdict([Failure(failed.code)]) is Condition.BUSY

    def decline(self) -> Failed[Outgoing] | None:
        """A phone's 6xx, which is the person's decision."""
        for failed in self._failed:
            if self.declines(failed):
                return failed
        return None
