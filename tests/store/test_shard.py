"""A shard for which a start waits: it is closed meanwhile, or does not answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis.asyncio

from store.shard import Shard, Unavailable
from tests.patience import within


class _Ignores:
    """Gets the reports of a shard, and ignores them."""

    def on_keys(self, shard: Shard, keys: Sequence[bytes] | None) -> None: ...

    def on_stream(self, shard: Shard) -> None: ...

    def on_answers(self, shard: Shard, replies: Sequence[Any]) -> None: ...

    def on_shard_trouble(self, shard: Shard, error: BaseException, kind: str) -> None: ...


@pytest.fixture
def silent() -> Iterator[Shard]:
    """A shard of a server that accepts connections and does not answer, as one that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        yield Shard(
            "a server that does not answer",
            lambda: redis.asyncio.Connection(host=host, port=port),
            prefixes=("line:",),
            canary="test",
            watcher=_Ignores(),
        )


async def test_a_start_goes_on_when_the_server_it_waits_for_leaves_the_cluster(
    silent: Shard,
) -> None:
    """The layout closes the shard of a master that another one's view no longer names. The engine
    and the manager wait for the shards that they found first."""
    silent.start()
    waiting = asyncio.create_task(silent.tried())
    await asyncio.sleep(0)
    await silent.close()
    async with asyncio.timeout(within(5)):
        await waiting


async def test_a_start_goes_on_when_the_server_it_waits_for_does_not_answer(silent: Shard) -> None:
    """The next canary is due before the silence of the first has lasted long enough."""
    silent.start()
    try:
        async with asyncio.timeout(within(3)):
            await silent.tried()
    finally:
        await silent.close()


class _Faulty(_Ignores):
    def on_shard_trouble(self, shard: Shard, error: BaseException, kind: str) -> None:
        raise LookupError(kind)


async def test_an_error_while_a_failure_is_noted_leaves_nobody_without_an_answer() -> None:
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host, port = closed.getsockname()
    shard = Shard(
        "a server that is away",
        lambda: redis.asyncio.Connection(host=host, port=port),
        prefixes=("line:",),
        canary="test",
        watcher=_Faulty(),
    )
    replies: asyncio.Queue[Any] = asyncio.Queue()

    def take(reply: Any, span: object, begun: float) -> None:
        replies.put_nowait(reply)

    shard.start()
    async with asyncio.timeout(within(5)):
        for _ in range(2):
            shard.ask(("GET", "line:1"), take)
            assert isinstance(await replies.get(), Unavailable)
    await shard.close()
    assert {type(error) for error in reported} == {LookupError}


class _Misreads(_Ignores):
    def on_answers(self, shard: Shard, replies: Sequence[Any]) -> None:
        raise LookupError("a view that cannot be read")


async def test_an_answer_that_cannot_be_read_leaves_nobody_without_a_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cluster node's view comes in the same round trip as the answers of look-ups."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    shard = Shard(
        "a node",
        lambda: redis.asyncio.Connection(),
        prefixes=("line:",),
        canary="test",
        watcher=_Misreads(),
        questions=(("CLUSTER", "SLOTS"),),
    )

    async def answers(commands: Sequence[Any]) -> list[Any]:
        return [b"OK"] * len(commands)

    monkeypatch.setattr(shard, "_ask", answers)
    replies: list[Any] = []
    shard.ask(("GET", "line:1"), lambda reply, span, begun: replies.append(reply))
    reader = asyncio.create_task(shard._read_for_ever())
    async with asyncio.timeout(within(2)):
        await shard.answered.wait()
    reader.cancel()
    assert [type(reply) for reply in replies] == [Unavailable]
