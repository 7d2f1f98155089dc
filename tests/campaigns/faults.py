"""The faults that `tests.campaigns.alerts` stages: each is there inside its `async with`, and gone
after."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from tests.campaigns.scene import MOBILE, Scene, forward_to
from tests.scenarios import script

NOBODY = "+33972139999"  # no line
STRANGER = "127.0.0.2"  # on the loopback, and not trusted

Fault = Callable[[Scene], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def redis_hangs(scene: Scene) -> AsyncIterator[None]:
    """Redis stops without closing a connection."""
    scene.server.pause()
    try:
        yield
    finally:
        scene.server.resume()


@asynccontextmanager
async def redis_takes_no_writes(scene: Scene) -> AsyncIterator[None]:
    """Redis answers and refuses every write."""
    scene.server.client.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        scene.server.client.config_set("min-replicas-to-write", 0)


@asynccontextmanager
async def bad_document(scene: Scene) -> AsyncIterator[None]:
    """Somebody writes nonsense for a line that is called."""
    scene.server.client.set(f"line:{scene.flows[0].number}", '{"number": 7}')
    try:
        yield
    finally:
        scene.write_line(scene.flows[0].number)


@asynccontextmanager
async def registrations_gone(scene: Scene) -> AsyncIterator[None]:
    """All phones are gone at once."""
    scene.server.client.delete(*(f"reg:{flow.number}" for flow in scene.flows))
    try:
        yield
    finally:
        scene.register()


@asynccontextmanager
async def numbers_gone(scene: Scene) -> AsyncIterator[None]:
    """Many calls to numbers that are no lines: an import that went wrong."""
    async with scene.more(script.refused_call(NOBODY, "+33140009001", 404), rate=40):
        yield


@asynccontextmanager
async def forwards_pile_up(scene: Scene) -> AsyncIterator[None]:
    """One line is made to forward many calls at once."""
    number = "+33972130050"
    scene.write_line(number, forwards={"unconditional": forward_to("number", "+33186000001")})
    scene.register_line(number, "answers")
    play = script.answered_call(number, "+33140009002", talk_s=4.0)
    async with scene.more(play, rate=6):
        yield


@asynccontextmanager
async def out_of_plan(scene: Scene) -> AsyncIterator[None]:
    """Many calls out of plan: fraud by a forward."""
    lines = [f"+3397213006{place}" for place in range(5)]
    forwards = {"unconditional": forward_to("number", MOBILE)}
    async with AsyncExitStack() as stack:
        for line in lines:
            scene.register_line(line, "answers")
            scene.write_line(line, forwards=forwards, offer={"mobile": "unlimited"})
            play = script.answered_call(line, "+33140009003", talk_s=2.0)
            await stack.enter_async_context(scene.more(play, rate=3))
        yield


@asynccontextmanager
async def crowd(scene: Scene) -> AsyncIterator[None]:
    """More calls at once than `limits.calls`."""
    number = scene.flows[0].number
    async with scene.more(script.answered_call(number, "+33140009004", talk_s=6.0), rate=25):
        yield


@asynccontextmanager
async def voicemail_fails(scene: Scene) -> AsyncIterator[None]:
    """The voicemail refuses every call."""
    await scene.target("voicemail", script.refusing_phone("503 Service Unavailable"))
    try:
        yield
    finally:
        await scene.target("voicemail", script.answering_phone(rings_s=0.1))


@asynccontextmanager
async def strangers(scene: Scene) -> AsyncIterator[None]:
    """Somebody who is not trusted tries many calls."""
    play = script.refused_call(scene.flows[0].number, "+33140009005", 403)
    async with scene.more(play, rate=40, host=STRANGER):
        yield


@asynccontextmanager
async def core_taken(scene: Scene) -> AsyncIterator[None]:
    """Something else takes the engine's core most of the time."""

    async def take() -> None:
        while True:
            scene.engine.signal(signal.SIGSTOP)
            await asyncio.sleep(0.4)
            scene.engine.signal(signal.SIGCONT)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(take())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        scene.engine.signal(signal.SIGCONT)


@asynccontextmanager
async def slow_look_ups(scene: Scene) -> AsyncIterator[None]:
    """Redis answers late, and the lines that are called are not in memory."""

    async def hold_up() -> None:
        while True:
            scene.server.client.flushdb()  # every look-up goes to Redis again
            for flow in scene.flows:
                scene.write_line(flow.number, forwards=flow.forwards, offer=flow.offer)
            scene.register()
            scene.server.client.client_pause(150, all=True)
            await asyncio.sleep(0.3)

    task = asyncio.create_task(hold_up())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def calls_cut_off(scene: Scene) -> AsyncIterator[None]:
    """Calls that last longer than `timers.max_call_s`."""
    number = scene.flows[0].number
    async with scene.more(script.answered_call(number, "+33140009006", talk_s=60.0), rate=2):
        yield


@asynccontextmanager
async def engine_gone(scene: Scene) -> AsyncIterator[None]:
    """The engine is killed, and started again later."""
    scene.engine.signal(signal.SIGKILL)
    await scene.engine.exited(5)
    yield
    scene.engine.start()


@asynccontextmanager
async def engine_restarted(scene: Scene) -> AsyncIterator[None]:
    """The engine is killed and started again at once."""
    async with engine_gone(scene):
        pass
    yield


@asynccontextmanager
async def silence(scene: Scene) -> AsyncIterator[None]:
    """Nobody calls any more."""
    await scene.be_silent()
    yield
    await scene.call()
