"""What a phone's final response means for the call: the outcome table, with every final code.
Pure."""

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
        transport: the peer never responded: Timer B, transport error, DNS failure.
    """

    code: int
    q850: int | None = None
    rang: bool = False
    transport: bool = False


_UNAVAILABLE = 480
_TELLING = frozenset((415, 420, 484))  # challenges would belong here, but are never relayed
_PASS = 0

# A gateway's Q.850 cause wins over the SIP code (forwarding-rules.md 1).
_Q850 = {
    17: Condition.BUSY,
    18: Condition.NO_ANSWER,
    19: Condition.NO_ANSWER,
    20: Condition.UNREACHABLE,
    21: Condition.BUSY,
    27: Condition.UNREACHABLE,
}


class Row(NamedTuple):
    """The meaning of some final codes of a phone for the call."""

    codes: frozenset[int]
    before: Condition | int
    """Before an 18x: a condition; 0 = the phone's own code is passed on; another int = that code
    instead."""
    after: Condition | int
    """After an 18x, likewise."""
    why: str
    """The reason, from the caller's point of view."""


def _codes(*parts: int | Iterable[int]) -> frozenset[int]:
    return frozenset(c for part in parts for c in ((part,) if isinstance(part, int) else part))


_NAMED = (
    Row(
        _codes(486, 600, 603, 607, 608),
        Condition.BUSY,
        Condition.BUSY,
        "The person is talking or declines this call. The busy forward is for that.",
    ),
    Row(
        _codes(491),
        Condition.BUSY,
        Condition.BUSY,
        "The phone is busy with another transaction.",
    ),
    Row(
        _codes(range(300, 400)),
        Condition.UNREACHABLE,
        Condition.NO_ANSWER,
        "The phone redirects, so nobody takes the call there. The redirection is never followed, "
        "because nobody could bill or limit it. The line's own forwards are.",
    ),
    Row(
        _codes(401, 407),
        _UNAVAILABLE,
        _UNAVAILABLE,
        "The phone challenges the engine: it is configured wrongly, and a forward would hide that. "
        "A challenge is never relayed, because the caller has no password for it.",
    ),
    Row(
        _codes(402, 403, 428, 429, 433, range(436, 441), 469, 470),
        _PASS,
        _PASS,
        "This caller was rejected, for instance because the number is withheld. A forward would "
        "bypass that.",
    ),
    Row(
        _codes(406, range(411, 418), range(420, 423), 424, 481, 485, 488, 489, 493, 494, 606),
        _PASS,
        _PASS,
        "The response concerns the request (media, extensions, size, a call to take over). The "
        "caller can change the request and then reach the person.",
    ),
    Row(
        _codes(482, 483, 484),
        _PASS,
        _PASS,
        "The call loops, or the number is incomplete. A forward would only extend the loop.",
    ),
    Row(
        _codes(range(500, 600)),
        Condition.UNREACHABLE,
        _PASS,
        "Before ringing, the phone counts as absent. After ringing, somebody may have picked up "
        "and then the phone failed: the caller gets the code, and nothing else rings. 503 is "
        "passed on as 500.",
    ),
)
_KNOWN = frozenset(code for row in _NAMED for code in row.codes)

TABLE = (
    *_NAMED,
    Row(
        _codes(range(601, 700)) - _KNOWN - {604},
        Condition.BUSY,
        Condition.BUSY,
        "Unknown codes count as 600 (RFC 3261 8.1.3.2).",
    ),
    Row(
        _codes(range(400, 500), 604) - _KNOWN,
        Condition.UNREACHABLE,
        Condition.NO_ANSWER,
        "The response concerns neither the person nor the request: the phone is absent, gives up "
        "(487 without a CANCEL), has lost its account, is not a phone (405) or is broken. If it "
        "did not ring it is unreachable, if it rang it did not answer.",
    ),
)
"""Every final code of a phone. If the person is absent, or the phone unfit for any call, the line's
forwards apply. A code that concerns this call or this caller is passed on. In 3GPP TS 24.604 the
former are the conditions of CFB, CFNR and CFNRc, and a 3xx is a deflection, before or during
ringing."""

_RESULTS = {
    (code, rang): row.after if rang else row.before
    for row in TABLE
    for code in row.codes
    for rang in (False, True)
}


_NOT_FOR_CALLERS = _codes(401, 404, 405, 407, 408, 487, 491, range(500, 600))


def verdict(failures: Sequence[Failure]) -> Condition | int:
    """The combined result of the failures of all contacts of a line.

    A 6xx is the person's decision and decides alone. Otherwise unreachable contacts count only if
    all are unreachable. One phone that rang unanswered makes it no answer. The line is busy if all
    that count are busy. Otherwise the best code goes to the caller: the lowest class, in it a code
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


def best_failure(failures: Sequence[Failure]) -> Failure:
    """Of the targets that rang together, or the phones of one target, the failure that decides what
    the caller gets: a 6xx, else a code that tells the caller what to change (RFC 3261 16.7 item
    6), else a target that rang unanswered, else the lowest class. Targets that could not be reached
    come last."""

    def rank(failure: Failure) -> tuple[int, int]:
        code = target_failure(failure)
        if stops_all(failure.code):
            return 0, 0
        if code in _TELLING:
            return 1, 0
        if code == _UNAVAILABLE:
            return (2, 0) if failure.rang and failure.code in (408, 480) else (4, 0)
        return 3, code // 100

    return min(failures, key=rank)


def stops_all(code: int) -> bool:
    """Whether this final code ends the ringing of every contact: any 6xx (RFC 3261 16.7)."""
    return 600 <= code < 700


def target_failure(failure: Failure) -> int:
    """The code for the caller when the target of a forward fails (forwarding-rules.md 2).

    No second condition is tried. The target's code is passed on, except that a target that cannot
    be reached, does not answer, challenges or redirects gives 480. So do codes that only concern
    target and engine: 405, 487 and 491 would suggest to the caller that its own request was wrong,
    or that it had cancelled.
    """
    if failure.transport or failure.code in _NOT_FOR_CALLERS or not 400 <= failure.code < 700:
        return _UNAVAILABLE
    return failure.code


def _result(failure: Failure) -> Condition | int:
    by_cause = _Q850.get(failure.q850) if failure.q850 is not None else None
    if by_cause is not None:
        return by_cause
    if failure.transport:
        return Condition.UNREACHABLE
    result = _RESULTS.get((failure.code, failure.rang), _PASS)
    if result != _PASS:
        return result
    # RFC 3261 16.7: a 503 concerns the hop that sent it, so it is not passed on as such.
    return 500 if failure.code == 503 else failure.code
