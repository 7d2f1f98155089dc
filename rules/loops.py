"""Loops: a call does not come back to a line that it has met (forwarding-rules.md 2). Pure.

A call that comes back from outside is recognised by the engine's marks in its Diversion
(`engine/diversion_marks.py`): the lines that they name are in `Situation.forwarded`.
"""

from rules.decision import No, Situation
from rules.model import Destination, Kind, Line


def to_itself(to: Destination, line: Line) -> No | None:
    """Why a line may not forward to itself."""
    if to.number == line.number:
        return No("self", "not allowed, the target is the line itself")
    return None


def comes_back(to: Destination, line: Line, now: Situation) -> No | None:
    """Why this call may not go to that target: it would come back to a line or to its caller."""
    if to.number == now.caller:
        return No("caller_is_target", f"skipped, the caller {now.caller} is its target")
    # A voicemail is not its line: no phone rings there, and no call can come back.
    if to.kind is Kind.VOICEMAIL:
        return None
    if to.number in now.visited or to.number in now.forwarded:
        return No("loop", f"counts as off, the call has already met {to.number}")
    if line.number in now.forwarded:
        return No("loop", "counts as off, the line has forwarded this call before")
    return None


def is_too_long(now: Situation) -> bool:
    """Whether the call has been forwarded as often as it may be, inside and outside."""
    return 0 < now.max_diversions <= now.diversions
