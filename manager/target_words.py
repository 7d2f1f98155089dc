"""Describes where calls go; a line's number always with its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from manager.formats import Shown
from manager.words import Say
from rules.model import Destination, Kind, Line

_LONGEST_LABEL = 40


@dataclass(frozen=True, slots=True)
class TargetWords:
    """Describes targets in one language.

    Attributes:
        label: the name of a line, by its fleet and number; "" if it has none, or is not a line.
        discreet: for users of one line: outside targets of other lines are hidden.
    """

    say: Say
    shown: Shown
    label: Callable[[str, str], str]
    discreet: bool = False

    def line(self, fleet: str, number: str) -> str:
        """A number and, if it is a line of the fleet, its name. The number is not broken at the end
        of a line of text."""
        text = self.shown.number(number).replace(" ", "\u00a0")
        label = self.label(fleet, number)
        if len(label) > _LONGEST_LABEL:
            label = label[:_LONGEST_LABEL] + "…"
        return f"{text} ({label})" if label else text

    def where(self, fleet: str, own: str, kind: str, number: str, described: str = "") -> str:
        """Where line `own` leads. `described`: the line whose forwards are described."""
        if kind == Kind.VOICEMAIL and number == own:
            return self.say("go_own_voicemail")
        if self.discreet and kind == Kind.NUMBER and described not in ("", own):
            return self.say("go_outside")
        return self.say(f"go_{kind}", number=self.line(fleet, number))

    def destination(self, line: Line, to: Destination, inside: bool, described: str = "") -> str:
        """Where a forward of the line leads. `inside`: the target is a line of the fleet."""
        kind = "line" if inside and to.kind is Kind.NUMBER else to.kind.value
        return self.where(line.fleet, line.number, kind, to.number, described)
