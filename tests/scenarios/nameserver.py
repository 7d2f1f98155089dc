"""A real name server for the scenarios: dnsmasq, with the records of a test."""

from __future__ import annotations

import asyncio
import getpass
import shutil
import signal
import subprocess
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode

from tests.child import started
from tests.patience import within

START_S = within(6)


class NameServer:
    """dnsmasq on its own port, authoritative for `test`."""

    def __init__(self, directory: Path, port: int) -> None:
        self._config = directory / "dnsmasq.conf"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, *records: str, ttl_s: int = 300) -> None:
        """Serve these records (lines of dnsmasq's configuration) instead of the previous ones."""
        self.stop()
        program = shutil.which("dnsmasq", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        assert program, "these scenarios need dnsmasq (Debian: apt install dnsmasq-base)"
        lines = [f"port={self._port}", "listen-address=127.0.0.1", "bind-interfaces", "no-resolv"]
        lines += ["no-hosts", "local=/test/", "auth-ttl=1", f"local-ttl={ttl_s}", "pid-file="]
        self._config.write_text("\n".join([*lines, *records, ""]), encoding="utf-8")
        command = [program, "--keep-in-foreground", f"--conf-file={self._config}"]
        self._spawn([*command, f"--user={getpass.getuser()}"])
        assert self._process is not None
        deadline = time.monotonic() + START_S
        with started(self.stop):
            while not await asyncio.to_thread(self._answers):
                assert self._process.poll() is None, self._config.with_suffix(".log").read_text()
                assert time.monotonic() < deadline, "dnsmasq does not answer"

    def _spawn(self, command: list[str]) -> None:
        with self._config.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def _answers(self) -> bool:
        question = dns.message.make_query("nobody.test.", "A")
        try:
            dns.query.udp(question, "127.0.0.1", timeout=0.2, port=self._port)
        except (dns.exception.DNSException, OSError):
            time.sleep(0.02)
            return False
        return True

    def pause(self) -> None:
        """Make it hang: queries are not answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def srv(name: str, target: str, port: int, priority: int = 0, weight: int = 0) -> str:
    """An SRV record and, for a target under `test`, its address 127.0.0.1."""
    return f"srv-host={name},{target},{port},{priority},{weight}\nhost-record={target},127.0.0.1"


def naptr(name: str, order: int, service: str, replacement: str) -> str:
    return f"naptr-record={name},{order},0,S,{service},,{replacement}"
