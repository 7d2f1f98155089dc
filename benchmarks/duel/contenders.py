"""The contenders: Renvoi, Kamailio and Sippy B2BUA, each with the same rules in its own form."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import redis

from benchmarks.duel.cases import AFTER_S, Case
from benchmarks.figures import Samples
from benchmarks.load import report
from benchmarks.processes import BenchmarkError, pss_bytes
from benchmarks.rig import HOST, LINES, Rig, called, document, nobody
from benchmarks.subject import Subject
from store.keys import line_key, registrations_key

_HERE = Path(__file__).parent
_SBIN = "/usr/sbin"
_SHARED_MB, _PRIVATE_MB = 2048, 64  # Kamailio's pools; only what is used is resident


class Peer(Protocol):
    """A server that is not Renvoi: how it is started on a rig's ports."""

    @property
    def name(self) -> str:
        """Its name in the tables."""

    def argv(self, rig: DuelRig) -> list[str]:
        """Its command. Writes the files that it needs to the rig's directory."""

    def environment(self) -> Mapping[str, str] | None:
        """Its environment, None = this one's."""


@dataclass(frozen=True)
class Kamailio:
    """`kamailio.cfg` with its defines."""

    name: str
    defines: tuple[str, ...] = ()
    children: int = 1

    def argv(self, rig: DuelRig) -> list[str]:
        """In the foreground; its log, with its accounting, goes to a file."""
        addresses = rig.directory / "address.list"
        addresses.write_text(f"1 {HOST} 32 0\n")
        defines = (
            f"LISTEN=udp:{HOST}:{rig.sip_port}",
            f'REDIS="name=rules;addr={HOST};port={rig.redis_port};db=0"',
            f"CHILDREN={self.children}",
            f'ADDRESS_LIST="{addresses}"',
            *self.defines,
        )
        memory = ["-m", str(_SHARED_MB), "-M", str(_PRIVATE_MB)]
        foreground = ["-DD", "-E", "-Y", str(rig.directory), "-P", str(rig.directory / "pid")]
        named = [part for define in defines for part in ("-A", define)]
        return [kamailio(), "-f", str(_HERE / "kamailio.cfg"), *foreground, *memory, *named]

    def environment(self) -> None:
        """This one's."""


@dataclass(frozen=True)
class Sippy:
    """`sippy_b2bua.py` in a virtual environment of its own."""

    name: str = "sippy"

    def argv(self, rig: DuelRig) -> list[str]:
        """Its log of messages is off (SIPLOG_BEND), its accounting goes to a file."""
        where = [HOST, str(rig.sip_port), str(rig.redis_port), HOST]
        return [str(sippy_python()), "-u", str(_HERE / "sippy_b2bua.py"), *where]

    def environment(self) -> Mapping[str, str]:
        """Without the log of each message, which costs more than the calls."""
        return os.environ | {"SIPLOG_BEND": "none"}


RENVOI = "renvoi"
# Renvoi again, on the build of its SIP core that RENVOI_SIP_CORE names.
CORES: Mapping[str, str] = {"renvoi-python": "python"}
PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Kamailio("kamailio"),
        Kamailio("kamailio-htable", ("WITH_HTABLE",)),
        Kamailio("kamailio-dialog", ("WITH_DIALOG",)),
        Kamailio("kamailio-4", children=4),
        Sippy(),
    )
}


