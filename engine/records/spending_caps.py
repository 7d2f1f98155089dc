"""The use of plans and caps by active calls, counted off the call path.

`usage` is written when a call ends. A fleet's cap must also include active calls, on all workers
and hosts together. So each worker writes notes of its calls beside the fleet's usage once a second,
and reads those of the others. The script that adds a call to `usage` removes its note in the same
step, so that no second counts twice. When the cap is reached, the calls that use it are ended. All
workers are notified of new notes (`store.fleets`) and subtract them before they dial.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import structlog

from rules.billing import month_begin, month_of
from rules.fleet import is_name
from rules.model import CAPPED, METERED
from rules.usage_notes import Note, encode_note, out_of_plan_of
from store import background_tasks
from store.fleets import Fleets, FleetState, capped_s, read_notes
from store.keys import active_calls_key, fleet_usage_key
from store.script import Script

if TYPE_CHECKING:
    from engine.records.record import ForwardRecord

_log = structlog.get_logger("meter")

TICK_S = 1.0
_EXCHANGE_S = 1.0
_EXPIRE_S = 60
_CONFIRM = 2  # consecutive ticks above the cap before calls are ended

# KEYS: the fleet's usage, its active calls. ARGV: seconds to keep them, id and note in turn.
# Both are read at the same moment.
_NOTE = Script(f"""
for n = 2, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[n], ARGV[n + 1]) end
redis.call('EXPIRE', KEYS[2], ARGV[1])
return {{redis.call('HMGET', KEYS[1], {", ".join(f"'{each}'" for each in CAPPED)}),
  redis.call('HGETALL', KEYS[2])}}
