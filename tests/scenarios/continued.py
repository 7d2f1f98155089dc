"""An engine that is killed and started again on the same ports, and what it kept of its calls."""

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
    """An engine of a test's own. Nothing may be left of its calls, and no error in its log `but`
    these events."""
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
    """Wait for it; what it is then."""
    deadline = time.monotonic() + within(WAIT_S)
    while not (found := condition()):
        assert time.monotonic() < deadline, f"did not happen: {what}"
        await asyncio.sleep(0.02)
    return found


def kept(setup: Setup, call_id: str) -> ActiveCall | None:
    """What the journals say of a call now, the one that has changed the process most often."""
    found: list[ActiveCall] = []
    for path in directory_of(setup.running_engine.directory / "data").glob("*.journal"):
        try:
            entries, _ = _read(path.read_bytes())
        except FileNotFoundError:  # all of it was safe meanwhile
            continue
        found += [e for e in entries if isinstance(e, ActiveCall) and e.call_id == call_id]
    return max(found, key=lambda entry: entry.takeovers, default=None)


async def noted(setup: Setup, call: Call, holds: Callable[[ActiveCall], Any]) -> ActiveCall:
    """Wait until the journal has something of a call."""
    found: ActiveCall = await until(
        lambda: entry if (entry := kept(setup, call.call_id)) and holds(entry) else None, call
    )
    return found


def is_up(entry: ActiveCall) -> bool:
    """Both sides have answered and acknowledged. Others may have been cancelled and still be
    there."""
    return sum(leg is not None and leg.state == CONFIRMED for leg in entry.signalling) == 2


async def rang(setup: Setup, call: Call, phones: int = 1) -> None:
    """Wait until the journal has a ringing call."""
    await noted(setup, call, lambda e: e.rang is not None and len(e.signalling) == phones + 1)


async def stand(setup: Setup, headers: Any = (), **fields: Any) -> tuple[str, Call, Call]:
    """A call that stands, and is in the journal: the line, and both sides."""
    line, phone = await setup.line_with_phone(**fields)
    call = await setup.call(line, body=OFFER_BYTES, headers=headers)
    ring = await phone.incoming()
    await connect(call, ring)
    await noted(setup, call, is_up)
    return line, call, ring


def die(setup: Setup) -> None:
    """SIGKILL, now."""
    setup.engine.signal(signal.SIGKILL)


async def back(setup: Setup) -> dict[str, Any]:
    """The next process is up; what it said of the calls that it found, {} if it found none."""
    await setup.engine.exited(5)
    before = len(told(setup, "worker.start"))
    await asyncio.to_thread(setup.engine.start)
    await until(lambda: len(told(setup, "worker.start")) > before, "worker.start")
    last = [e for e in setup.engine.events() if e["event"] in (TAKEN_OVER, "worker.start")][-2:]
    return last[0] if last[0]["event"] == TAKEN_OVER else {}


async def killed(setup: Setup, *, continued: int = 1, ended: int = 0) -> None:
    """The engine dies, and the next one has gone on with so many calls and ended so many."""
    die(setup)
    taken = await back(setup)
    got = {name: taken.get(name, 0) for name in ("continued", "ended", "lost")}
    assert got == {"continued": continued, "ended": ended, "lost": 0}


def told(setup: Setup, event: str) -> list[dict[str, Any]]:
    """The log events of that name."""
    return [found for found in setup.engine.events() if found["event"] == event]


async def talk(call: Call, ring: Call) -> None:
    """Requests go both ways."""
    for one, other in ((call, ring), (ring, call)):
        one.request("INFO", body=b"Signal=1\r\n", content_type="application/dtmf-relay")
        heard = await other.receive("INFO")
        other.respond(200, to=heard)
        await one.receive(200, "INFO")


async def ended(setup: Setup, call: Call, takeovers: int = 1, **expected: object) -> dict[str, Any]:
    """The one record of a call that went on to its own end."""
    expected = {"outcome": "answered", "why": "bye", "takeovers": takeovers, **expected}
    return await setup.ended(call.call_id, **expected)
