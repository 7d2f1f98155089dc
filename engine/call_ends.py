"""Reports the end of a call: record, `call.end` log line, metrics, trace.

The journal has the record at once. The rest is reported together with other calls that end at the
same time, a few in each turn of the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from engine.call_entry import LeftCalls
from engine.call_facts import CallFacts, end_fields
from engine.call_outcome import Over
from engine.forwards import Forwards
from engine.leases import LiveCalls
from engine.max_calls import hold
from engine.processes.journal import Journal
from engine.records.record import CallRecord
from engine.records.recorder import Recorder
from engine.telemetry.log import FilteringBoundLogger, log_end
from engine.telemetry.metrics import Metrics
from engine.telemetry.spans import Spans
from store import background_tasks

AT_ONCE = 8  # ends of calls reported per turn of the loop: a third of a millisecond


class CallEnds:
    """`spans` None: calls are not traced."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        log: FilteringBoundLogger,
        metrics: Metrics,
        journal: Journal,
        recorder: Recorder,
        spans: Spans | None,
    ) -> None:
        self._loop = loop
        self._log = log
        self._metrics = metrics
        self._journal = journal
        self._recorder = recorder
        self._spans = spans
        self._waiting: deque[CallRecord] = deque()

    def add(self, facts: CallFacts, over: Over) -> None:
        """Report that a call is over, together with others that end at the same time. Per call this
        costs a third of separate reports.

        The journal does not wait: before the next turn of the loop both sides may have the response
        to their BYE, and nobody would end the call in a process that continues it.
        """
        record = facts.record(over)
        self._journal.over(facts, record)
        self._waiting.append(record)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._report_some)

    def report(self, most: int | None = None) -> None:
        """Count, record and log ended calls, the oldest first."""
        for _ in range(len(self._waiting) if most is None else min(most, len(self._waiting))):
            self._report(self._waiting.popleft())

    def _report_some(self) -> None:
        """Report the ends of some calls, and of the others in later turns of the loop."""
        try:
            self.report(AT_ONCE)
        finally:
            if self._waiting:
                self._loop.call_soon(self._report_some)

    def _report(self, record: CallRecord) -> None:
        self._metrics.call_over(record)
        self._recorder.add(record)
        if self._spans is not None:
            self._spans.put(record)
        log_end(self._log, end_fields(record))

    def leave(self, facts: CallFacts) -> None:
        """Another host has the call, and reports its end."""
        facts.ended = facts.clock()  # a change that waits for the journal is not written any more
        self._journal.elsewhere(facts.id)

    async def complete(
        self, left: Sequence[LeftCalls], live: LiveCalls, forwards: Forwards
    ) -> None:
        """Write the records of dead processes whose calls nobody continues, and stop counting these
        calls."""
        for journal in left:
            failed = [journal.failed(call) for call in journal.active]
            async for record in background_tasks.giving_way((*failed, *journal.over)):
                lines = {record.called, *(leg.number for leg in record.legs if leg.role == "line")}
                for forward in record.forwards:
                    lines |= {forward.line, forward.number}
                for line in lines:
                    live.release(line, record.id)
                    forwards.release(line, record.id)
                caller = record.caller or record.caller_withheld
                live.release(caller, hold(record.id))
            over = len(journal.over)
            records = enumerate(journal.over + failed)
            async for place, record in background_tasks.giving_way(records):
                self._recorder.add(record)
                if place >= over:
                    self._metrics.call_over(record)
                    self._log.warning("call.end", **end_fields(record))
            if failed or journal.over:  # else all its calls were continued
                self._log.warning(
                    "journal.completed",
                    journal=journal.name,
                    failed=len(failed),
                    recorded=len(journal.over),
                )
