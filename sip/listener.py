"""A listening socket for TCP or TLS. Connections are counted when they are accepted, not when
asyncio has set them up, so that a TLS handshake that never ends takes a place like any other
connection."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

AT_ONCE = 100  # connections accepted per turn of the loop
REST_S = 0.5  # pause when the process or the system has no descriptors left
_NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
BACKLOG = 1024

OnAccept = Callable[[socket.socket, str, int], None]


class Listener:
    """Accepts connections; `on_accept` gets each with the address and port it comes from, and
    closes unwanted ones. `on_none_left` is called when none can be accepted."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        host: str,
        port: int,
        on_accept: OnAccept,
        on_none_left: Callable[[str], None],
        opened: socket.socket | None = None,
    ) -> None:
        """`opened`: a listening socket of another process. Raises OSError."""
        self._loop = loop
        self._on_accept = on_accept
        self._on_none_left = on_none_left
        self._resting: asyncio.TimerHandle | None = None
        self.socket = opened if opened is not None else _bound(host, port)

    def start(self) -> None:
        """Begin to accept."""
        self._loop.add_reader(self.socket, self._accept)

    def stop(self) -> None:
        """Stop accepting. Idempotent."""
        if self.socket.fileno() < 0:
            return
        if self._resting is not None:
            self._resting.cancel()
        self._loop.remove_reader(self.socket)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                accepted, address = self.socket.accept()
            except OSError as error:  # no descriptor is left, or the peer has disconnected
                if error.errno in _NONE_LEFT:
                    self._rest(error)
                return
            self._on_accept(accepted, address[0], address[1])

    def _rest(self, error: OSError) -> None:
        """Pause, because the socket stays readable and the loop would try without end."""
        self._on_none_left(str(error))
        self._loop.remove_reader(self.socket)
        self._resting = self._loop.call_later(REST_S, self._resume)

    def _resume(self) -> None:
        self._resting = None
        self._loop.add_reader(self.socket, self._accept)


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
