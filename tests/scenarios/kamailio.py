"""Kamailio in front of engines, with the configuration shipped in deploy/kamailio."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.child import started
from tests.patience import within
from tests.scenarios.processes import ROOT
from tests.scenarios.sipp import HOST, free_port

SHIPPED = ROOT / "deploy" / "kamailio"
START_S = within(6)
STOP_S = within(3)


def program() -> str:
    """The path of the program in Debian, on the PATH or not."""
    found = shutil.which("kamailio", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert found, "these scenarios need kamailio (Debian: apt install kamailio)"
    return found


def port_of_both() -> int:
    """A port that is free for UDP and for TCP."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
                return port
            except OSError:
                continue


class Kamailio:
    """One Kamailio in front of `engines` (host:port each), with `gateways` to the outside.
    `callers` are the addresses that may call without a registration."""

    def __init__(
        self,
        directory: Path,
        engines: Sequence[str],
        *,
        gateways: Sequence[str] = (),
        callers: Sequence[str] = (HOST,),
        host: str = HOST,
        settings: Mapping[str, int] | None = None,
    ) -> None:
        self._directory = directory / "kamailio"
        self._directory.mkdir()
        self.address = (host, port_of_both())
        self.peer = f"{host}:{self.address[1]}"
        self.uri = f"sip:{self.peer};lr"
        self._process: subprocess.Popen[bytes] | None = None
        self._gateways = gateways
        self._write_targets(engines)
        self._write("address.list", [f"1 {caller} 32 0" for caller in callers])
        self._defines = {
            "LISTEN": f"udp:{self.peer}",
            "LISTEN_TCP": f"tcp:{self.peer}",
            "DISPATCHER_LIST": f'"{self._directory}/dispatcher.list"',
            "ADDRESS_LIST": f'"{self._directory}/address.list"',
            "PING_S": 1,
            "SILENT_MS": 4000,
            # With two, a 180 may reach the caller after the 200, which SIPp takes for a fault.
            "CHILDREN": 1,
            **(settings or {}),
        }

    def _write_targets(self, engines: Sequence[str]) -> None:
        targets = [(1, engine) for engine in engines]
        targets += [(2, gateway) for gateway in self._gateways]
        self._write("dispatcher.list", [f"{group} sip:{target} 0 0" for group, target in targets])

    def use(self, engines: Sequence[str]) -> None:
        """Set the list of engines, without a restart."""
        self._write_targets(engines)
        # Kamailio refuses to reload twice within a second.
        deadline = time.monotonic() + START_S
        while True:
            done = self._control("dispatcher.reload")
            if done.returncode == 0 and not done.stdout.startswith("error"):
                return
            assert time.monotonic() < deadline, done
            time.sleep(0.2)

    def takes(self, engine: str) -> bool:
        """Whether it knows this engine as up, by its answer to OPTIONS."""
        _, found, rest = self._control("dispatcher.list").stdout.partition(f"URI: sip:{engine}\n")
        assert found, engine
        flags = next(line.split()[1] for line in rest.splitlines() if "FLAGS:" in line)
        return flags.startswith("A")

    def _control(self, command: str) -> subprocess.CompletedProcess[str]:
        place = f"unixs:{self._directory}/kamailio_ctl"
        return subprocess.run(
            ["kamcmd", "-s", place, command], capture_output=True, text=True, check=False
        )

    def _write(self, name: str, lines: Sequence[str]) -> None:
        (self._directory / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")

    @property
    def command(self) -> list[str]:
        """Its command line."""
        defines = [f"{name}={value}" for name, value in self._defines.items()]
        options = [part for define in defines for part in ("-A", define)]
        return [program(), "-f", str(SHIPPED / "kamailio.cfg"), *options]

    @property
    def log(self) -> str:
        """Its log."""
        return (self._directory / "log").read_text("utf-8", "replace")

    def start(self) -> None:
        """Start it and wait until it answers OPTIONS."""
        command = [*self.command, "-DD", "-E", "-m", "32", "-M", "4", "-w", str(self._directory)]
        command += ["-Y", str(self._directory), "-P", str(self._directory / "pid")]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        with started(self.stop):
            while not self.answers():
                assert self._process.poll() is None, f"Kamailio ended:\n{self.log}"
                assert time.monotonic() < deadline, f"Kamailio does not answer:\n{self.log}"

    def answers(self) -> bool:
        """Whether it answers OPTIONS."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((self.address[0], 0))
            probe.settimeout(0.2)
            here = f"{self.address[0]}:{probe.getsockname()[1]}"
            probe.sendto(
                f"OPTIONS sip:{self.peer} SIP/2.0\r\n"
                f"Via: SIP/2.0/UDP {here};branch=z9hG4bKalive\r\n"
                f"From: <sip:test@{here}>;tag=1\r\nTo: <sip:{self.peer}>\r\nCall-ID: {here}\r\n"
                "CSeq: 1 OPTIONS\r\nMax-Forwards: 5\r\nContent-Length: 0\r\n\r\n".encode(),
                self.address,
            )
            try:
                return probe.recv(4096).startswith(b"SIP/2.0 200")
            except OSError:
                return False

    def stop(self) -> None:
        """Stop it and its children."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
