"""Scripts on a real Redis that has them cached, or no longer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError

from store.connection import Command, Connection, dial_like
from store.script import Script, send
from tests.redis.servers import RedisServer, running_server

ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
JOIN = Script("return KEYS[1] .. ARGV[1]")
WRONG = Script("return redis.call('LPUSH', KEYS[1], ARGV[1])")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


async def test_a_script_runs_once_each_time_whether_it_is_known_or_not(server: RedisServer) -> None:
    async with server.connect() as client:
        await client.flushall()
        for total in (2, 4, 6):
            if total == 6:
                await client.script_flush()
            assert await ADD.run(client, ["sum"], 2) == total
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await WRONG.run(client, ["sum"], 1)


async def test_of_several_only_those_that_are_not_known_are_sent_again(server: RedisServer) -> None:
    sent: list[list[Any]] = []
    async with server.connect() as client:
        await client.flushall()
        await client.script_flush()
        await ADD.run(client, ["sum"], 1)
        connection = Connection(dial_like(client))
        await connection.open()

        async def how(commands: Sequence[Command]) -> list[Any]:
            sent.append([command[0] for command in commands])
            return await connection.ask(commands)

        commands: list[Command] = [
            ADD.command(["sum"], 1), JOIN.command(["a"], "b"), ("GET", "sum"),
            WRONG.command(["sum"], 1), JOIN.command(["c"], "d"),
        ]  # fmt: skip
        first, joined, read, wrong, other = await send(how, commands)
        await connection.close()
    assert (first, joined, read, other) == (2, b"ab", b"2", b"cd")
    assert isinstance(wrong, ResponseError)
    assert sent == [["EVALSHA", "EVALSHA", "GET", "EVALSHA", "EVALSHA"], ["EVAL"] * 3]
