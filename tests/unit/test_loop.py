"""The event loop: questions about names, and writing to a connection that is lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.loop import Loop
from store.client import close
from store.client import connect as connect_redis
from store.redis_errors import REDIS_ERRORS
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


@contextmanager
def resetting(
    family: socket.AddressFamily, address: Any, *, reads: bool
) -> Iterator[socket.socket]:
    """A server that resets each connection: as soon as it has accepted or `reads` something."""

    def reset() -> None:
        while True:
            try:
                accepted, _ = server.accept()
            except OSError:  # the end of the test
                return
            if reads:
                accepted.recv(1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()

    with socket.create_server(address, family=family) as server:
        thread = threading.Thread(target=reset)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


async def lost(writer: asyncio.StreamWriter) -> None:
    """Write until the peer's reset has closed the connection."""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(within(10)):
            while True:
                writer.write(b"PING\r\n")
                await writer.drain()
                await asyncio.sleep(0.001)


WRITES: list[Callable[[asyncio.StreamWriter], None]] = [
    lambda writer: writer.write(b"PING\r\n"),
    lambda writer: writer.writelines([b"PING\r\n"]),
    lambda writer: writer.write_eof(),
]


@pytest.mark.parametrize("write", WRITES, ids=["write", "writelines", "write_eof"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
def test_who_writes_to_a_lost_connection_is_told_by_drain(
    family: socket.AddressFamily, write: Callable[[asyncio.StreamWriter], None], tmp_path: Path
) -> None:
    async def told(server: socket.socket) -> None:
        address = server.getsockname()
        if family == socket.AF_UNIX:
            _, writer = await asyncio.open_unix_connection(address)
        else:
            _, writer = await asyncio.open_connection(*address)
        await lost(writer)
        write(writer)
        with pytest.raises(ConnectionError):
            await writer.drain()

    address: Any = str(tmp_path / "socket") if family == socket.AF_UNIX else ("127.0.0.1", 0)
    with (
        resetting(family, address, reads=True) as server,
        asyncio.Runner(loop_factory=Loop) as runner,
    ):
        runner.run(told(server))


def test_what_is_written_before_the_end_of_a_flush_is_sent() -> None:
    received = bytearray()

    async def send() -> None:
        done = asyncio.Event()

        async def read(reader: asyncio.StreamReader, accepted: asyncio.StreamWriter) -> None:
            while chunk := await reader.read(65_536):
                received.extend(chunk)
            accepted.close()
            done.set()

        server = await asyncio.start_server(read, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(bytes(10_000_000))
        writer.close()
        writer.write(b"END")
        async with asyncio.timeout(within(10)):
            await done.wait()
        server.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(send())
    assert received.endswith(b"END")


@pytest.mark.usefixtures("certificates")
def test_a_connection_can_change_to_tls() -> None:
    async def change() -> bytes:
        async def accept(reader: asyncio.StreamReader, accepted: asyncio.StreamWriter) -> None:
            await reader.readline()
            accepted.write(b"go ahead\n")
            context = certificates.server_context(certificates.OWN, certificates.OWN_KEY)
            await accepted.start_tls(context)
            accepted.write(await reader.readline())
            accepted.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        await reader.readline()
        await writer.start_tls(certificates.client_context(), server_hostname="localhost")
        writer.write(b"hello\n")
        line = await reader.readline()
        writer.close()
        server.close()
        return line

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert runner.run(change()) == b"hello\n"


@pytest.mark.usefixtures("certificates")
def test_who_writes_to_a_lost_connection_over_tls_is_told_by_drain() -> None:
    """And nothing is reported as an internal error."""
    reports: list[Any] = []

    async def told() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reports.append(what))
        context = certificates.server_context(certificates.OWN, certificates.OWN_KEY)

        def abort(_: asyncio.StreamReader, accepted: asyncio.StreamWriter) -> None:
            accepted.transport.abort()

        server = await asyncio.start_server(abort, "127.0.0.1", 0, ssl=context)
        address = server.sockets[0].getsockname()
        _, writer = await asyncio.open_connection(
            *address, ssl=certificates.client_context(), server_hostname="localhost"
        )
        await lost(writer)
        writer.write(b"PING\r\n")
        with pytest.raises(ConnectionError):
            await writer.drain()
        server.close()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(told())
    assert reports == []


def test_a_redis_that_resets_each_connection_is_away() -> None:
    """Its client writes after the connection was made, in a task of its own (redis-py)."""

    async def pings(server: socket.socket) -> None:
        host, port = server.getsockname()
        client = connect_redis(f"redis://{host}:{port}", socket_timeout=within(5))
        for _ in range(50):
            with pytest.raises(REDIS_ERRORS):
                await client.ping()
        await close(client)

    with (
        resetting(socket.AF_INET, ("127.0.0.1", 0), reads=False) as server,
        asyncio.Runner(loop_factory=Loop) as runner,
    ):
        runner.run(pings(server))
