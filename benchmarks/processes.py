"""The processes of a benchmark and the kernel's figures of them: CPU, memory, dropped packets."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from engine.embedded_redis import EmbeddedRedisError
from engine.embedded_redis import program as embedded

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class BenchmarkError(Exception):
    """A benchmark cannot go on; the text says which part failed and how."""


class Child:
    """A child process in its own process group, with its output in a file."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        core: int,
        log: Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start `argv` pinned to `core`; standard output and errors are appended to `log`."""
        self.name = Path(argv[0]).name
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if env is None else dict(env),
                start_new_session=True,
            )
        self.pid = self._process.pid  # taskset replaces itself: same pid

    def status(self) -> int | None:
        """Exit status, or None while the process runs."""
        return self._process.poll()

    def stop(self, first: signal.Signals, patience_s: float) -> int:
        """Send `first`, then SIGKILL to the group if the process still runs after `patience_s`."""
        if self._process.poll() is None:
            self._process.send_signal(first)
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    def wait(self, patience_s: float) -> int | None:
        """Exit status, or None if the process still runs after `patience_s`."""
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return None

    def last_lines(self, count: int = 8) -> str:
        """The end of what the process printed, for an error message."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])
        except OSError:
            return ""


def redis_server() -> str:
    """The system's redis-server, else the embedded one."""
    try:
        return shutil.which("redis-server") or embedded()
    except EmbeddedRedisError as error:
        raise BenchmarkError(f"redis-server: not found, and {error}") from None


def tree(pid: int) -> list[int]:
    """`pid` and all its living descendants."""
    found = [pid]
    for member in found:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue  # the thread ended between the two reads
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of `pids` since they started, in seconds (resolution 1/SC_CLK_TCK)."""
    ticks = 0
    for pid in pids:
        try:
            # The command name may contain spaces; the fields of proc(5) are counted from after it.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_S


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of `pids`; pages they share count once for each."""
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * _PAGE_BYTES


def pss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of `pids`; pages they share count once for all."""
    kib = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        kib += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return kib * 1024


def ran_s(pids: Iterable[int]) -> float:
    """Seconds the threads of `pids` had a core (Linux schedstat): as `cpu_s`, to the nanosecond,
    but without the threads that have ended."""
    return sum(ran for ran, _ in _scheduled_s(pids).values())


def _scheduled_s(pids: Iterable[int]) -> dict[str, tuple[float, float]]:
    """Seconds each thread of `pids` had a core, and was ready to run without one (Linux
    schedstat)."""
    found: dict[str, tuple[float, float]] = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                ran_ns, waited_ns, _ = task.read_text().split()
            except OSError:
                continue
            found[str(task)] = int(ran_ns) / 1e9, int(waited_ns) / 1e9
    return found


def waited_for_strangers_s(threads: Sequence[tuple[float, float]]) -> float:
    """Seconds that threads waited at least for others than each other, from the seconds that each
    ran and waited: one may have waited for the rest, at most as long as these ran."""
    all_ran_s = sum(ran_s for ran_s, _ in threads)
    return max((0.0, *(waited_s - (all_ran_s - ran_s) for ran_s, waited_s in threads)))


def udp_drops(ports: Iterable[int]) -> int:
    """Datagrams the kernel threw away on the IPv4 sockets of `ports` since they were opened."""
    wanted = {f"{port:04X}" for port in ports}
    drops = 0
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].rpartition(":")[2] in wanted:
            drops += int(fields[-1])
    return drops


def free_port(
    kind: socket.SocketKind = socket.SOCK_DGRAM, host: str = "127.0.0.1", several: int = 1
) -> int:
    """The first of several consecutive free ports, outside the range of outgoing connections."""
    for _ in range(200):
        port = 10_000 + int.from_bytes(os.urandom(2), "big") % 20_000
        try:
            for number in range(port, port + several):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind((host, number))
        except OSError:
            continue
        return port
    raise BenchmarkError(f"no free port on {host}")


def take_cores() -> tuple[int, int]:
    """(core of the engine, core of everything else); this process moves to the second.

    With one core both are the same, and engine and load compete for it.
    """
    cores = sorted(os.sched_getaffinity(0))
    engine, load = cores[0], cores[1 % len(cores)]
    os.sched_setaffinity(0, {load})
    return engine, load


def raise_descriptor_limit() -> None:
    """Raise the limit of file descriptors to the maximum for this user."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class CpuMeter:
    """CPU seconds of a process tree since the meter was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._start_s = self._now_s()
        self.started = time.monotonic()
        self._scheduled_s = _scheduled_s(tree(pid))

    def _now_s(self) -> float:
        return cpu_s(tree(self._pid))

    def waited_s(self) -> float:
        """Seconds up to now in which the tree was ready to run and another program had its core."""
        threads = []
        for task, (ran_s, waited_s) in _scheduled_s(tree(self._pid)).items():
            ran_before_s, waited_before_s = self._scheduled_s.get(task, (0.0, 0.0))
            threads.append((ran_s - ran_before_s, waited_s - waited_before_s))
        return waited_for_strangers_s(threads)

    def used_s(self) -> float:
        """CPU seconds used up to now."""
        return self._now_s() - self._start_s

    def elapsed_s(self) -> float:
        """Wall-clock seconds up to now."""
        return time.monotonic() - self.started


def yardstick_ms(core: int) -> float:
    """Time of a fixed piece of work on `core`: half interpreter, half loopback datagrams.

    It shows how fast the machine is at that moment: only compare runs with similar values.
    """
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            other.bind(("127.0.0.1", 0))
            one.connect(other.getsockname())
            datagram = b"x" * 700
            start_s = time.perf_counter()
            count = 0
            for number in range(200_000):
                count += number & 3
            for _ in range(2_000):
                one.send(datagram)
                other.recv(2048)
            return (time.perf_counter() - start_s) * 1000
    finally:
        os.sched_setaffinity(0, mine)
