"""The calls of a dead process of another host, as they were in Redis."""

from __future__ import annotations

import time

import msgspec

from engine.call_entry import ActiveCall, decode, move
from engine.records.record import CallRecord
from store.standby import Claimed


class ClaimedCalls:
    """As the journal of a process of this host (`call_entry.LeftCalls`)."""

    def __init__(self, claimed: Claimed) -> None:
        self.name = f"{claimed.process} at {claimed.place}"
        self.age_s = claimed.age_s
        self.is_handed_over = False
        self.attempts = claimed.process.count("/")  # each claim has added one to the name
        self.active: list[ActiveCall] = []
        self.over: list[CallRecord] = []
        self.lost = 0
        self._died = claimed.head.unix
        for entry in claimed.entries.values():
            call = _read(entry) if claimed.head.version >= 0 else None
            if call is None:
                self.lost += 1
            else:
                self.active.append(call)
        move(self.active, claimed.head.unix, claimed.head.monotonic)

    def attempt(self) -> None:
        """The claim itself is the note."""

    def failed(self, call: ActiveCall) -> CallRecord:
        """The record of one of its calls that nobody continues: until its last sign of life."""
        return call.failed(self._died, self._died - (time.time() - time.monotonic()))


def _read(entry: bytes) -> ActiveCall | None:
    try:
        call = decode(entry)
    except msgspec.DecodeError:
        return None
    return call if isinstance(call, ActiveCall) else None
