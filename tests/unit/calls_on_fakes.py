"""One call on plain fakes: no sockets, no Redis, and a clock that only the test advances.

The rules, the facts, the path and the counts of forwards are the real ones.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from engine.call import Call, Handovers
from engine.call_facts import CallFacts
from engine.call_outcome import Over
from engine.config import read
from engine.event_queue import Deadlines
from engine.forwards import Forwards
from engine.telemetry.metrics import Metrics
from rules.contact import Contact
from rules.model import Condition, Destination, Forward, Kind, Line
from rules.numbers import Numbering
from sip.end_of_call import NOTHING
from sip.events import Acked, Answered, Cancelled, Ended, Failed, Progress
from sip.message import Message
from sip.outgoing import Outgoing
from sip.privacy import NO_WISH
from sip.settings import DialError
from sip.state import ANSWERED, CALLING, CANCELLING, CONFIRMED, EARLY, ENDED, TRYING, State
from store.cache import Entry

LINE, OTHER = "+33972101001", "+33972101002"
MOBILE, CALLER = "+33612345678", "+33140000001"
INVITE = Message(
    f"INVITE sip:{LINE}@renvoi.test SIP/2.0\r\n"
    "Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK1\r\n"
    f"From: <sip:{CALLER}@peer.test>;tag=c\r\nTo: <sip:{LINE}@renvoi.test>\r\n"
    "Call-ID: one\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContact: <sip:peer@127.0.0.1:5070>\r\n"
    "Content-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n".encode()
)


def response(code: int) -> Message:
    """A response of a phone."""
    return Message(
        f"SIP/2.0 {code} Phrase\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK2\r\n"
        f"From: <sip:{CALLER}@peer.test>;tag=e\r\nTo: <sip:{LINE}@renvoi.test>;tag=p\r\n"
        "Call-ID: two\r\nCSeq: 1 INVITE\r\nContact: <sip:phone@127.0.0.1:5090>\r\n"
        "Content-Length: 0\r\n\r\n".encode()
    )


class Clock:
    """The clock and the timers of an event loop; the rest is the loop of the test."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = 1000.0
        self._timers: list[tuple[float, Callable[..., None], Any]] = []

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, do: Callable[..., None], *given: Any) -> Any:
        timer = (when, do, given)
        self._timers.append(timer)
        return SimpleNamespace(cancel=lambda: self._cancel(timer))

    def _cancel(self, timer: tuple[float, Callable[..., None], Any]) -> None:
        if timer in self._timers:
            self._timers.remove(timer)

    def call_soon(self, do: Callable[..., None], *given: Any) -> None:
        self._loop.call_soon(do, *given)

    def create_future(self) -> asyncio.Future[Any]:
        return self._loop.create_future()

    async def advance(self, seconds: float) -> None:
        """Advance the time, timer by timer."""
        until = self._now + seconds
        while due := [timer for timer in self._timers if timer[0] <= until]:
            timer = min(due, key=lambda one: one[0])
            self._timers.remove(timer)
            self._now = max(self._now, timer[0])
            timer[1](*timer[2])
            await settle()
        self._now = until
        await settle()


async def settle() -> None:
    """Run the loop until the call waits."""
    for _ in range(10):
        await asyncio.sleep(0)


