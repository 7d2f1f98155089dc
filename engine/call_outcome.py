"""The outcomes of a call, as a closed set, and the exception that ends the call's coroutine with
one."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from rules.decide import BLOCKED, Reject
from rules.model import Condition

if TYPE_CHECKING:
    from sip.message import Message


class Outcome(StrEnum):
    """The `outcome` of metrics and records, from the caller's point of view."""

    ANSWERED = "answered"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    UNREACHABLE = "unreachable"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    FAILED = "failed"


STAR_CODE = "star_code"
"""Why an answered call to a star code ended: the engine answered it, and nobody talked."""


class Over(Exception):
    """Ends a call: its outcome, the final code for the caller and the reason as a short word.

    `message` is the far side's response if the caller gets its headers and body too.
    """

    def __init__(
        self, outcome: Outcome, code: int, why: str, message: Message | None = None
    ) -> None:
        super().__init__(outcome, code, why)
        self.outcome = outcome
        self.code = code
        self.why = why
        self.message = message


_BY_CONDITION = {
    Condition.BUSY: Outcome.BUSY,
    Condition.NO_ANSWER: Outcome.NO_ANSWER,
    Condition.UNREACHABLE: Outcome.UNREACHABLE,
}


def refused(decision: Reject) -> Over:
    """The end of a call that was not forwarded."""
    if decision.why == BLOCKED:
        return Over(Outcome.REJECTED, decision.code, decision.why)
    outcome = _BY_CONDITION.get(decision.condition) if decision.condition else None
    return Over(outcome or Outcome.REJECTED, decision.code, decision.why)


def of_code(code: int) -> Outcome:
    """The outcome of a call whose last leg failed and whose caller gets `code`."""
    if code in (486, 600, 603, 607, 608):
        return Outcome.BUSY
    if code >= 500:
        return Outcome.FAILED
    return Outcome.REJECTED
