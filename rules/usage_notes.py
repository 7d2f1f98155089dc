"""Active calls that use a fleet's cap: the notes that workers keep of them in Redis.

Each worker writes notes of its calls once a second to `standing:{usage:fleet:<name>:<month>}`, by
call id. The script that adds a call to the fleet's usage removes its note in the same step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

LEASE_S = 5.0
"""Seconds. An older note belongs to a worker that died."""


class Note(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """An active call. Times in unix seconds; `plan_left_s` is what is left of the line's plan,
    active calls left out; None for a call that is out of plan altogether."""

    line: str
    answered: float
    plan_left_s: float | None
    noted: float


encode_note = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Note).decode


@dataclass(frozen=True, slots=True)
class Using:
    """What the active calls of a fleet had used at a moment, and how fast they use more.

    Attributes:
        at: unix seconds.
        out_of_plan_s: seconds out of plan that they had used together.
        out_of_plan: how many of them use more of that.
        planned: by line: the seconds of its plan that its calls had used, and the number of these
            calls.
    """

    at: float = 0.0
    out_of_plan_s: float = 0.0
    out_of_plan: int = 0
    planned: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, notes: Iterable[Note], now: float, begin: float) -> Using:
        """The use by the month that began at `begin`, from the notes."""
        notes = list(notes)
        seconds, exhausted = out_of_plan_of(notes, now, begin)
        using = sum(note.plan_left_s is None or note.line in exhausted for note in notes)
        planned: dict[str, tuple[float, int]] = {}
        for note in notes:
            if note.plan_left_s is not None:
                used_s, calls = planned.get(note.line, (0.0, 0))
                used_s += seconds_of(note, now, begin)
                planned[note.line] = used_s, calls + 1
        return cls(now, seconds, using, planned)

    def out_of_plan_by(self, now: float) -> float:
        """Seconds out of plan that they have used by now. Without news of them it grows no longer
        than a note lives."""
        return self.out_of_plan_s + self.out_of_plan * self._since(now)

    def plan_by(self, line: str, now: float) -> float:
        """Seconds of a line's plan that its active calls have used by now."""
        used_s, calls = self.planned.get(line, (0.0, 0))
        return used_s + calls * self._since(now)

    def _since(self, now: float) -> float:
        return max(0.0, min(now - self.at, LEASE_S))


NOTHING = Using()
"""No active call."""


def seconds_of(note: Note, now: float, begin: float) -> float:
    """Seconds that a call has been active since `begin`: those that its worker noted, and those
    since, which are few, whatever this machine's clock says."""
    noted = note.noted - max(note.answered, begin)
    return max(0.0, noted + max(0.0, min(now - note.noted, LEASE_S)))


def out_of_plan_of(notes: Iterable[Note], now: float, begin: float) -> tuple[float, set[str]]:
    """Seconds out of plan that active calls have used since `begin`, and the lines whose plan
    their calls have used up. A line's calls use its plan together."""
    out_of_plan_s = 0.0
    lines: dict[str, list[float]] = {}  # seconds used together, seconds left
    for note in notes:
        seconds = seconds_of(note, now, begin)
        if note.plan_left_s is None:
            out_of_plan_s += seconds
            continue
        line = lines.setdefault(note.line, [0.0, note.plan_left_s])
        line[0] += seconds
        line[1] = min(line[1], note.plan_left_s)
    exhausted = set()
    for number, (used_s, left_s) in lines.items():
        if used_s >= left_s:
            exhausted.add(number)
            out_of_plan_s += used_s - left_s
    return out_of_plan_s, exhausted


def notes_of(stored: Mapping[bytes, bytes], now: float) -> dict[str, Note]:
    """The notes of a fleet by call id; malformed or outdated ones are left out."""
    notes = {}
    for id_, raw in stored.items():
        try:
            note = _decode(raw)
        except ValueError:
            continue
        if abs(now - note.noted) < LEASE_S:
            notes[id_.decode("utf-8", "replace")] = note
    return notes
