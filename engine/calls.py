"""The active calls of one worker: their beginning, counting and end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import orjson

from engine.admission import Admission
from engine.call import Call, Handovers, SoFar
from engine.call_ends import CallEnds
from engine.call_entry import ActiveCall
from engine.call_facts import CallFacts
from engine.call_outcome import Over
from engine.call_services import CallServices
from engine.call_tasks import CallTasks
from engine.caller_identity import shown_caller
from engine.collector import Collector
from engine.processes.journal import Journal
from engine.replaces import Replacements
from engine.ringing import Rings
from engine.starcode import StarCall, dialled_code
from engine.transfers import Transfers
from rules.numbers import Numbering
from sip import grammar
from sip.incoming import Incoming
from sip.message import Message
from store import background_tasks


class Calls:
    """The calls in progress, by id.

    Args:
        prefix: identifies the worker and its start, and so makes the calls' ids unique.
        index: the worker's, as `/calls` shows it.
    """

    def __init__(
        self,
        services: CallServices,
        tasks: CallTasks,
        ends: CallEnds,
        *,
        journal: Journal,
        admission: Admission,
        collector: Collector,
        prefix: str,
        index: int,
    ) -> None:
        self.handovers = Handovers(
            Transfers(services, tasks, self.begun), Replacements(services, self.find)
        )
        self._services = services
        self._tasks = tasks
        self._ends = ends
        self._journal = journal
        self._admission = admission
        self._collector = collector
        self._prefix = prefix
        self._index = index
        self._serial = 0
        self._active: dict[str, Call | StarCall] = {}
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._active)

    def __iter__(self) -> Iterator[Call | StarCall]:
        """The calls that are active now; they may end during the iteration."""
        return iter(list(self._active.values()))

    def __contains__(self, call_id: str) -> bool:
        """Whether the call with this id is active."""
        return call_id in self._active

    def find(self, call_id: str) -> Call | StarCall | None:
        """The call with this id, if it is active."""
        return self._active.get(call_id)

    def begun(self, caller: str, called: str, within_s: float) -> Call | None:
        """The newest call from one number to another that came in within so many seconds."""
        for call in reversed(self._active.values()):
            facts = call.facts
            if facts.age_s() > within_s:
                break
            if isinstance(call, Call) and (facts.caller, facts.called) == (caller, called):
                return call
        return None

    def put_in_order(self) -> None:
        """Calls of another host have come later than younger ones of this one."""
        self._active = dict(sorted(self._active.items(), key=lambda item: item[1].facts.received))

    def oldest_s(self) -> float:
        """The age of the oldest call in seconds; 0 without calls."""
        oldest = next(iter(self._active.values()), None)  # in order of arrival
        return oldest.facts.age_s() if oldest is not None else 0.0

    async def shown(self) -> bytes:
        """The active calls as a JSON array, for `/calls`.

        A few at a time: thousands take a tenth of a second, and new calls must not wait for that. A
        call that ends meanwhile is left out."""
        parts = [
            orjson.dumps({"worker": self._index, **call.now()})
            async for call in background_tasks.giving_way(self)
            if call.facts.id in self
        ]
        return b"[" + b",".join(parts) + b"]"

    # -- how a call begins and ends ---------------------------------------------------------------

    def begin(self, leg: Incoming) -> None:
        """Start the coroutine of a new call, by the called number."""
        services, invite = self._services, leg.invite
        assert invite is not None
        called = called_by(invite.target, services.numbering)
        try:
            call = self._call_of(leg, invite, called)
        except Exception as error:
            services.log.error("call.error", call_id=invite.call_id, called=called, exc_info=error)
            leg.reject(500)
            return
        if call is None:
            services.rejections.rejected(
                "bad_number", lambda: f"no number: {invite.target!r} from {leg.source}"
            )
            leg.reject(404)
            return
        self._begin(call)

    def _begin(self, call: Call | StarCall) -> None:
        """Keep it, count it and run it."""
        self._active[call.facts.id] = call
        self._admission.began(call.source, call.facts.called)
        self._tasks.start(call.run(), "call")
        self._journal.begin(call.facts)
        self._collector.call_began()
        if isinstance(call, Call):
            self._services.max_calls.makes(call)

    def resume(self, leg: Incoming, facts: CallFacts, so_far: SoFar, entry: ActiveCall) -> None:
        """Continue a call of another process."""
        call = Call(self._services, self.handovers, self, leg, facts, so_far)
        call.path.resume(entry, begins=isinstance(so_far, Rings) and not so_far.legs)
        self._begin(call)
        self._journal.write(facts)  # before the other's entry is forgotten

    def _call_of(
        self, leg: Incoming, invite: Message, called: str | None
    ) -> Call | StarCall | None:
        """The call to a number or to a star code; None if it is neither."""
        services = self._services
        if called is not None:
            shown, by = shown_caller(invite, services.numbering)
            facts = CallFacts(
                self._new_id(),
                invite.call_id,
                shown,
                called,
                services.changed,
                by,
                withheld=leg.wish.number,
            )
            return Call(services, self.handovers, self, leg, facts)
        dialled = dialled_code(invite.target) if services.config.numbering.star_codes else None
        return None if dialled is None else StarCall(services, self, leg, dialled, self._new_id())

    def _new_id(self) -> str:
        """A unique id: worker, start of the worker, number of the call."""
        self._serial += 1
        return f"{self._prefix}-{self._serial}"

    def over(self, call: Call | StarCall, over: Over) -> None:
        """The end of every call, on every path: stop counting it, and record it."""
        services, facts = self._services, call.facts
        self._active.pop(facts.id, None)
        self._admission.ended(call.source, facts.called)
        services.max_calls.made(facts)
        services.spending_caps.end(facts.id)
        if isinstance(call, Call) and call.is_elsewhere:
            self._ends.leave(facts)
        else:
            self._ends.add(facts, over)
        if not self._active:
            self._idle.set()

    def crashed(self, facts: CallFacts, error: Exception) -> None:
        """A call met an internal error. It ends as `failed`, the others continue."""
        self._services.log.error(
            "call.error",
            call=facts.id,
            call_id=facts.call_id,
            caller=facts.caller_shown,
            called=facts.called,
            exc_info=error,
        )

    # -- all calls --------------------------------------------------------------------------------

    async def none_left(self, within_s: float) -> bool:
        """Wait until no call is active, at most so long. Returns whether none is."""
        if self._active:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), within_s)
            except TimeoutError:
                return False
        return True

    async def stop(self, within_s: float) -> None:
        """End every call, each with its record."""
        # Each sends a BYE, and unanswered callers get 503.
        async for call in background_tasks.giving_way(self):
            call.stop(503, "shutdown")
        await self._tasks.end(within_s)
        self._ends.report()


def called_by(target: bytes, numbering: Numbering) -> str | None:
    """The called number of a Request-URI in E.164; None if it has none."""
    return numbering.quick(grammar.user_of(target))
