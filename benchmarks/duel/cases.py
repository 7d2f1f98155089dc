"""The work of the duel: what the called line's rules are and what its phone does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

AFTER_S = 5  # the least that Renvoi allows as no-answer time
OUTSIDE = "+33148000001"  # the number that busy calls go to


@dataclass(frozen=True)
class Case:
    """One kind of call. `forwards`: condition -> `voicemail` or a number, for all lines alike."""

    name: str
    remark: str
    forwards: Mapping[str, str] = field(default_factory=dict)
    phone: str = "answering"  # scenario of the lines' phones
    scenario: str = "caller"
    stranger: bool = False
    of_the_rate: float = 1.0  # share of the duel's rate at which this case is run
    legs: int = 1  # INVITEs that the server sends for a call


USUAL = {"busy": "voicemail", "no_answer": "voicemail", "unreachable": "voicemail"}

CASES = {
    case.name: case
    for case in (
        Case("bridged", "plain call to one phone", USUAL),
        Case("unconditional", "to voicemail", USUAL | {"unconditional": "voicemail"}),
        Case("busy", "phone answers 486, then a number", USUAL | {"busy": OUTSIDE}, phone="busy",
             of_the_rate=0.8, legs=2),
        Case("no-answer", f"phone rings for {AFTER_S} s, then voicemail", USUAL, phone="silent",
             of_the_rate=0.6, legs=2),
        Case("stranger", "403 to an untrusted peer", USUAL, scenario="refused", stranger=True,
             of_the_rate=2.0, legs=0),
    )
}  # fmt: skip
