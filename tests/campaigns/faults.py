"""The faults for `tests.campaigns.alerts`: each lasts for its `async with`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from tests.campaigns.alert_setup import MOBILE, AlertSetup, forward_to
from tests.scenarios import script

NOBODY = "+33972139999"  # not a line
STRANGER = "127.0.0.2"  # on the loopback, and not trusted

Fault = Callable[[AlertSetup], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def redis_hangs(setup: AlertSetup) -> AsyncIterator[None]:
    """Redis stops without closing a connection."""
    setup.server.pause()
    try:
        yield
    finally:
        setup.server.resume()


@asynccontextmanager
async def redis_takes_no_writes(setup: AlertSetup) -> AsyncIterator[None]:
    """Redis answers and refuses every write."""
    setup.server.client.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        setup.server.client.config_set("min-replicas-to-write", 0)


@asynccontextmanager
async def bad_document(setup: AlertSetup) -> AsyncIterator[None]:
    """An invalid document is written for a line that is called."""
    setup.server.client.set(f"line:{setup.flows[0].number}", '{"number": 7}')
    try:
        yield
    finally:
        setup.write_line(setup.flows[0].number)


@asynccontextmanager
async def registrations_gone(setup: AlertSetup) -> AsyncIterator[None]:
    """All registrations are lost at once."""
    setup.server.client.delete(*(f"reg:{flow.number}" for flow in setup.flows))
    try:
        yield
    finally:
        setup.register()


@asynccontextmanager
async def numbers_gone(setup: AlertSetup) -> AsyncIterator[None]:
    """Many calls to numbers that are not lines, as after a wrong import."""
    async with setup.more(script.refused_call(NOBODY, "+33140009001", 404), rate=40):
        yield


@asynccontextmanager
async def forwards_pile_up(setup: AlertSetup) -> AsyncIterator[None]:
    """One line is made to forward many calls at once."""
    number = "+33972130050"
    setup.write_line(number, forwards={"unconditional": forward_to("number", "+33186000001")})
    setup.register_line(number, "answers")
    play = script.answered_call(number, "+33140009002", talk_s=4.0)
    async with setup.more(play, rate=6):
        yield


@asynccontextmanager
async def out_of_plan(setup: AlertSetup) -> AsyncIterator[None]:
    """Many calls out of plan: fraud by a forward."""
    lines = [f"+3397213006{place}" for place in range(5)]
    forwards = {"unconditional": forward_to("number", MOBILE)}
    async with AsyncExitStack() as stack:
        for line in lines:
            setup.register_line(line, "answers")
            setup.write_line(line, forwards=forwards, offer={"mobile": "unlimited"})
            play = script.answered_call(line, "+33140009003", talk_s=2.0)
            await stack.enter_async_context(setup.more(play, rate=3))
        yield


@asynccontextmanager
async def crowd(setup: AlertSetup) -> AsyncIterator[None]:
    """More calls at once than `limits.calls`."""
    number = setup.flows[0].number
    async with setup.more(script.answered_call(number, "+33140009004", talk_s=6.0), rate=25):
        yield


@asynccontextmanager
async def voicemail_fails(setup: AlertSetup) -> AsyncIterator[None]:
    """The voicemail refuses every call."""
    await setup.target("voicemail", script.refusing_phone("503 Service Unavailable"))
    try:
        yield
    finally:
        await setup.target("voicemail", script.answering_phone(rings_s=0.1))


@asynccontextmanager
async def strangers(setup: AlertSetup) -> AsyncIterator[None]:
    """Many calls from an untrusted source."""
    play = script.refused_call(setup.flows[0].number, "+33140009005", 403)
    async with setup.more(play, rate=40, host=STRANGER):
        yield


@asynccontextmanager
async def core_taken(setup: AlertSetup) -> AsyncIterator[None]:
    """Another program uses the engine's core most of the time."""

    async def take() -> None:
        while True:
            setup.engine.signal(signal.SIGSTOP)
            await asyncio.sleep(0.4)
            setup.engine.signal(signal.SIGCONT)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(take())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        setup.engine.signal(signal.SIGCONT)


@asynccontextmanager
async def slow_look_ups(setup: AlertSetup) -> AsyncIterator[None]:
    """Redis answers late, and the lines that are called are not in memory."""

    async def hold_up() -> None:
        while True:
            setup.server.client.flushdb()  # every look-up goes to Redis again
            for flow in setup.flows:
                setup.write_line(flow.number, forwards=flow.forwards, offer=flow.offer)
            setup.register()
            setup.server.client.client_pause(150, all=True)
            await asyncio.sleep(0.3)

    task = asyncio.create_task(hold_up())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def calls_cut_off(setup: AlertSetup) -> AsyncIterator[None]:
    """Calls that last longer than `timers.max_call_s`."""
    number = setup.flows[0].number
    async with setup.more(script.answered_call(number, "+33140009006", talk_s=60.0), rate=2):
        yield


@asynccontextmanager
async def engine_gone(setup: AlertSetup) -> AsyncIterator[None]:
    """The engine is killed, and started again later."""
    setup.engine.signal(signal.SIGKILL)
    await setup.engine.exited(5)
    yield
    setup.engine.start()


@asynccontextmanager
async def engine_restarted(setup: AlertSetup) -> AsyncIterator[None]:
    """The engine is killed and started again at once."""
    async with engine_gone(setup):
        pass
    yield


@asynccontextmanager
async def silence(setup: AlertSetup) -> AsyncIterator[None]:
    """All calls stop."""
    await setup.be_silent()
    yield
    await setup.call()
