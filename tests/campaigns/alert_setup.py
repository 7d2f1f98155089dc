"""The setup for `tests.campaigns.alerts`: Redis, engine, phones, callers, Prometheus."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaigns.prometheus import Numbers, Prometheus
from tests.scenarios import script
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.sipp import HOST, Sipp

SETTINGS: dict[str, dict[str, Any]] = {
    "sip": {"trusted_peers": [f"{HOST}/32"]},
    "timers": {"pre_ringing_s": 2, "max_ring_s": 8, "max_call_s": 15},
    "limits": {"calls": 100, "forwards_per_line": 8, "wait_s": 0},
}
MOBILE, FAX = "+33612345678", "+33972130099"


@dataclass(frozen=True)
class Flow:
    """Calls of one kind: the called line, the scenario of its phone ("" = none is registered), and
    that of the caller."""

    number: str
    phone: str
    caller: Callable[[str, str], str]
    rate: float
    forwards: dict[str, dict[str, Any]]
    offer: dict[str, Any]


def _answered(called: str, caller: str) -> str:
    return script.answered_call(called, caller, talk_s=1.0)


def forward_to(kind: str, number: str, **more: Any) -> dict[str, Any]:
    return {"on": True, "to": {"kind": kind, "number": number}, **more}


def flows() -> list[Flow]:
    """Typical traffic: most calls are answered, some forwarded, some refused."""
    number = [f"+3397213{place:04d}" for place in range(10)]
    unlimited: dict[str, Any] = {"mobile": "unlimited"}
    return [
        Flow(number[0], "answers", _answered, 5, {}, {}),
        Flow(number[1], "busy", _answered, 1, {"busy": forward_to("voicemail", number[1])}, {}),
        Flow(number[2], "rings", _answered, 0.5,
             {"no_answer": forward_to("voicemail", number[2], after_s=5)}, {}),
        Flow(number[3], "", _answered, 1, {"unreachable": forward_to("number", MOBILE)}, unlimited),
        Flow(number[4], "", _answered, 0.5, {"unreachable": forward_to("number", MOBILE)},
             {"mobile": "hours", "mobile_hours": 100}),
        Flow(number[5], "answers", _answered, 0.5, {"unconditional": forward_to("fax", FAX)}, {}),
        Flow(number[6], "busy", lambda a, b: script.refused_call(a, b, 486), 0.5, {}, {}),
        Flow(number[7], "rings", lambda a, b: script.cancelled_call(a, b, after=180), 0.3, {}, {}),
    ]  # fmt: skip


class AlertSetup:
    """Redis, engine, Prometheus, phones, destinations and callers."""

    def __init__(self, directory: Path, factor: float, numbers: Numbers) -> None:
        self._directory = directory
        self.server = RedisServer(directory)
        self.engine = Engine(directory, self.server.url, SETTINGS)
        self.prometheus = Prometheus(directory, [self.engine.admin], factor, numbers)
        self.factor = factor
        self.flows = flows()
        self._phones: dict[str, Sipp] = {}
        self._callers: list[Sipp] = []
        self._targets: dict[str, Sipp] = {}

    async def start(self) -> None:
        """Start everything, without calls."""
        self.server.start()
        for name, play in {
            "answers": script.answering_phone(rings_s=0.2),
            "busy": script.refusing_phone("486 Busy Here"),
            "rings": script.cancelled_phone(),
        }.items():
            self._phones[name] = await self.sipp(play)
        for kind in self.engine.ports:
            await self.target(kind, script.answering_phone(rings_s=0.1))
        self.write_line(FAX, offer={"fax": True})
        for flow in self.flows:
            self.write_line(flow.number, forwards=flow.forwards, offer=flow.offer)
        self.register()
        self.engine.start()
        self.prometheus.start()

    async def stop(self) -> None:
        """Stop everything."""
        self.prometheus.stop()
        for sipp in (*self._callers, *self._phones.values(), *self._targets.values()):
            await sipp.stop()
        self.server.resume()
        self.engine.stop()
        self.server.stop()

    def write_line(self, number: str, **fields: Any) -> None:
        """Write a line of the fleet."""
        document = {"number": number, "fleet": "acme", **fields}
        self.server.client.set(f"line:{number}", json.dumps(document))

    def register(self) -> None:
        """Register every phone."""
        for flow in self.flows:
            if flow.phone:
                self.register_line(flow.number, flow.phone)

    def register_line(self, number: str, phone: str) -> None:
        """Register one phone for an hour."""
        uri = f"sip:phone@{HOST}:{self._phones[phone].port}"
        self.server.client.zadd(f"reg:{number}", {uri: time.time() + 3600})

    async def sipp(self, play: str, **options: Any) -> Sipp:
        """Start a SIPp that runs until it is stopped."""
        settings: dict[str, Any] = {"calls": 1_000_000, "limit_s": 3600, "trace": False}
        return await Sipp(self._directory, play, self.engine.peer).start(**(settings | options))

    async def target(self, kind: str, play: str) -> None:
        """Replace the server of a destination."""
        if kind in self._targets:
            await self._targets[kind].stop()
        self._targets[kind] = await self.sipp(play, port=self.engine.ports[kind])

    async def call(self) -> None:
        """Start the usual traffic."""
        for place, flow in enumerate(self.flows):
            play = flow.caller(flow.number, f"+3314000{place:04d}")
            self._callers.append(await self.sipp(play, rate=flow.rate))

    async def be_silent(self) -> None:
        """Stop all calls."""
        for caller in self._callers:
            await caller.stop()
        self._callers.clear()

    @asynccontextmanager
    async def more(self, play: str, rate: float, **options: Any) -> AsyncIterator[None]:
        """Add calls of one kind."""
        sipp = await self.sipp(play, rate=rate, **options)
        try:
            yield
        finally:
            await sipp.stop()
