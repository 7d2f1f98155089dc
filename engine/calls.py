"""The calls of one worker that stand: how each begins, where it counts, how it ends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import orjson

from engine.call import Call
from engine.call_facts import CallFacts, telling
from engine.call_outcome import Over
from engine.caller_identity import shown_caller
from engine.leases import hold
from engine.processes.journal import Left
from engine.starcode import StarCall, dialled_code
from rules.numbers import Numbering
from sip import grammar
from sip.message import Message
from store import background_tasks

if TYPE_CHECKING:
    from engine.worker import Worker
    from sip.incoming import Incoming

AT_ONCE = 8  # ends of calls told in one turn of the loop: a third of a millisecond


class Calls:
    """The calls in progress, by id. `prefix` makes their ids unique for ever: it names the worker
    and its start."""

    def __init__(self, worker: Worker, prefix: str) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self._worker = worker
        self._prefix = prefix
        self._serial = 0
        self._standing: dict[str, Call | StarCall] = {}
        self._idle = asyncio.Event()
        self._ended: deque[tuple[CallFacts, Over]] = deque()  # not told yet

    def __len__(self) -> int:
        return len(self._standing)

    def __iter__(self) -> Iterator[Call | StarCall]:
        """The calls that stand now; they may end meanwhile."""
        return iter(list(self._standing.values()))

    def __contains__(self, call_id: str) -> bool:
        """Whether the call with this id stands."""
        return call_id in self._standing

    def find(self, call_id: str) -> Call | StarCall | None:
        """The call with this id, if it stands."""
        return self._standing.get(call_id)

    def oldest_s(self) -> float:
        """The age of the oldest call in seconds; 0 when there is none."""
        oldest = next(iter(self._standing.values()), None)  # they are in the order they came in
        return oldest.facts.age_s() if oldest is not None else 0.0

    async def shown(self) -> bytes:
        """The calls that stand as a JSON array, for `/calls`.

        A few at a time: with thousands the whole takes a tenth of a second, and no call that comes
        meanwhile is to wait for it. One that ends meanwhile is left out."""
        parts = [
            orjson.dumps({"worker": self._worker.index, **call.now()})
            async for call in background_tasks.giving_way(self)
            if call.facts.id in self
        ]
        return b"[" + b",".join(parts) + b"]"

    def new_id(self) -> str:
        """Unique for ever: worker, start of the worker, number of the call."""
        self._serial += 1
        return f"{self._prefix}-{self._serial}"

    def begin(self, leg: Incoming) -> None:
        """A new call: into a coroutine of its own, by the number it calls."""
        worker, invite = self._worker, leg.invite
        assert invite is not None
        called = called_by(invite.target, worker.numbering)
        try:
            call = self._call_of(leg, invite, called)
        except Exception as error:
            worker.log.error("call.error", call_id=invite.call_id, called=called, exc_info=error)
            leg.reject(500)
            return
        if call is None:
            worker.rejections.rejected(
                "bad_number", lambda: f"no number: {invite.target!r} from {leg.source}"
            )
            leg.reject(404)
            return
        self._stand(call)
        if isinstance(call, Call):
            worker.leases.makes(call)

    def _call_of(
        self, leg: Incoming, invite: Message, called: str | None
    ) -> Call | StarCall | None:
        """The call to a number, or to a star code; None when it calls neither."""
        worker = self._worker
        if called is not None:
            shown, by = shown_caller(invite, worker.numbering)
            return Call(worker, leg, called, shown, by)
        dialled = dialled_code(invite.target) if worker.config.numbering.star_codes else None
        return None if dialled is None else StarCall(worker, leg, dialled)

    def _stand(self, call: Call | StarCall) -> None:
        """The call stands from now on, until `over`."""
        self._standing[call.facts.id] = call
        self._worker.journal.begin(call.facts)
        self._worker.admission.began(call.source, call.facts.called)
        self._keep(self._worker.loop.create_task(call.run(), name="call"))
        self._worker.collector.call_began()

    def over(self, call: Call | StarCall, over: Over) -> None:
        """The end of every call, on every path: counts down, and has it told with others that end
        at the same time, which costs a third of telling each by itself."""
        worker, facts = self._worker, call.facts
        self._standing.pop(facts.id, None)
        worker.admission.ended(call.source, facts.called)
        worker.leases.made(call)
        worker.spending_caps.end(facts.id)
        facts.ended = facts.clock()
        self._ended.append((facts, over))
        if len(self._ended) == 1:
            # In the next turn: a worker that dies later leaves the whole record in its journal.
            worker.loop.call_soon(self._tell_some)
        if not self._standing:
            self._idle.set()

    def _tell_some(self) -> None:
        """Tell the ends of some calls, and of the others after what the loop has to do."""
        try:
            self.tell_ends(AT_ONCE)
        finally:
            if self._ended:
                self._worker.loop.call_soon(self._tell_some)

    def tell_ends(self, most: int | None = None) -> None:
        """Count, record and log calls that are over, the oldest first."""
        for _ in range(len(self._ended) if most is None else min(most, len(self._ended))):
            self._tell(*self._ended.popleft())

    def _tell(self, facts: CallFacts, over: Over) -> None:
        worker = self._worker
        record = facts.record(over, facts.ended)
        worker.metrics.call_over(record)
        worker.journal.over(facts, record)
        worker.recorder.add(record)
        if worker.spans is not None:
            worker.spans.put(record)
        worker.log.info("call.end", **telling(record))

    async def complete(self, left: list[Left]) -> None:
        """Write the records of processes that are gone, and let their calls count no more."""
        worker = self._worker
        for journal in left:
            async for record in background_tasks.giving_way((*journal.standing, *journal.over)):
                lines = {record.called, *(f.line for f in record.forwards)}
                for line in lines | {forward.number for forward in record.forwards}:
                    worker.live.release(line, record.id)
                caller = record.caller or record.caller_withheld
                worker.live.release(caller, hold(record.id))
                for forward in record.forwards:
                    worker.forwards.release(forward.line, record.id)
            over = len(journal.over)
            records = enumerate(journal.over + journal.standing)
            async for place, record in background_tasks.giving_way(records):
                worker.recorder.add(record)
                if place >= over:
                    worker.metrics.call_over(record)
                    worker.log.warning("call.end", **telling(record))
            worker.log.warning(
                "journal.completed",
                journal=journal.path.name,
                failed=len(journal.standing),
                recorded=len(journal.over),
            )

    def begun(self, caller: str, called: str, within_s: float) -> Call | None:
        """The newest call from one number to another that came in within so many seconds."""
        for call in reversed(self._standing.values()):
            facts = call.facts
            if facts.age_s() > within_s:
                break
            if isinstance(call, Call) and (facts.caller, facts.called) == (caller, called):
                return call
        return None

    def background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside the calls."""
        task = self._worker.loop.create_task(work)
        self._keep(task)
        return task

    def crashed(self, facts: CallFacts, error: Exception) -> None:
        """A call met an error of ours; it ends in `failed`, the others go on."""
        self._worker.log.error(
            "call.error",
            call=facts.id,
            call_id=facts.call_id,
            caller=facts.caller_shown,
            called=facts.called,
            exc_info=error,
        )

    async def none_left(self, within_s: float) -> bool:
        """Wait until no call stands, at most so long; whether none does."""
        if self._standing:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), within_s)
            except TimeoutError:
                return False
        return True

    async def stop(self, within_s: float) -> None:
        """End every call, each with its record."""
        # Each sends a BYE, and who calls is to hear a 503.
        async for call in background_tasks.giving_way(self):
            call.stop(503, "shutdown")
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=within_s)
        self.tell_ends()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def called_by(target: bytes, numbering: Numbering) -> str | None:
    """The called number of a Request-URI in E.164; None when it has none."""
    return numbering.quick(grammar.user_of(target))