class DuelRig(Rig):
    """The bench with one contender on it (`peer` None = Renvoi) for one case.

    Every call of a rig comes from a number that has not called before."""

    def __init__(
        self,
        subject: Subject,
        peer: Peer | None,
        case: Case,
        *,
        cores: tuple[int, int],
        start_s: float = 15.0,
    ) -> None:
        super().__init__(subject, cores=cores, phone=case.phone, start_s=start_s)
        self.peer = peer
        self.case = case
        self.placed = 0  # calls so far
        self._files = 0

    def called_by(self, index: int) -> str:
        """The called number of call number `index` of the rig: each line in turn."""
        return called(index % LINES)

    def numbers(self, calls: int) -> str:
        """See Rig."""
        rows = ["SEQUENTIAL"]
        rows += [
            f"{self.called_by(index)};+3314{index:07d};{nobody(index % LINES)}"
            for index in range(self.placed, self.placed + calls)
        ]
        self.placed += calls
        self._files += 1
        name = f"numbers-{self._files}.csv"
        (self.directory / name).write_text("\n".join(rows) + "\n")
        return name

    def write_line(self, batch: redis.client.Pipeline, number: str) -> None:
        """Renvoi's document and registration, or the flat hash of the peers."""
        if self.peer is None:
            targets = {
                condition: {"kind": "voicemail", "number": number}
                if target == "voicemail"
                else {"kind": "number", "number": target}
                for condition, target in self.case.forwards.items()
            }
            batch.set(
                line_key(number), document(number, self.max_calls, after_s=AFTER_S, **targets)
            )
            phone = f"sip:phone@{HOST}:{self.phone_port}"
            batch.zadd(registrations_key(number), {phone: time.time() + 86400})
            return
        fields = {
            condition: f"sip:{number if target == 'voicemail' else target}"
            f"@{HOST}:{self.voicemail_port}"
            for condition, target in self.case.forwards.items()
        }
        fields |= {"fleet": "bench", "after_ms": str(AFTER_S * 1000)}
        fields |= {"contact": f"sip:phone@{HOST}:{self.phone_port}"}
        batch.hset(f"rules:{number}", items=[part for pair in fields.items() for part in pair])

    def start_engine(self) -> None:
        """See Rig; a peer is ready when it answers OPTIONS."""
        if self.peer is None:
            super().start_engine()
            return
        argv = self.peer.argv(self)
        self.engine = self.start(argv, self.engine_core, self.peer.environment())
        self.wait_until_ready(self.engine, self.peer.name, self._answers)

    def metrics(self) -> Samples:
        """See Rig; the peers have no comparable metrics."""
        return super().metrics() if self.peer is None else {}

    def memory_bytes(self) -> int:
        """Resident memory of the contender's processes, shared pages once."""
        return pss_bytes(self.engine_pids())

    def _answers(self) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((HOST, 0))
            probe.settimeout(0.3)
            host, port = probe.getsockname()
            request = (
                f"OPTIONS sip:{HOST}:{self.sip_port} SIP/2.0\r\n"
                f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{port}\r\nMax-Forwards: 70\r\n"
                f"From: <sip:bench@{HOST}>;tag=1\r\nTo: <sip:{HOST}:{self.sip_port}>\r\n"
                f"Call-ID: ready-{port}\r\nCSeq: 1 OPTIONS\r\nContact: <sip:{host}:{port}>\r\n"
                "Content-Length: 0\r\n\r\n"
            )
            try:
                probe.sendto(request.encode(), (HOST, self.sip_port))
                return probe.recv(4096).startswith(b"SIP/2.0 ")
            except OSError:
                return False

    def close(self) -> None:
        """See Rig; the peers stop at SIGTERM."""
        if self.peer is not None and self.engine is not None:
            self.engine.stop(signal.SIGTERM, 3.0)
        super().close()


def kamailio() -> str:
    """The program. Raises BenchmarkError without it."""
    found = shutil.which("kamailio", path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    if found is None:
        raise BenchmarkError(
            "kamailio: not found (Debian packages kamailio kamailio-redis-modules)"
        )
    return found


def sippy_python() -> Path:
    """The interpreter of Sippy's virtual environment, made in the user's cache on first use.

    Raises BenchmarkError when it cannot be made."""
    wanted = _HERE / "requirements.txt"
    version = ".".join(str(part) for part in sys.version_info[:2])
    digest = hashlib.sha256(wanted.read_bytes() + version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "renvoi" / f"sippy-{digest}"
    python = place / "bin" / "python"
    if (place / ".installed").exists():
        return python
    report(f"sippy: installing into {place} ...")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(wanted)]
    for command in ([sys.executable, "-m", "venv", "--clear", str(place)], pip):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"sippy: not installed: {done.stderr.strip()[-400:]}")
    (place / ".installed").touch()
    return python