class FakeCaller:
    """The caller's leg. `heard` is what the caller received: codes in order, and "bye"."""

    is_caller = True

    def __init__(self) -> None:
        self.invite: Message | None = INVITE
        self.state: State = TRYING
        self.heard: list[int | str] = []
        self.refusal_field = b""  # the own fields of the refusal
        self.flow = self.owner = self.peer = self.reliable = None
        self.listener: Any = None
        self.source = "127.0.0.1"
        self.trusted, self.wish, self.farewell, self.max_forwards = True, NO_WISH, NOTHING, 70

    def progress(self, code: int, *_: Any, **__: Any) -> None:
        if self.state <= EARLY:
            self.state = EARLY
            self.heard.append(code)

    def answer(self, code: int, *_: Any) -> bool:
        if self.state > EARLY:
            return False
        self.state = ANSWERED
        self.heard.append(code)
        return True

    def reject(self, code: int, _message: Any = None, extra: bytes = b"") -> None:
        if self.state <= EARLY:
            self.refusal_field = extra
            self.heard.append(code)
            self.state = ENDED

    def hangup(self, *_: Any) -> None:
        if ANSWERED <= self.state < ENDED:
            self.heard.append("bye")
            self.state = ENDED

    def detach(self) -> None:
        self.listener = None

    def is_phone(self, _contact: str) -> None:
        self.trusted = False

    # Actions of the caller

    def acks(self) -> None:
        self.state = CONFIRMED
        self.listener(Acked(self, INVITE))

    def cancels(self) -> None:
        self.heard.append(487)
        self.state = ENDED
        self.listener(Cancelled(self, None))

    def hangs_up(self) -> None:
        self.state = ENDED
        self.listener(Ended(self, "bye", None))


class FakeCallee(Outgoing):
    """A leg that was dialled, without a dialog. `said` is what was sent to its far end."""

    def __init__(self, uri: str, listener: Any) -> None:
        self.uri, self.listener, self.routes = uri, listener, ()
        self.state = CALLING
        self.said: list[str] = ["invite"]
        self.owner = self.peer = None
        self.trusted, self.alone, self.provisional, self.farewell = True, False, False, NOTHING
        self.block = ""  # the header fields of its INVITE

    def accept(self, *_: Any) -> None:
        self.said.append("ack")
        self.state = CONFIRMED

    def cancel(self, *_: Any) -> None:
        if self.state in (CALLING, EARLY):
            self.said.append("cancel")
            self.state = CANCELLING

    def hangup(self, *_: Any) -> None:
        if self.state is ANSWERED:
            self.accept()
        if self.state is CONFIRMED:
            self.said.append("bye")
            self.state = ENDED
        else:
            self.cancel()

    def detach(self) -> None:
        self.listener = None

    # Actions of the phone

    def rings(self, code: int = 180) -> None:
        self.provisional = True
        if self.state is CALLING:
            self.state = EARLY
        self.tell(Progress(self, code, response(code)))

    def answers(self) -> None:
        self.state = ANSWERED
        self.tell(Answered(self, 200, response(200)))

    def fails(self, code: int) -> None:
        self.state = ENDED
        self.tell(Failed(self, code, response(code)))

    def hangs_up(self) -> None:
        self.state = ENDED
        self.tell(Ended(self, "bye", None))


def line(number: str = LINE, **forwards: str | tuple[str, int]) -> Line:
    """A line of fleet acme: `busy="voicemail"`, `no_answer=(MOBILE, 20)`."""
    made = {}
    for name, wanted in forwards.items():
        to, after_s = wanted if isinstance(wanted, tuple) else (wanted, None)
        condition = Condition(name)
        if condition is Condition.NO_ANSWER:
            after_s = after_s or 20
        own = to == "voicemail"
        kind = Kind.VOICEMAIL if own else Kind.NUMBER
        target = Destination(kind, number if own else to, mobile=to == MOBILE)
        made[condition] = Forward(True, target, after_s)
    return Line(number=number, fleet="acme", forwards=made)


def phones(*uris: str) -> tuple[Contact, ...]:
    """Registered contacts with the same preference."""
    return tuple(Contact(uri, None, math.inf) for uri in uris)


PHONE = "sip:phone@127.0.0.1:5090"


