"""The endpoints of `renvoi demo` around an engine, and the playing of one call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

import orjson

from engine.demo.cases import CALLER, Case, Played, Result
from engine.demo.checks import caller_faults, diversions, transit_faults
from engine.demo.engine import HOST, DemoEngine
from engine.demo.softphone import Received, SoftPhones
from sip.fake import ANSWERS, Call, FakeEndpoint, Script
from sip.fake_message import text, user_of
from store.client import connect_blocking
from store.keys import RECORDS, line_key, registrations_key

FINAL_S = 12.0  # longer than any case takes
SETTLE_S = 3.0  # for an ACK, a BYE, a record to arrive
CASE = "Renvoi-Demo"  # a header unknown to the engine: it passes, and identifies the calls
GATEWAYS = {"voicemail": "voicemail", "fax": "fax", "number": "gateway"}

# Unusual spacing and codecs: the same bytes must arrive.
SDP = """v=0
o={origin} 1 1 IN IP4 127.0.0.1
s=renvoi  demo
c=IN IP4 127.0.0.1
t=0 0
m=audio 40000 RTP/AVP 97 8
a=rtpmap:97 x-renvoi-demo/48000/2
a=x-unknown:  kept  as it is
"""


class Stage:
    """The caller, the other endpoints by role, and the engine between them. The phones are
    scripted, or use a real SIP stack."""

    def __init__(self, engine: DemoEngine, phones: SoftPhones | None = None) -> None:
        self.engine = engine
        self._softphones = phones
        self.scripts: dict[str, Script] = {}  # of the phones, by the number of their line
        self.caller = FakeEndpoint(lambda _: ())
        self._scripted = {
            role: FakeEndpoint(lambda _: ANSWERS, sdp(role)) for role in GATEWAYS.values()
        }
        if phones is None:
            self._scripted["phone"] = FakeEndpoint(
                lambda user: self.scripts.get(user, ()), sdp("phone")
            )
        self.called: dict[str, FakeEndpoint | SoftPhones] = {**self._scripted}
        if phones is not None:
            self.called["phone"] = phones

    async def open(self) -> dict[str, str]:
        """Bind every endpoint; the engine's `destinations`. Raises OSError, PhoneMissing."""
        for endpoint in (self.caller, *self.called.values()):
            await endpoint.open(HOST)
        return {kind: self.called[role].uri("{number}") for kind, role in GATEWAYS.items()}

    async def close(self) -> None:
        for endpoint in (self.caller, *self._scripted.values()):
            endpoint.close()
        if self._softphones is not None:
            await self._softphones.stop()

    def write(self, cases: Sequence[Case]) -> None:
        """Write the cases' lines and registrations into Redis."""
        expiry = time.time() + 3600
        client = connect_blocking(self.engine.redis_url)
        with client, client.pipeline() as batch:
            for case in cases:
                for line in case.lines:
                    batch.set(line_key(line["number"]), orjson.dumps(line))
                for number, script in case.phones.items():
                    self.scripts[number] = script
                    contact = self.called["phone"].uri(number)
                    batch.zadd(registrations_key(number), {contact: expiry})
            batch.execute()
        if self._softphones is not None:
            self._softphones.plan(self.scripts)

    async def records(self, wanted: int) -> int:
        """The number of call records, at most SETTLE_S after the last call."""
        with connect_blocking(self.engine.redis_url) as client:
            deadline = time.monotonic() + SETTLE_S
            while (found := int(client.xlen(RECORDS))) < wanted and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            return found

    async def play(self, case: Case, label: str) -> Played:
        """Place the call of one case, after an earlier call that it may need; `label` identifies
        it. Returns when it has ended on all sides.
        """
        first = await self._place(case, f"{label}-first") if case.occupied else None
        call = await self._place(case, label)
        if self._softphones is not None:
            await self._softphones.settle()
        role, answered = next(
            ((role, leg) for role, leg in self._invited(label) if leg.body), ("", None)
        )
        faults = [] if first is None or first.codes()[-1:] == [200] else ["first call unanswered"]
        faults += caller_faults(call, forwarded=bool(case.expected.diversions))
        if answered is not None:
            faults += transit_faults(call, answered, role)
            faults += await hang_up(call, answered)
        if first is not None:
            await hang_up(first, None)
        code = (call.codes() or [0])[-1]
        result = Result(
            tuple((role, user_of(leg.invite)) for role, leg in self._invited(label)),
            code if code >= 200 else 0,
            diversions(answered) if answered is not None else (),
        )
        return Played(case, result, tuple(faults), call.answered - call.started)

    async def _place(self, case: Case, label: str) -> Call:
        """A call that has got its final response, or was cancelled."""
        call = self.caller.place(
            self.engine.sip, case.called, caller=CALLER, body=sdp(label), headers=[(CASE, label)]
        )
        try:
            await call.final(FINAL_S)
        except TimeoutError:
            call.cancel()
        return call

    def _invited(self, label: str) -> list[tuple[str, Call | Received]]:
        """The calls with this label that reached an endpoint, in order, with the role."""
        name = CASE.lower().encode()
        found = [
            (role, call)
            for role, endpoint in self.called.items()
            for call in endpoint.calls.values()
            if text(call.invite, name) == label
        ]
        return sorted(found, key=lambda item: item[1].started)


async def hang_up(call: Call, leg: Call | Received | None) -> list[str]:
    """The caller ends an answered call; returns whether `leg` got the ACK before it and the BYE."""
    if call.codes()[-1:] != [200]:
        return []
    faults = []
    if leg is not None and not await _happens(leg.acked):
        faults.append("ACK not relayed")
    try:
        code = await call.hang_up(SETTLE_S)
        if code != 200:
            faults.append(f"BYE answered with {code}")
    except TimeoutError:
        faults.append("BYE not answered")
    if leg is not None and not await _happens(leg.ended):
        faults.append("BYE not relayed")
    return faults


async def _happens(event: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), SETTLE_S)
    return event.is_set()


def sdp(origin: str) -> bytes:
    """A session description that is unique to one sender."""
    return SDP.format(origin=origin).replace("\n", "\r\n").encode()
