"""The event loop's questions about names."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from engine.loop import Loop
from tests.patience import within
from tests.scenarios import certificates

NAME = "redis.example.com"


class NameServers:
    """Instead of the system's: silent until `answer` is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer = threading.Event()
        self.addresses: list[tuple[str, int]] = []

    def getaddrinfo(self, host: str, port: int, *_: Any) -> list[Any]:
        self.asked.append(host)
        self.answer.wait(within(30))
        if not self.addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in self.addresses]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServers]:
    servers = NameServers()
    monkeypatch.setattr(socket, "getaddrinfo", servers.getaddrinfo)
    yield servers
    servers.answer.set()


async def connect(**options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As Redis' client connects."""
    return await asyncio.open_connection(NAME, 6379, **options)


def test_a_process_ends_while_name_servers_are_silent(names: NameServers) -> None:
    """Each attempt of Redis' client gives up; each of these questions would take half a minute."""

    async def attempts() -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await connect()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(attempts())
    assert not names.answer.is_set()
    assert names.asked == [NAME]


def test_a_name_is_asked_about_again_after_an_answer(names: NameServers) -> None:
    names.answer.set()

    async def fails() -> None:
        for _ in range(2):
            with pytest.raises(OSError, match="no name server answers"):
                await connect()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(fails())
    assert names.asked == [NAME, NAME]


def test_the_first_address_that_accepts_is_used(names: NameServers) -> None:
    names.answer.set()
    with socket.socket() as refuses, socket.create_server(("127.0.0.1", 0)) as accepts:
        refuses.bind(("127.0.0.1", 0))
        names.addresses = [refuses.getsockname(), accepts.getsockname()]

        async def peer() -> Any:
            _, writer = await connect()
            try:
                return writer.get_extra_info("peername")
            finally:
                writer.close()
                await writer.wait_closed()

        with asyncio.Runner(loop_factory=Loop) as runner:
            assert runner.run(peer()) == accepts.getsockname()


@pytest.mark.usefixtures("certificates")
def test_a_server_must_have_the_certificate_of_its_name(names: NameServers) -> None:
    names.answer.set()

    async def serve() -> None:
        context = certificates.server_context(certificates.OWN, certificates.OWN_KEY)
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
        names.addresses = [server.sockets[0].getsockname()]
        with pytest.raises(OSError, match="Hostname mismatch"):
            await connect(ssl=certificates.client_context())
        server.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(serve())


def test_a_name_is_asked_about_again_when_the_system_has_threads_again(
    names: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def later() -> None:
        with monkeypatch.context() as scarce:
            scarce.setattr(threading.Thread, "start", refuse)
            with pytest.raises(OSError, match="can't start new thread"):
                await connect()
        names.answer.set()
        with pytest.raises(OSError, match="no name server answers"):
            async with asyncio.timeout(within(2)):
                await connect()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(later())


def test_an_answer_that_nobody_waits_for_any_more_is_not_reported(names: NameServers) -> None:
    reports: list[Any] = []

    async def given_up() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context))
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await connect()
        names.answer.set()
        with pytest.raises(OSError, match="no name server answers"):
            await connect()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(given_up())
    assert reports == []
