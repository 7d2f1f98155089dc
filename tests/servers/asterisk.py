"""A real Asterisk in the chroot: started, queried and stopped as by an administrator."""

from __future__ import annotations

import asyncio
import configparser
import re
import shutil
import subprocess
import time
import wave
from collections.abc import Callable
from pathlib import Path

from tests.scenarios.processes import ROOT
from tests.servers.chroot import Chroot

START_S = 150.0
WAIT_S = 20.0
SPOOL = Path("var/spool/asterisk")
_FULL_LOG = "\n[logfiles](+)\nfull.log => notice,warning,error,verbose(3)\n"


class Asterisk:
    """One Asterisk whose configuration is in /etc/`name` of the chroot."""

    def __init__(self, chroot: Chroot, name: str = "asterisk") -> None:
        self._chroot = chroot
        self._name = name
        self._etc = chroot.root / "etc" / name
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0  # bytes of the log when the test began

    def install(self, scripts: list[str]) -> None:
        """Run the commands of the page, beside a copy of the sources."""
        sources = self._chroot.root / "opt" / "renvoi"
        shutil.copytree(ROOT / "deploy" / "asterisk", sources / "deploy" / "asterisk")
        for script in scripts:
            self._chroot.sh(script, cwd="/opt/renvoi")

    def start(self) -> None:
        """Start it and wait until all of it is loaded."""
        with (self._etc / "logger.conf").open("a") as log:
            log.write(_FULL_LOG)
        command = ["chroot", str(self._chroot.root), "asterisk", "-f", "-U", "asterisk"]
        command += ["-C", f"/etc/{self._name}/asterisk.conf"]
        with (self._chroot.root / "var/log" / self._name / "out").open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        deadline = time.monotonic() + START_S
        while "fully booted" not in self._cli("core waitfullybooted"):
            assert self._process.poll() is None, f"Asterisk ended:\n{self.log[-3000:]}"
            assert time.monotonic() < deadline, f"Asterisk is not ready:\n{self.log[-3000:]}"
            time.sleep(0.2)

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _cli(self, command: str) -> str:
        whole = ["chroot", str(self._chroot.root), "asterisk"]
        whole += ["-C", f"/etc/{self._name}/asterisk.conf", "-rx", command]
        done = subprocess.run(whole, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout + done.stderr

    def cli(self, command: str) -> str:
        """The output of a command of its console."""
        return self._cli(command)

    # Output

    @property
    def log(self) -> str:
        """The log from `mark` on."""
        path = self._chroot.root / "var/log" / self._name / "full.log"
        return path.read_text("utf-8", "replace")[self._read :] if path.exists() else ""

    def mark(self) -> None:
        """Make `log` begin here."""
        self._read = 0
        self._read = len(self.log)

    def played(self) -> list[str]:
        """The sounds that were played, in order, without directory and language."""
        return [Path(name).stem for name in re.findall(r"Playing '([^']+)'", self.log)]

    async def until(self, is_so: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
        """Wait for a state that no message shows. Raises AssertionError with the log."""
        deadline = time.monotonic() + wait_s
        while not is_so():
            assert time.monotonic() < deadline, f"not {what} within {wait_s} s:\n{self.log}"
            await asyncio.sleep(0.1)

    # Mailboxes and faxes

    def spool(self, *parts: str) -> Path:
        """A path in its spool directory."""
        return self._chroot.root.joinpath(SPOOL, *parts)

    def mailbox(self, number: str) -> Path:
        """The directory of a mailbox."""
        return self.spool("voicemail", "renvoi", number)

    def greet(self, number: str) -> None:
        """Record the two greetings of a mailbox, a moment long: the owner's own."""
        directory = self.mailbox(number)
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("unavail", "busy"):
            with wave.open(str(directory / f"{name}.wav"), "wb") as sound:
                sound.setnchannels(1)
                sound.setsampwidth(2)
                sound.setframerate(8000)
                sound.writeframes(b"\0\0" * 1600)
        self._chroot.sh(f"chown -R asterisk: '/{SPOOL}/voicemail'")

    def empty(self, number: str) -> None:
        """Remove all messages and greetings of a mailbox."""
        shutil.rmtree(self.mailbox(number), ignore_errors=True)

    async def messages(self, number: str, count: int = 1) -> list[dict[str, str]]:
        """The metadata of the messages in a mailbox; waits until there are `count`."""
        inbox = self.mailbox(number) / "INBOX"

        def found() -> list[Path]:
            return sorted(p for p in inbox.glob("msg*.txt") if "duration=" in p.read_text())

        await self.until(lambda: len(found()) >= count, f"{count} messages for {number}")
        messages = []
        for path in found():
            reader = configparser.ConfigParser(interpolation=None)
            reader.read_string(path.read_text())
            messages.append(dict(reader["message"]))
            assert list(path.parent.glob(f"{path.stem}.[wW]*")), "a message without sound"
        return messages

    def reachable(self, endpoint: str) -> bool:
        """Whether that endpoint is reachable (qualify)."""
        return " Avail " in self.cli(f"pjsip show aor {endpoint}")
