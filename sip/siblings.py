"""The other workers of this host. An INVITE that names a dialog of theirs goes to them.

With several workers each call is in one of them, and a takeover (Replaces, RFC 3891) may reach
another. That one asks the others over Unix sockets, which only this user can open. The worker that
has the dialog handles the datagram as if it had come to its own socket: it answers by the Via, and
its Contact directs everything that follows to it. Messages of that call that still arrive here
(copies of its INVITE, its CANCEL, the ACK of a refusal, or all if the caller uses a fixed route)
are passed on, to its successor if it was replaced. A TCP or TLS connection cannot be passed on;
there the caller gets a 302 with the right address.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sip.message import Message
from sip.replaces import DialogName, Dialogs, parse

PATIENCE_S = 0.3  # how late a sibling's answer may be
_REMEMBERED_S = 40.0  # 64*T1 plus the travel time of a copy
_CALL_S = 6 * 3600.0  # a call that was passed on
_MOST = 10_000
_LONGEST = 65_000
_PREFIX, _SUFFIX = "worker-", ".sock"

Key = tuple[bytes | None, bytes | None, int]
Source = tuple[str, int]
# A datagram, its source and the number of the listening UDP address; None for a stream.
Packet = Callable[[], tuple[bytes, Source, int] | None]


class Host(Protocol):
    """The endpoint's interface for siblings."""

    loop: asyncio.AbstractEventLoop
    dialog_names: Dialogs

    def inject(self, packet: bytes, source: Source, via: int) -> None:
        """Handle a datagram as if the listening UDP address of that number had read it."""

    def places(self) -> list[str]:
        """Where others reach this endpoint, as a SIP URI's host, port and transport."""


class Word(msgspec.Struct, array_like=True):
    """A message between workers. `kind`: "ask" for the worker with the dialog that `packet` names,
    to handle it; "where" only asks for its address; "yes", "no" answer `token`; "pass" carries a
    packet of an INVITE that was passed on. `source` and `via` are the source of a packet and the
    number of the listening address; `places` are the addresses of the answering worker."""

    kind: str
    token: str
    back: str = ""
    packet: bytes = b""
    source: tuple[str, int] = ("", 0)
    via: int = 0
    places: list[str] = []


class _Question:
    """How many have not answered yet, and the callback for the worker that has the dialog, or for
    none."""

    __slots__ = ("left", "tell", "timer")

    def __init__(
        self, left: int, tell: Callable[[Word | None], None], timer: asyncio.TimerHandle
    ) -> None:
        self.left = left
        self.tell = tell
        self.timer = timer


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Word).decode


