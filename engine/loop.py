"""The event loop of every process: uvloop's, with two differences.

Names are looked up beside it. uvloop looks up all names of a process in four threads, and waits for
every question when it is closed. While the name servers are silent a question takes half a minute,
and connections to Redis are tried several times a second: such a process would not end before the
last of thousands of questions. Names of SIP are not asked here (sip/names.py).

A client that writes to a stream whose connection is lost gets an OSError from `drain`, as in
asyncio. uvloop raises a RuntimeError at once (MagicStack/uvloop#506), which no client of Redis
expects. Servers still get that one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import ssl
import threading
from collections.abc import Iterable
from typing import Any

import uvloop


class Loop(uvloop.Loop):
    """Asks about each name once at a time. A process that ends does not wait for the answer."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: dict[tuple[Any, ...], asyncio.Future[list[Any]]] = {}

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """As that of the socket module. Raises OSError."""
        question = host, port, family, type, proto, flags
        answer = self._asked.get(question)
        if answer is None:
            answer = self.create_future()
            asking = threading.Thread(
                target=self._ask, args=(question, answer), name="look-up", daemon=True
            )
            try:
                asking.start()
            except RuntimeError as error:  # the system has no thread
                raise OSError(f"{host} cannot be looked up: {error}") from None
            self._asked[question] = answer
            answer.add_done_callback(lambda _: self._asked.pop(question))
        # Not `shield`: from Python 3.14 on it reports the error once for each waiter that gave up.
        await asyncio.wait((answer,))
        return answer.result()

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        """As uvloop's, to the first address of a name that accepts the connection."""
        return _for_writer(await self._connected(protocol_factory, host, port, options))

    async def create_unix_connection(
        self, protocol_factory: Any, path: Any = None, **options: Any
    ) -> Any:
        """As uvloop's."""
        return _for_writer(await super().create_unix_connection(protocol_factory, path, **options))

    async def start_tls(
        self, transport: Any, protocol: Any, sslcontext: Any, **options: Any
    ) -> Any:
        """As uvloop's, also for the transport of a StreamWriter."""
        if not isinstance(transport, _WriterTransport):
            return await super().start_tls(transport, protocol, sslcontext, **options)
        plain = transport.transport
        secured: Any = await super().start_tls(plain, protocol, sslcontext, **options)
        return _WriterTransport(secured)

    async def _connected(
        self, protocol_factory: Any, host: Any, port: Any, options: dict[str, Any]
    ) -> Any:
        if host is None or _is_address(host) or options.get("local_addr") is not None:
            return await super().create_connection(protocol_factory, host, port, **options)
        choice = {name: options.pop(name, 0) for name in ("family", "proto", "flags")}
        found = await self.getaddrinfo(host, port, type=socket.SOCK_STREAM, **choice)
        if options.get("ssl") and options.get("server_hostname") is None:
            options["server_hostname"] = host
        first: OSError | None = None
        for *_, address in found:
            try:
                return await super().create_connection(protocol_factory, *address[:2], **options)
            except ssl.SSLError:
                raise
            except OSError as error:
                first = first or error
        raise first or OSError(f"{host} has no address")

    def _ask(self, question: tuple[Any, ...], answer: asyncio.Future[list[Any]]) -> None:
        """In a thread of its own, which takes no signals: they are for the loop's."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        found: list[Any] | OSError
        try:
            found = socket.getaddrinfo(*question)
        except OSError as error:
            found = error
        except Exception as error:  # no name at all; whatever it is, somebody waits
            found = OSError(str(error))
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.call_soon_threadsafe(_answer, answer, found)


class _WriterTransport:
    """A stream's transport for its StreamWriter: drops what is written after the connection is
    lost. `drain` raises then."""

    # Not by asking `is_closing` first: what is written before the end of a flush is still sent.

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        try:
            self.transport.write(data)
        except RuntimeError as error:
            self._check(error)

    def writelines(self, data: Iterable[bytes]) -> None:
        try:
            self.transport.writelines(data)
        except RuntimeError as error:
            self._check(error)

    def write_eof(self) -> None:
        try:
            self.transport.write_eof()
        except RuntimeError as error:
            self._check(error)

    def _check(self, error: RuntimeError) -> None:
        if not self.transport.is_closing():
            raise error


def _for_writer(connected: tuple[Any, Any]) -> tuple[Any, Any]:
    transport, protocol = connected
    if isinstance(protocol, asyncio.StreamReaderProtocol):
        return _WriterTransport(transport), protocol
    return connected


def _answer(answer: asyncio.Future[list[Any]], found: list[Any] | OSError) -> None:
    if isinstance(found, OSError):
        answer.set_exception(found)
        answer.exception()  # nobody may wait any more
    else:
        answer.set_result(found)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
