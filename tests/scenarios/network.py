"""A separate network for one end of a scenario: a namespace behind a pair of virtual links that can
be cut like a cable."""

from __future__ import annotations

import ctypes
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Self

import pytest

from tests.patience import within
from tests.scenarios.sipp import part_of

CLONE_NEWNET = 0x40000000
Socket = socket.socket
_NUMBERS = part_of(range(16_384))
_numbers = itertools.count(os.getpid())


class Network:
    """A namespace with the address `inside`; the engine's side of the link has `outside`. `prefix`
    before a command runs it in the namespace."""

    def __init__(self) -> None:
        number = _NUMBERS[next(_numbers) % len(_NUMBERS)]
        self.inside = f"10.{200 + number // 4096}.{number // 16 % 256}.{number % 16 * 16 + 2}"
        self.outside = f"{self.inside.rpartition('.')[0]}.{number % 16 * 16 + 1}"
        self.name = f"renvoi-{secrets.token_hex(4)}"
        # Not `ip netns exec` or `ip -n`: they remount /, which fails in a plain chroot.
        self.prefix = ["nsenter", f"--net=/run/netns/{self.name}"]
        self._link = f"rv{secrets.token_hex(4)}"
        self.link = f"{self._link}i"  # its name inside

    def __enter__(self) -> Self:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("a network namespace needs root and iproute2")
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", f"{self._link}o", "type", "veth", "peer", "name", f"{self._link}i")
            _ip("link", "set", f"{self._link}i", "netns", self.name)
            _ip("addr", "add", f"{self.outside}/28", "dev", f"{self._link}o")
            _ip("link", "set", f"{self._link}o", "up")
            self._ip_inside("addr", "add", f"{self.inside}/28", "dev", f"{self._link}i")
            self._ip_inside("link", "set", "lo", "up")
            self.mend()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "link", "del", f"{self._link}o"], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)

    def _ip_inside(self, *words: str) -> None:
        subprocess.run([*self.prefix, "ip", *words], check=True, capture_output=True)

    def cut(self) -> None:
        """Nothing passes any more, without any error."""
        self._ip_inside("link", "set", f"{self._link}i", "down")

    def mend(self) -> None:
        """Everything passes again, at once."""
        self._ip_inside("link", "set", f"{self._link}i", "up")
        deadline = time.monotonic() + within(5)
        while "LOWER_UP" not in _ip("link", "show", f"{self._link}o"):  # no carrier
            assert time.monotonic() < deadline, "the link does not come up"
            time.sleep(0.01)
        _ip("neigh", "flush", "dev", f"{self._link}o")

    def add(self, address: str) -> None:
        """Move the address to the namespace, and route to it."""
        self._ip_inside("addr", "add", f"{address}/32", "dev", self.link)
        self._ip_inside("route", "replace", "default", "via", self.outside)
        _ip("route", "replace", f"{address}/32", "via", self.inside)

    def remove(self, address: str) -> None:
        """Remove the address from the namespace."""
        self._ip_inside("addr", "del", f"{address}/32", "dev", self.link)

    def socket(self, kind: socket.SocketKind) -> socket.socket:
        """A socket in the namespace, bound to a free port of `inside`."""

        def make() -> Socket:
            opened = socket.socket(socket.AF_INET, kind)
            opened.bind((self.inside, 0))
            return opened

        return self.within(make)

    def within(self, make: Callable[[], Socket]) -> Socket:
        """The socket that `make` opens in the namespace. Raises what `make` raises."""
        made: list[Socket | OSError] = []

        def work() -> None:
            # A socket stays in the namespace in which it was made; only this thread enters it.
            libc = ctypes.CDLL(None, use_errno=True)
            try:
                with open(f"/run/netns/{self.name}", "rb") as place:
                    if libc.setns(place.fileno(), CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                made.append(make())
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
