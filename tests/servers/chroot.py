"""A Debian with Asterisk in a directory, for machines whose own Debian has no Asterisk.

debootstrap makes it once; it is kept, and nothing is mounted. The files that Asterisk writes are
restored at each use, as after its installation.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO

SUITE = "forky"
PACKAGES = ("asterisk", "asterisk-core-sounds-en-gsm")
MIRROR = "http://deb.debian.org/debian"
MIRROR_VARIABLE = "DEBIAN_MIRROR"
_RECIPE = f"1 {SUITE} {' '.join(PACKAGES)}"
# The directories that Asterisk or its user writes, as installed.
_WRITTEN = ("etc/asterisk", "var/lib/asterisk", "var/spool/asterisk", "var/log/asterisk")


class Unavailable(Exception):
    """No chroot is possible here; the text has the reason."""


class Chroot:
    """The directory, and commands in it."""

    def __init__(self, place: Path | None = None) -> None:
        whole = place or Path(tempfile.gettempdir()) / f"renvoi-servers-{os.getuid()}"
        self._place = whole
        self._lock: IO[str] | None = None
        self.root = whole / SUITE

    def open(self, *, rebuild: bool = False) -> None:
        """Make it if it is missing, restore the files that Asterisk writes, and lock it.

        Raises Unavailable.
        """
        if os.geteuid() != 0:
            raise Unavailable("a chroot takes root (sudo make test-servers)")
        self._place.mkdir(mode=0o700, exist_ok=True)
        owner = self._place.stat()
        if owner.st_uid != 0 or owner.st_mode & 0o022 or self._place.is_symlink():
            raise Unavailable(f"{self._place} is somebody else's")
        self._lock = (self._place / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"another run is using {self._place}") from None
        made = self._place / "made"
        if rebuild or not made.exists() or made.read_text() != _RECIPE:
            made.unlink(missing_ok=True)
            self._make()
            made.write_text(_RECIPE)
        self.renew()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _make(self) -> None:
        """Raises Unavailable."""
        program = shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise Unavailable("no debootstrap (Debian: apt install debootstrap)")
        shutil.rmtree(self.root, ignore_errors=True)
        mirror = os.environ.get(MIRROR_VARIABLE) or MIRROR
        proxy = apt_setting("Acquire::http::Proxy")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        if proxy:
            environment["http_proxy"] = proxy
        # debootstrap has a script per suite. Older versions lack the newest, which uses that of
        # sid.
        self._run([program, "--variant=minbase", SUITE, str(self.root), mirror, "sid"], environment)
        settings = ['Acquire::Check-Valid-Until "false";']
        settings += [f'Acquire::http::Proxy "{proxy}";'] if proxy else []
        self._write("etc/apt/apt.conf.d/90renvoi", "\n".join(settings) + "\n")
        # Packages must not start services.
        self._write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n").chmod(0o755)
        within = ["chroot", str(self.root)]
        self._run([*within, "apt-get", "update", "-q"], environment)
        install = ["apt-get", "install", "-qqy", "--no-install-recommends", *PACKAGES]
        self._run([*within, *install], environment)
        self._run([*within, "apt-get", "clean"], environment)
        for name in _WRITTEN:
            self._pristine(name).parent.mkdir(parents=True, exist_ok=True)
            self._run(["cp", "-a", str(self.root / name), str(self._pristine(name))], environment)

    def _pristine(self, name: str) -> Path:
        return self.root / "pristine" / name

    def _write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.write_text(text)
        return path

    def _run(self, command: list[str], environment: dict[str, str]) -> None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip().splitlines()[-3:]
            raise Unavailable(f"{Path(command[0]).name} failed: {' / '.join(said)}")

    def renew(self) -> None:
        """Restore the files that Asterisk writes, as after its installation."""
        for name in _WRITTEN:
            shutil.rmtree(self.root / name, ignore_errors=True)
            subprocess.run(["cp", "-a", self._pristine(name), self.root / name], check=True)
        self.sh("rm -rf /opt/renvoi; install -d -o asterisk -g asterisk /run/asterisk")

    def sh(self, script: str, cwd: str = "/") -> str:
        """Run a shell script in the chroot; returns its output. Raises AssertionError if it
        fails."""
        whole = f"cd {cwd}\n{script}"
        command = ["chroot", str(self.root), "sh", "-euc", whole]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout


def apt_setting(name: str) -> str:
    """A setting of this machine's apt, "" without one."""
    command = ["apt-config", "shell", "value", name]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
    return output.partition("=")[2].strip().strip("'")
