"""An engine that is killed and started again on the same ports, and the calls in its journal."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from engine.call_entry import ActiveCall
from engine.processes.journal import _read, directory_of
from sip.state import CONFIRMED
from tests.patience import within
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.processes import Settings as EngineSettings
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup

TAKEN_OVER = "calls.taken_over"
WAIT_S = 5.0
EXPIRES = [("Supported", "timer")]


@asynccontextmanager
async def one_engine(
    redis: RedisServer,
    directory: Path,
    settings: EngineSettings | None = None,
    *,
    but: tuple[str, ...] = (),
) -> AsyncIterator[Setup]:
    """An engine for one test. Afterwards no calls may be left, and no error in its log except the
    events in `but`."""
    engine = Engine(directory, redis.url, settings)
    await asyncio.to_thread(engine.start)
    running_engine = RunningEngine(engine, redis.client, directory)
    try:
        async with running_engine.endpoints() as servers, Setup(running_engine, servers) as setup:
            yield setup
        await until(lambda: not engine.leaks(redis.client), "nothing is left")
        assert not [event for event in engine.complaints() if event["event"] not in but]
    finally:
        engine.stop()


async def until(condition: Callable[[], Any], what: object = "") -> Any:
    """Wait until the condition is true; returns its value."""
    deadline = time.monotonic() + within(WAIT_S)
    while not (found := condition()):
        assert time.monotonic() < deadline, f"did not happen: {what}"
        await asyncio.sleep(0.02)
    return found


def kept(setup: Setup, call_id: str) -> ActiveCall | None:
    """The current entry of a call in the journals; of several the one with most changes of
    process."""
    found: list[ActiveCall] = []
    for path in directory_of(setup.running_engine.directory / "data").glob("*.journal"):
        try:
            entries, _ = _read(path.read_bytes())
        except FileNotFoundError:  # all of it became safe meanwhile
            continue
        found += [e for e in entries if isinstance(e, ActiveCall) and e.call_id == call_id]
    return max(found, key=lambda entry: entry.takeovers, default=None)


async def noted(setup: Setup, call: Call, holds: Callable[[ActiveCall], Any]) -> ActiveCall:
    """Wait until the journal has such an entry of a call."""
    found: ActiveCall = await until(
        lambda: entry if (entry := kept(setup, call.call_id)) and holds(entry) else None, call
    )
    return found


def is_up(entry: ActiveCall) -> bool:
    """Whether both sides are answered and acknowledged. Cancelled legs may still exist."""
    return sum(leg is not None and leg.state == CONFIRMED for leg in entry.signalling) == 2


async def rang(setup: Setup, call: Call, phones: int = 1) -> None:
    """Wait until the journal has a ringing call."""
    await noted(setup, call, lambda e: e.rang is not None and len(e.signalling) == phones + 1)


async def stand(setup: Setup, headers: Any = (), **fields: Any) -> tuple[str, Call, Call]:
    """A call in progress that is in the journal: the line, and both sides."""
    line, phone = await setup.line_with_phone(**fields)
    call = await setup.call(line, body=OFFER_BYTES, headers=headers)
    ring = await phone.incoming()
    await connect(call, ring)
    await noted(setup, call, is_up)
    return line, call, ring


def die(setup: Setup) -> None:
    """Send SIGKILL now."""
    setup.engine.signal(signal.SIGKILL)


async def back(setup: Setup) -> dict[str, Any]:
    """Wait for the next process; returns its log event about the calls that it found, {} without
    any."""
    await setup.engine.exited(5)
    before = len(events(setup, "worker.start"))
    await asyncio.to_thread(setup.engine.start)
    await until(lambda: len(events(setup, "worker.start")) > before, "worker.start")
    last = [e for e in setup.engine.events() if e["event"] in (TAKEN_OVER, "worker.start")][-2:]
    return last[0] if last[0]["event"] == TAKEN_OVER else {}


async def killed(setup: Setup, *, continued: int = 1, ended: int = 0) -> None:
    """Kill the engine; the next one has continued and ended these numbers of calls."""
    die(setup)
    taken = await back(setup)
    got = {name: taken.get(name, 0) for name in ("continued", "ended", "lost")}
    assert got == {"continued": continued, "ended": ended, "lost": 0}


def events(setup: Setup, event: str) -> list[dict[str, Any]]:
    """The log events of that name."""
    return [found for found in setup.engine.events() if found["event"] == event]


async def talk(call: Call, ring: Call) -> None:
    """Send requests in both directions."""
    for one, other in ((call, ring), (ring, call)):
        one.request("INFO", body=b"Signal=1\r\n", content_type="application/dtmf-relay")
        info = await other.receive("INFO")
        other.respond(200, to=info)
        await one.receive(200, "INFO")


async def ended(setup: Setup, call: Call, takeovers: int = 1, **expected: object) -> dict[str, Any]:
    """The only record of a call that continued to its own end."""
    expected = {"outcome": "answered", "why": "bye", "takeovers": takeovers, **expected}
    return await setup.ended(call.call_id, **expected)