""")


class _ActiveCall:
    """An active call of this worker that a line pays for."""

    __slots__ = ("answered", "fleet", "line", "planned", "stop")

    def __init__(
        self, line: str, fleet: str, planned: bool, answered: float, stop: Callable[[], None]
    ) -> None:
        self.line = line
        self.fleet = fleet
        self.planned = planned  # deducted from a plan while hours are left
        self.answered = answered  # by the monotonic clock
        self.stop = stop


class SpendingCaps:
    """The active calls of one worker that use plans and caps.

    Args:
        redis: a client, of one Redis or of a Cluster.
        fleets: the fleets and their caps.
        plan_left_s: seconds left of a line's plan without active calls; None = not known.
        clock: unix seconds, which determine the month.
        steady: monotonic seconds, by which calls are timed.
    """

    def __init__(
        self,
        redis: Any,
        fleets: Fleets,
        plan_left_s: Callable[[str], float | None],
        *,
        timezone: str,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._fleets = fleets
        self._plan_left_s = plan_left_s
        self._zone = ZoneInfo(timezone)
        self._clock = clock
        self._steady = steady
        self._calls: dict[str, _ActiveCall] = {}
        self._by_fleet: dict[str, set[str]] = {}
        self._planned: dict[str, set[str]] = {}  # by line: its calls that are deducted from a plan
        self._over: dict[str, int] = {}  # by fleet: consecutive ticks above the cap
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._calls)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="meter")

    async def close(self) -> None:
        task, self._task = self._task, None
        await background_tasks.end([task])

    # -- on the call path: dictionaries ------------------------------------------------------------

    def begin(
        self, call_id: str, forward: ForwardRecord, used_s: float, stop: Callable[[], None]
    ) -> None:
        """A forwarded call was answered, or its payer has changed; it has lasted `used_s` already.
        `stop` ends it when its fleet's cap is reached."""
        self.end(call_id)
        if forward.billing not in METERED:
            return
        planned, answered = forward.billing == "deducted", self._steady() - used_s
        self._calls[call_id] = _ActiveCall(forward.line, forward.fleet, planned, answered, stop)
        self._by_fleet.setdefault(forward.fleet, set()).add(call_id)
        if planned:
            self._planned.setdefault(forward.line, set()).add(call_id)

    def end(self, call_id: str) -> None:
        """The call is over. Harmless if it was not counted."""
        call = self._calls.pop(call_id, None)
        if call is None:
            return
        calls = self._by_fleet[call.fleet]
        calls.discard(call_id)
        if not calls:
            del self._by_fleet[call.fleet]
            self._over.pop(call.fleet, None)
        if call.planned:
            planned = self._planned[call.line]
            planned.discard(call_id)
            if not planned:
                del self._planned[call.line]

    def less_standing(
        self, line: str, fleet: FleetState, plan_left_s: float | None, now: float
    ) -> float | None:
        """Seconds left of a line's plan after what active calls have used of this month: this
        worker's, and those of all workers if the fleet has a cap. None stays None (no plan, or not
        known)."""
        if plan_left_s is None:
            return None
        used_s = fleet.using.plan_by(line, now)
        if planned := self._planned.get(line):
            steady, month_s = self._steady(), now - month_begin(now, self._zone)
            active_s = (steady - self._calls[id_].answered for id_ in planned)
            used_s = max(used_s, sum(min(each_s, month_s) for each_s in active_s))
        return max(0.0, plan_left_s - used_s)

    # -- once a second -----------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick()

    async def tick(self) -> None:
        """Write notes of this worker's calls, read the others', end the calls of a fleet whose cap
        is reached. Never raises."""
        for fleet in list(self._by_fleet):
            try:
                if self._fleets.find(fleet) is None:  # its calls come from another process
                    await self._fleets.load(fleet)
                if self._has_cap(fleet):
                    await self._tick(fleet)
            except Exception as error:  # Redis is away: the known values stay in use
                _log.warning("meter.failed", fleet=fleet, error=str(error) or type(error).__name__)

    def _has_cap(self, fleet: str) -> bool:
        state = self._fleets.find(fleet)
        return (
            is_name(fleet)
            and state is not None
            and state.fleet is not None
            and state.fleet.cap_seconds is not None
        )

    async def _tick(self, fleet: str) -> None:
        now = self._clock()
        month, _ = month_of(now, self._zone)
        usage = fleet_usage_key(fleet, month)
        noted = {id_: self._note(id_, now) for id_ in self._by_fleet.get(fleet, ())}
        if not noted:
            return
        standing = active_calls_key(usage)
        words: list[int | str | bytes] = [_EXPIRE_S]
        for id_, note in noted.items():
            words += [id_, encode_note(note)]
        async with asyncio.timeout(_EXCHANGE_S):
            used, stored = await _NOTE.run(self._redis, [usage, standing], *words)
            gone = [id_ for id_ in noted if id_ not in self._calls]
            if gone:  # ended meanwhile: its usage may have been added before the note was written
                await self._redis.hdel(standing, *gone)
        notes = await read_notes(dict(zip(stored[::2], stored[1::2], strict=True)), now)
        for id_ in gone:
            notes.pop(id_, None)
        await self._weigh(fleet, capped_s(used), notes, now)

    def _note(self, call_id: str, now: float) -> Note:
        call = self._calls[call_id]
        left = self._plan_left_s(call.line) if call.planned else None
        # A plan with unknown use counts as not used up.
        plan_left_s = (1e9 if left is None else left) if call.planned else None
        return Note(call.line, now - (self._steady() - call.answered), plan_left_s, now)

    async def _weigh(self, fleet: str, used_s: float, notes: dict[str, Note], now: float) -> None:
        using_s, exhausted = out_of_plan_of(notes.values(), now, month_begin(now, self._zone))
        state = self._fleets.find(fleet)
        cap_s = state.fleet.cap_seconds if state is not None and state.fleet is not None else None
        if cap_s is None or used_s + using_s < cap_s:
            self._over.pop(fleet, None)
            return
        self._over[fleet] = self._over.get(fleet, 0) + 1
        if self._over[fleet] < _CONFIRM:
            return
        # Each sends two BYEs and writes a record.
        async for call_id in background_tasks.giving_way(list(self._by_fleet.get(fleet, ()))):
            call = self._calls.get(call_id)
            if call is not None and (not call.planned or call.line in exhausted):
                _log.info("meter.cap_reached", fleet=fleet, call=call_id, cap_s=cap_s)
                call.stop()
