"""The flows over which phones registered at this worker, to recognise their calls.

The Contact is the address at which a phone is called. Behind a NAT, or over TCP, the phone calls
from another port. The flow of its REGISTER then distinguishes it from other phones at the same
address.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from sip.flow import Flow

MOST = 200_000


class Flows:
    """The lines that registered over each flow, with their password; the oldest are dropped first.
    `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[tuple[Flow, str], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def note(self, flow: Flow, number: str, seconds: float) -> None:
        """Note that a phone of the line (E.164) is registered over this flow for so long; 0 = no
        longer."""
        key = flow, number
        self._until.pop(key, None)
        if seconds > 0:
            self._until[key] = self._clock() + seconds
            if len(self._until) > MOST:
                self._until.popitem(last=False)

    def keep_all(self) -> list[str]:
        """For another process: each as text."""
        now = self._clock()
        return [
            json.dumps([*flow, number, until - now])
            for (flow, number), until in self._until.items()
            if until > now
        ]

    def adopt(self, kept: Iterable[str], serials: Mapping[int, int]) -> None:
        """Continue those of another process, whose connections have other serial numbers here.
        Those of lost connections are dropped."""
        for text in kept:
            transport, host, port, serial, number, seconds = json.loads(text)
            if serial == 0 or serial in serials:
                flow = Flow(transport, host, port, serials.get(serial, 0))
                self.note(flow, number, seconds)

    def lead_to(self, flow: Flow | None, number: str) -> bool:
        """Whether a phone of the line is registered over this flow."""
        until = self._until.get((flow, number)) if flow is not None else None
        return until is not None and self._clock() < until
