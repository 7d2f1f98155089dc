"""The SIP messages between the addresses of this network: draws ladder diagrams and reads them.

The diagrams in docs/integration.md are drawn by this module and compared with captured messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from tests.scenarios.message import Message, parse

_ALL_IP, _OUTGOING, _UDP = 0x0800, 4, 17
_LEFT_OUT = ("OPTIONS", "REGISTER")
_GAP = 3  # of a label to the bars at its sides, at least
Arrow = tuple[str, str, str]
"""From, to, and the message."""


@dataclass(frozen=True)
class Passed:
    """One captured message and its addresses."""

    source: str
    target: str
    message: Message


class Capture:
    """Captures everything on the loopback while it is open (root)."""

    def __init__(self) -> None:
        self.passed: list[Passed] = []

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_IP))
        self._socket.bind(("lo", _ALL_IP))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, address = self._socket.recvfrom(65_535)
                if address[2] != _OUTGOING:  # the loopback shows each packet twice
                    self._take(packet)

    def _take(self, packet: bytes) -> None:
        length = (packet[0] & 15) * 4
        if packet[9] != _UDP:
            return
        source, target = (socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16))
        ports = struct.unpack_from("!HH", packet, length)
        data = packet[length + 8 :]
        if any(port % 10_000 < 5100 and port >= 5060 for port in ports) and b"\r\nCSeq" in data:
            self.passed.append(Passed(source, target, parse(data)))


def arrows(
    passed: Sequence[Passed], places: Mapping[str, str], numbers: Mapping[str, str], again: str
) -> list[Arrow]:
    """The messages of INVITE dialogs as arrows between named places; without 100s and repeats.

    `numbers` are named too. `again` is the second name of a server that both calls and is called,
    which is drawn as two places.
    """
    ends: dict[str, dict[str, str]] = {}
    seen: set[tuple[str, ...]] = set()
    found: list[Arrow] = []
    callers: set[str] = set()
    for each in passed:
        message = each.message
        if message.method in _LEFT_OUT or message.code == 100:
            continue
        if each.source not in places or each.target not in places:
            continue
        if message.call_id not in ends:
            if message.method != "INVITE" or message.to_tag:
                continue  # of a call that began before
            named = {each.source: places[each.source], each.target: places[each.target]}
            if again and named[each.target] in callers:
                named[each.target] = again
            callers.add(named[each.source])
            ends[message.call_id] = named
        key = (message.call_id, each.source, message.start, message.one("CSeq"), message.branch)
        if key in seen:
            continue
        seen.add(key)
        what = str(message.code) if message.code else message.method
        if what == "INVITE" and not message.to_tag:
            user = message.user
            for number, name in numbers.items():
                user = user.replace(number, name)
            what = f"INVITE {user}"
        if message.code >= 200 and message.method != "INVITE":
            what = f"{message.code} ({message.method})"
        found.append((ends[message.call_id][each.source], ends[message.call_id][each.target], what))
    return found


def draw(columns: Sequence[str], messages: Sequence[Arrow]) -> str:
    """A ladder of these columns, as text."""
    step = max(len(name) + 2 for name in columns)
    for source, target, label in messages:
        across = abs(columns.index(source) - columns.index(target))
        step = max(step, -(-(len(label) + 2 * _GAP + 2) // across))
    at = {name: step // 2 + index * step for index, name in enumerate(columns)}
    end = step * len(columns)
    head = [" "] * end
    for name in columns:
        start = at[name] - len(name) // 2
        head[start : start + len(name)] = name
    lines = ["".join(head).rstrip()]
    for source, target, label in messages:
        row = [" "] * end
        for name in columns:
            row[at[name]] = "|"
        first, last = sorted((at[source], at[target]))
        body = f" {label} ".center(last - first - 3, "-")
        shaft = f"-{body}>" if at[source] < at[target] else f"<{body}-"
        row[first + 1 : last] = shaft
        lines.append("".join(row).rstrip())
    return "\n".join(lines) + "\n"


def read(text: str) -> list[Arrow]:
    """The arrows of a ladder."""
    head, *rows = text.rstrip().split("\n")
    columns = {
        found.start() + len(found[0]) // 2: found[0] for found in re.finditer(r"\S+( \S+)*", head)
    }
    found = []
    for row in rows:
        shaft = re.search(r"(<)?-+ (.+?) -+(>)?", row)
        assert shaft, row
        left, right = columns[shaft.start() - 1], columns[shaft.end()]
        found.append((left, right, shaft[2]) if shaft[3] else (right, left, shaft[2]))
    return found


def between(messages: Sequence[Arrow]) -> dict[frozenset[str], list[Arrow]]:
    """The messages between each two places, in order. The order of different pairs may differ."""
    lanes: dict[frozenset[str], list[Arrow]] = {}
    for arrow in messages:
        lanes.setdefault(frozenset(arrow[:2]), []).append(arrow)
    return lanes