class Siblings:
    """One worker's end. `folder` has the sockets of the workers of this engine, `index` is this
    worker's number, which its successor will have too."""

    def __init__(self, endpoint: Host, folder: Path, index: int) -> None:
        self._endpoint = endpoint
        self._folder = folder
        self._name = f"{_PREFIX}{index}-{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        self._held: set[Key] = set()  # INVITEs about which the others are asked
        self._asked: dict[Key, float] = {}  # those that no worker has
        self._handed: dict[bytes | None, tuple[str, float]] = {}  # the worker, by Call-ID
        self._questions: dict[str, _Question] = {}
        self._socket: socket.socket | None = None
        self._at = -1

    # -- life cycle -------------------------------------------------------------------------------

    def start(self) -> None:
        """Raises OSError if a socket cannot be made in the folder."""
        # A path through the descriptor is short enough, however long the folder's path is.
        self._at = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        self._socket = made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.bind(self._path(self._name))
        (self._folder / self._name).chmod(0o600)
        self._endpoint.loop.add_reader(made, self._read)

    def close(self) -> None:
        """Idempotent."""
        made, self._socket = self._socket, None
        if made is not None:
            self._endpoint.loop.remove_reader(made)
            made.close()
            with contextlib.suppress(OSError):
                (self._folder / self._name).unlink()
        if self._at >= 0:
            os.close(self._at)
            self._at = -1
        for question in self._questions.values():
            question.timer.cancel()
        self._questions.clear()

    # -- messages received here -------------------------------------------------------------------

    def takes(self, message: Message, packet: Packet) -> bool:
        """Whether a new INVITE waits for the others' answers; it comes back if no worker has the
        dialog."""
        value = message.first(b"replaces")
        name = parse(value) if value is not None else None
        key = _key(message)
        if name is None or self._endpoint.dialog_names.is_ours(name) or key in self._asked:
            return False
        came = packet()
        if came is None or len(self._held) >= _MOST:
            return False
        if key in self._held:
            return True
        word = Word("ask", "", self._name, *came)
        return self._ask(word, lambda found: self._found_out(key, word, found), key)

    def passes(self, call_id: bytes | None, packet: Packet) -> bool:
        """Whether a request belongs to another worker's call; it is then passed on."""
        if not self._handed:
            return False
        known = self._handed.get(call_id)
        came = packet() if known is not None else None
        if known is None or came is None:
            return False
        word = Word("pass", "", "", *came)
        if self._send(known[0], word):
            return True
        for heir in self._others():
            if _index(heir) == _index(known[0]) and self._send(heir, word):
                self._handed[call_id] = heir, known[1]
                break
        return True  # a successor that has not started yet gets it when the sender repeats it

    async def where(self, invite: Message) -> list[str]:
        """The addresses of the worker with the dialog that an INVITE names; empty if none."""
        future: asyncio.Future[Word | None] = self._endpoint.loop.create_future()

        def tell(found: Word | None) -> None:
            if not future.done():
                future.set_result(found)

        value = invite.first(b"replaces") or b""
        packet = b"INVITE sip:x SIP/2.0\r\nReplaces: " + value + b"\r\n\r\n"
        if not self._ask(Word("where", "", self._name, packet), tell):
            return []
        found = await future
        return found.places if found is not None else []

    def _found_out(self, key: Key, word: Word, found: Word | None) -> None:
        self._held.discard(key)
        now = self._endpoint.loop.time()
        _forget(self._asked, now, lambda at: at)
        _forget(self._handed, now, lambda kept: kept[1])
        if found is not None:
            self._handed[key[1]] = found.back, now + _CALL_S
            return
        self._asked[key] = now + _REMEMBERED_S
        self._take(word)

    # -- among workers ----------------------------------------------------------------------------

    def _ask(self, word: Word, tell: Callable[[Word | None], None], key: Key | None = None) -> bool:
        """Ask all others; False if there are none."""
        token = secrets.token_hex(8)
        word.token = token
        asked = sum(self._send(name, word) for name in self._others())
        if not asked:
            return False
        if key is not None:
            self._held.add(key)
        timer = self._endpoint.loop.call_later(PATIENCE_S, self._answered, token, None)
        self._questions[token] = _Question(asked, tell, timer)
        return True

    def _answered(self, token: str, found: Word | None) -> None:
        question = self._questions.pop(token, None)
        if question is not None:
            question.timer.cancel()
            question.tell(found)

    def _others(self) -> list[str]:
        with contextlib.suppress(OSError):
            names = os.listdir(self._folder)
            return [
                name
                for name in names
                if name.startswith(_PREFIX) and name.endswith(_SUFFIX) and name != self._name
            ]
        return []

    def _send(self, name: str, word: Word) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.sendto(_encode(word), self._path(name))
        except ConnectionRefusedError:  # it ended without cleaning up
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
            return False
        except OSError:
            return False
        return True

    def _path(self, name: str) -> str:
        return f"/proc/self/fd/{self._at}/{name}"

    def _read(self) -> None:
        for _ in range(50):
            try:
                data = self._socket.recv(_LONGEST + 1) if self._socket is not None else b""
            except OSError:
                return
            if not data:
                return
            with contextlib.suppress(msgspec.DecodeError):
                self._hear(_decode(data))

    def _hear(self, word: Word) -> None:
        if word.kind in ("ask", "where"):
            mine = self._holds(word.packet)
            places = self._endpoint.places()
            kind = "yes" if mine else "no"
            self._send(word.back, Word(kind, word.token, self._name, places=places))
            if mine and word.kind == "ask":
                self._take(word)
        elif word.kind == "pass":
            self._take(word)
        elif word.kind == "yes":
            self._answered(word.token, word)
        elif word.kind == "no":
            question = self._questions.get(word.token)
            if question is not None:
                question.left -= 1
                if question.left <= 0:
                    self._answered(word.token, None)

    def _holds(self, packet: bytes) -> bool:
        name: DialogName | None = parse(Message(packet).first(b"replaces") or b"")
        return name is not None and self._endpoint.dialog_names.is_ours(name)

    def _take(self, word: Word) -> None:
        """Handle a packet as if it had come to this worker's own socket."""
        self._endpoint.inject(word.packet, word.source, word.via)


def _index(name: str) -> str:
    """The number of the worker with that socket."""
    return name.removeprefix(_PREFIX).partition("-")[0]


def _key(message: Message) -> Key:
    """The common key of an INVITE, its copies, its CANCEL and the ACK of its refusal."""
    return message.first(b"via"), message.first(b"call-id"), message.cseq


def _forget(known: dict[Any, Any], now: float, until: Callable[[Any], float]) -> None:
    """Drop expired entries, oldest first."""
    while known:
        key = next(iter(known))
        if until(known[key]) > now and len(known) < _MOST:
            return
        del known[key]
