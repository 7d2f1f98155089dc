"""The lines that make calls: a call counts on its caller's line too (domain.md 1.3).

Most callers are no lines of ours, and each is another one. Redis is asked about those whom memory
does not know a few at a time, beside the call, and they are not remembered: they would push the
lines out.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rules.model import Line
from rules.store import Unavailable

if TYPE_CHECKING:
    from engine.worker import Worker

GATHER_S = 0.1  # callers that come within this time are asked about in one round trip


class Callers:
    """Counts calls on the lines that make them, from their begin to their end."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._unknown: dict[str, list[str]] = {}  # ids of standing calls, by their caller

    def begin(self, call_id: str, number: str) -> None:
        """A call from this number (E.164) is in progress."""
        entry = self._worker.store.peek(number)
        if entry is None:
            if not self._unknown:
                self._worker.loop.call_later(GATHER_S, self._ask)
            self._unknown.setdefault(number, []).append(call_id)
        elif entry.line is not None:
            self._count(call_id, entry.line)

    def end(self, call_id: str, number: str) -> None:
        """It is over. Harmless for a call that was not counted."""
        waiting = self._unknown.get(number)
        if waiting is not None and call_id in waiting:
            waiting.remove(call_id)
        self._worker.live.leave(number, hold(call_id))

    def _ask(self) -> None:
        unknown, self._unknown = self._unknown, {}
        for number, call_ids in unknown.items():
            if call_ids:
                self._worker.store.ask_if_line(number, partial(self._told, number, call_ids))

    def _told(self, number: str, call_ids: list[str], is_line: bool) -> None:
        if is_line:
            self._worker.calls.background(self._count_all(number, call_ids))

    async def _count_all(self, number: str, call_ids: list[str]) -> None:
        try:
            entry = await self._worker.store.look_up(number)
        except Unavailable:
            return  # Redis is away: whether the caller is a line of ours is not known
        for call_id in call_ids:
            if entry.line is not None and call_id in self._worker.calls:
                self._count(call_id, entry.line)

    def _count(self, call_id: str, line: Line) -> None:
        leased = line.max_calls is not None
        self._worker.live.add(line.number, hold(call_id), lease=leased)


def hold(call_id: str) -> str:
    """How a call counts on the line that makes it: apart from the line it reaches, which may be
    the same one."""
    return f"{call_id}:caller"
