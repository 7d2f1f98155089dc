"""Forwards that are on and due and do not happen, and since when: pure.

A record names the forwards that its call should have followed and could not (`prevented`). Such a
forward is watched until it happens, is changed, or is not due for a day. When it has not happened
for `notify.prevented_s` somebody is notified, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from engine.records.record import CallRecord, ForwardRecord, LegRecord
from notify.occurrences import Happened
from rules.decide import ALSO_RING
from rules.notify import Event

BY_DESIGN = frozenset({"caller_is_target"})
"""The reasons for which nothing is wrong: a secretary reaches the boss who forwards to her."""
MOST = 20_000
"""Forwards that are watched at once."""
_FORGET_S = 86400.0
_SAME_S = 0.002  # times in a record are rounded to milliseconds


class Watched(msgspec.Struct):
    """One forward that has prevented itself. Times in unix seconds; `calls`: how many it should
    have forwarded; `reason`: the last one; `notified`: somebody was notified."""

    since: float
    last: float
    reason: str
    calls: int = 1
    notified: bool = msgspec.field(default=False, name="notified")  # as stored in Redis


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Watched).decode


class Prevented:
    """The forwards that are watched, by line and condition. `changed` has the texts of those that
    changed since it was last taken; "" = watched no more."""

    def __init__(self, stored: dict[str, bytes]) -> None:
        self.changed: dict[str, str] = {}
        self._watched: dict[str, Watched] = {}
        for name, raw in stored.items():
            try:
                self._watched[name] = _decode(raw)
            except (msgspec.DecodeError, UnicodeError):
                self.changed[name] = ""

    def __len__(self) -> int:
        return len(self._watched)

    def take(self) -> dict[str, str]:
        """What changed."""
        changed, self.changed = self.changed, {}
        return changed

    def prevented(self, line: str, condition: str, reason: str, at: float) -> None:
        """A call should have been forwarded, and was not."""
        if reason in BY_DESIGN:
            return
        name = f"{line} {condition}"
        watched = self._watched.get(name)
        if watched is None:
            if len(self._watched) >= MOST:
                return
            self._keep(name, Watched(at, at, reason))
            return
        watched.last, watched.reason = max(watched.last, at), reason
        watched.calls += 1
        self._keep(name, watched)

    def carried_out(self, line: str, condition: str) -> None:
        """The forward has happened."""
        self._drop(f"{line} {condition}")

    def changed_line(self, line: str) -> None:
        """The line's document was changed: what was prevented before no longer counts."""
        for name in [name for name in self._watched if name.partition(" ")[0] == line]:
            self._drop(name)

    def lines(self) -> set[str]:
        """The lines with a forward that is watched."""
        return {name.partition(" ")[0] for name in self._watched}

    def due(self, now: float, after_s: float) -> Iterator[tuple[str, str, Watched]]:
        """Line, condition and facts of those to notify somebody of. Forgets those that were not due
        for a day."""
        for name, watched in list(self._watched.items()):
            line, _, condition = name.partition(" ")
            if now - watched.since >= after_s and not watched.notified:
                yield line, condition, watched
            elif now - watched.last >= max(_FORGET_S, 2 * after_s):
                self._drop(name)

    def notified(self, line: str, condition: str) -> None:
        """Somebody was notified, or nobody wants to be."""
        name = f"{line} {condition}"
        if (watched := self._watched.get(name)) is not None:
            watched.notified = True
            self._keep(name, watched)

    def _keep(self, name: str, watched: Watched) -> None:
        self._watched[name] = watched
        self.changed[name] = _encode(watched).decode()

    def _drop(self, name: str) -> None:
        if self._watched.pop(name, None) is not None:
            self.changed[name] = ""


def carried_out(record: CallRecord) -> set[tuple[str, str]]:
    """Line and condition of each forward that has happened in a call, also to targets of which
    nobody has answered: those are in none of its `forwards`."""
    made = [forward for forward in record.forwards if forward.condition != "none"]
    found = {(forward.line, forward.condition) for forward in made}
    # What answered beside a line's phones, or rang beside those of the called line.
    found |= {(each.line, ALSO_RING) for each in record.forwards if each.condition == "none"}
    if any(_is_beside(leg, record.called) for leg in record.legs):
        found.add((record.called, ALSO_RING))
    if (line := _unanswered(record, made[-1] if made else None)) is not None:
        found.add((line, record.condition))
    # A target beside the phones that was passed over is not mended by another one that rang.
    return found - {
        (each.line, ALSO_RING)
        for each in record.prevented
        if each.condition == ALSO_RING and each.reason not in BY_DESIGN
    }


def _unanswered(record: CallRecord, last: ForwardRecord | None) -> str | None:
    """The line whose list of targets was the last forward, and nobody has answered; None if that
    was `last`, the last one in `forwards`, or none was."""
    if record.forwarded is None or record.condition == "none":
        return None
    if last is None:
        return record.called
    led_on = last.kind == "line" and last.at is not None
    return last.number if led_on and abs((last.at or 0.0) - record.forwarded) > _SAME_S else None


def _is_beside(leg: LegRecord, called: str) -> bool:
    """Whether a leg rang beside the phones of the called line."""
    return leg.condition == "none" and (leg.role, leg.number) != ("line", called)


def happened(line: str, condition: str, watched: Watched, fleet: str, now: float) -> Happened:
    """That a forward has prevented itself for so long."""
    data = {
        "condition": condition,
        "reason": watched.reason,
        "since": watched.since,
        "last": watched.last,
        "calls": watched.calls,
    }
    key = f"prevented {line} {condition} {watched.since}"
    return Happened(Event.FORWARD_PREVENTED, key, now, fleet, line, data)


def by_line(found: Iterable[tuple[str, str, Watched]]) -> dict[str, list[tuple[str, Watched]]]:
    """Conditions and facts by line."""
    lines: dict[str, list[tuple[str, Watched]]] = {}
    for line, condition, watched in found:
        lines.setdefault(line, []).append((condition, watched))
    return lines