class OneCall:
    """One call to LINE and its result. `lines` are in memory, each with `contacts` unless
    `registered` has others."""

    def __init__(
        self,
        *lines: Line,
        contacts: tuple[Contact, ...] = phones(PHONE),
        registered: Mapping[str, tuple[Contact, ...]] | None = None,
    ) -> None:
        self.clock = Clock()
        self.caller = FakeCaller()
        self.legs: list[FakeCallee] = []
        self.ended: list[Over] = []
        self.crashes: list[Exception] = []
        self.undialled: set[str] = set()
        self.counted: list[str] = []  # numbers on which the call counts
        self.full: set[str] = set()  # lines that have reached `max_calls`
        self.cap_left_s: float | None = None  # of the fleet
        self.metered: list[Any] = []  # what is counted against plan and cap
        at = registered or {}
        entries = {one.number: Entry.of(one, at.get(one.number, contacts), None) for one in lines}
        config = read({"destinations": {"voicemail": "sip:{number}@127.0.0.1:5081",
                                        "number": "sip:{number}@127.0.0.1:5082"}})  # fmt: skip
        self.metrics = Metrics()
        nothing: Any = SimpleNamespace()
        loop: Any = self.clock
        services: Any = SimpleNamespace(
            loop=self.clock, deadlines=Deadlines(loop), config=config,
            numbering=Numbering("FR"), metrics=self.metrics,
            log=SimpleNamespace(warning=lambda *_, **__: None),
            rejections=SimpleNamespace(document=lambda *_: None),
            fleets=SimpleNamespace(
                find=lambda _: SimpleNamespace(
                    suspended=False, refused=None, countries=None, calendars={}, lists={},
                    cap_left_s=lambda _: self.cap_left_s,
                )
            ),
            forwards=Forwards(None),
            max_calls=SimpleNamespace(
                settle=lambda _: None, makes=lambda _: None,
                count=lambda number, _: self._count(number),
            ),
            live=SimpleNamespace(leave=self._leave, admit=self._admit),
            marks=SimpleNamespace(forwarded=lambda *_: (), make=lambda *_: ""),
            dialled=SimpleNamespace(bars=lambda _: None, names_of=lambda *_: ()),
            probing=SimpleNamespace(is_down=lambda _: False),
            spending_caps=SimpleNamespace(
                less_standing=lambda _number, _fleet, left_s, _now: left_s,
                begin=lambda _call, forward, *_: self.metered.append(forward),
            ),
            endpoint=SimpleNamespace(host="renvoi.test", dial=self._dial, trusted=()),
            store=SimpleNamespace(
                peek=lambda number: entries.get(number, Entry()),
                latest=lambda number: entries.get(number, Entry()),
                recall=lambda number: (entries.get(number), True),
                targets=lambda entry, caller: {
                    number: entries[number].line
                    for number in (*entry.targets, caller)
                    if number in entries
                },
            ),
        )  # fmt: skip
        transfers: Any = []  # none in progress
        facts = CallFacts("0-1-1", "one", CALLER, LINE)
        leg: Any = self.caller
        self.call = Call(services, Handovers(transfers, nothing), self, leg, facts)
        self._task = asyncio.create_task(self.call.run())

    def _count(self, number: str) -> None:
        if number not in self.counted:
            self.counted.append(number)

    def _leave(self, number: str, _call: str) -> None:
        if number in self.counted:
            self.counted.remove(number)

    async def _admit(self, number: str, _call: str, max_calls: int) -> int | None:
        if number in self.full:
            return max_calls
        self._count(number)
        return None

    def _dial(self, uri: str, *, listener: Any, alone: bool, block: bytes, **_: Any) -> FakeCallee:
        if uri in self.undialled:
            raise DialError(uri)
        leg = FakeCallee(uri, listener)
        leg.alone, leg.block = alone, block.decode()
        self.legs.append(leg)
        return leg

    # Receives the end of the call (engine.call.Ends)

    def over(self, _call: Any, over: Over) -> None:
        self.ended.append(over)

    def crashed(self, _facts: CallFacts, error: Exception) -> None:
        self.crashes.append(error)

    @property
    def forwards(self) -> Forwards:
        """The counts of forwards."""
        found: Forwards = self.call._services.forwards
        return found

    async def end(self) -> tuple[str, int, str]:
        """How it ended: outcome, code and why."""
        await settle()
        assert self._task.done(), "the call has not ended"
        (over,) = self.ended
        return over.outcome.value, over.code, over.why
