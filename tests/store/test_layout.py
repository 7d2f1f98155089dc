"""Errors that nobody expected do not end the search for the servers of a Sentinel or a Cluster."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from store import layout
from store.layout import Address, ClusterLayout, Layout
from tests.patience import within


@pytest.fixture
def reported() -> list[BaseException]:
    return []


def listen(reported: list[BaseException]) -> None:
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )


class _Shard:
    """A master as the layout sees it."""

    def __init__(self, name: str, *_: Any, **__: Any) -> None:
        self.name = name
        self.up = False
        self.restarts = 0
        self.canary = SimpleNamespace(prefix="canary", key="", expect_nothing=lambda: None)

    def start(self) -> None: ...

    def restart(self) -> None:
        self.restarts += 1

    async def tried(self) -> None: ...

    async def close(self) -> None: ...


class _Node:
    """A connection to a node; that of the first address answers with what nobody can read."""

    def __init__(self, address: Address) -> None:
        self._address = address

    async def open(self) -> None: ...

    async def ask(self, _commands: Any) -> list[Any]:
        slots: Any = [[0, 16383, [b"10.0.0.9", 6379]]]
        return [7 if self._address[0] == "10.0.0.1" else slots, b"cluster_current_epoch:1"]

    async def close(self) -> None: ...


async def test_a_node_with_a_view_that_cannot_be_read_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, reported: list[BaseException]
) -> None:
    listen(reported)
    monkeypatch.setattr(layout, "dial_node", lambda _client, host, port: (host, port))
    monkeypatch.setattr(layout, "Connection", _Node)
    nodes = [SimpleNamespace(host=f"10.0.0.{n}", port=6379) for n in (1, 2)]
    client: Any = SimpleNamespace(startup_nodes=nodes)
    make: Any = _Shard
    cluster = ClusterLayout(client, make)
    await cluster._seek_once()
    assert [shard.name for shard in cluster.shards] == ["10.0.0.9:6379"]
    assert [type(error) for error in reported] == [TypeError]


async def test_a_view_that_could_not_be_applied_is_applied_when_it_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layout, "dial_node", lambda _client, host, port: (host, port))
    client: Any = SimpleNamespace(startup_nodes=[])
    broken = [True]

    def make(name: str, *_: Any, **__: Any) -> Any:
        if broken.pop() if broken else False:
            raise RuntimeError(name)
        return _Shard(name)

    cluster = ClusterLayout(client, make)
    view = [[0, 16383, [b"10.0.0.9", 6379]]], b"cluster_current_epoch:1", ("10.0.0.9", 6379)
    with pytest.raises(RuntimeError):
        cluster._see(*view)
    cluster._see(*view)
    assert [shard.name for shard in cluster.shards] == ["10.0.0.9:6379"]


async def test_sentinel_is_asked_again_after_an_error(
    monkeypatch: pytest.MonkeyPatch, reported: list[BaseException]
) -> None:
    listen(reported)
    monkeypatch.setattr(layout, "_SEEK_S", 0.0)
    answers: list[Any] = ["a", ValueError("no port"), "b", "b"]

    class Manager:
        async def discover_master(self, _name: str) -> str:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

    followed: Any = object.__new__(Layout)
    followed._only = _Shard("redis")
    followed._sentinel = SimpleNamespace(sentinel_manager=Manager(), service_name="m")
    following = asyncio.create_task(Layout._follow(followed))
    async with asyncio.timeout(within(5)):
        while not followed._only.restarts and not following.done():
            await asyncio.sleep(0)
    following.cancel()
    assert followed._only.restarts == 1
    assert [str(error) for error in reported] == ["no port"]
