"""What the ringing of a line ended in: the outcome table of domain.md 1. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rules.model import Condition


@dataclass(frozen=True, slots=True)
class Failure:
    """How one contact, or one forward target, failed.

    Attributes:
        code: the final SIP code; 408 for Timer B, 503 for a transport or DNS error.
        q850: the cause of a `Reason: Q.850` header; None without one.
        rang: an 18x other than 181 and 199 was seen.
        transport: the peer was never heard: Timer B, transport error, DNS failure.
    """

    code: int
    q850: int | None = None
    rang: bool = False
    transport: bool = False


_UNAVAILABLE = 480
_TELLING = frozenset((415, 420, 484))  # challenges would be among them, but are never relayed
_PASS = 0

# A gateway's Q.850 cause wins over the SIP code (domain.md 1).
_Q850 = {
    17: Condition.BUSY,
    18: Condition.NO_ANSWER,
    19: Condition.NO_ANSWER,
    20: Condition.UNREACHABLE,
    21: Condition.BUSY,
    27: Condition.UNREACHABLE,
}


class _Row(NamedTuple):
    codes: frozenset[int]
    rang: bool | None
    """None: whether or not the phone rang."""
    result: Condition | int
    """A condition; _PASS for the phone's own code; another int for that code instead."""


def _codes(*parts: int | Iterable[int]) -> frozenset[int]:
    return frozenset(c for part in parts for c in ((part,) if isinstance(part, int) else part))


_TABLE = (
    _Row(_codes(486, 600), None, Condition.BUSY),
    _Row(_codes(603, 607, 608), None, Condition.BUSY),
    _Row(_codes(408, 480), True, Condition.NO_ANSWER),
    _Row(_codes(408, 480, 404, 410, range(500, 600)), False, Condition.UNREACHABLE),
    _Row(_codes(401, 407), None, _UNAVAILABLE),  # never relay a challenge
    _Row(_codes(range(300, 400)), None, _UNAVAILABLE),  # not followed: a toll-fraud path
)
_RESULTS = {
    (code, rang): row.result
    for row in _TABLE
    for code in row.codes
    for rang in ((True, False) if row.rang is None else (row.rang,))
}


def verdict(failures: Sequence[Failure]) -> Condition | int:
    """What the failures of all contacts of a line add up to.

    A 6xx speaks for the person and decides alone. Otherwise unreachable contacts do not count
    unless all are; one phone that rang unanswered makes it no answer; the line is busy if all
    that count are busy; else the best code goes to the caller: the lowest class, in it a code
    that tells the caller what to change, else the first received (RFC 3261 16.7 item 6).

    Returns:
        The condition that is met, or the code for the caller when no forward may follow.
    """
    for failure in failures:
        if stops_all(failure.code):
            return _result(failure)
    counted = [r for r in map(_result, failures) if r is not Condition.UNREACHABLE]
    if not counted:
        return Condition.UNREACHABLE
    if Condition.NO_ANSWER in counted:
        return Condition.NO_ANSWER
    codes = [r for r in counted if not isinstance(r, Condition)]
    if not codes:
        return Condition.BUSY
    return min(codes, key=lambda code: (code // 100, code not in _TELLING))


def stops_all(code: int) -> bool:
    """Whether this final code ends the ringing of every contact: any 6xx (RFC 3261 16.7)."""
    return 600 <= code < 700


def target_failure(failure: Failure) -> int:
    """The code for the caller when the target of a forward fails (domain.md 2).

    No second condition is tried. Its own code is passed, except that a target that cannot be
    reached, does not answer, challenges or redirects gives 480.
    """
    code = failure.code
    unreachable = failure.transport or code in (404, 408) or 500 <= code < 600
    if unreachable or code in (401, 407) or not 400 <= code < 700:
        return _UNAVAILABLE
    return code


def _result(failure: Failure) -> Condition | int:
    by_cause = _Q850.get(failure.q850) if failure.q850 is not None else None
    if by_cause is not None:
        return by_cause
    if failure.transport:
        return Condition.UNREACHABLE
    result = _RESULTS.get((failure.code, failure.rang), _PASS)
    if result != _PASS:
        return result
    # RFC 3261 16.7: a 503 speaks about the hop that sent it, so it is not passed on as such.
    return 500 if failure.code == 503 else failure.code
