"""What an idle engine costs: UDP only, and with TCP, TLS and idle connections."""

from __future__ import annotations

import contextlib
import socket
import statistics
import time
from collections.abc import Iterator

from benchmarks.cases import Settings
from benchmarks.figures import Result, total
from benchmarks.load import report
from benchmarks.processes import BenchmarkError, ran_s, yardstick_ms
from benchmarks.rig import HOST, Rig

CONNECTIONS = 200
_SETTLE_S = 3.0  # the work after a start is done by then
_HELLO = (
    "OPTIONS sip:bench@{host} SIP/2.0\r\nVia: SIP/2.0/TCP {host}:9;rport;branch=z9hG4bK-{n}\r\n"
    "From: <sip:bench@{host}>;tag={n}\r\nTo: <sip:bench@{host}>\r\nCall-ID: idle-{n}\r\n"
    "CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
)


def run_idle(settings: Settings) -> Iterator[Result]:
    """Two engines side by side, measured in turn (A B A B)."""
    rounds, window_s = (2, 2.0) if settings.quick else (5, 10.0)
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(Rig(settings.subject, cores=settings.cores))
        streams = stack.enter_context(Rig(settings.subject, cores=settings.cores, streams=True))
        for n in range(CONNECTIONS):
            stack.enter_context(_connection(streams.tcp_port, n))
        rigs = {
            "idle-udp": (plain, "UDP"),
            "idle-streams": (streams, f"UDP, TCP, TLS and {CONNECTIONS} idle TCP connections"),
        }
        time.sleep(_SETTLE_S)
        yardstick = yardstick_ms(plain.engine_core)
        used: dict[str, list[float]] = {name: [] for name in rigs}
        for number in range(rounds):
            for name, (rig, _) in rigs.items():
                used[name].append(_used_ms_per_s(rig, window_s))
                report(f"{name} {number + 1}/{rounds}: {used[name][-1]:.1f} ms/s")
        standing = total(streams.metrics(), "renvoi_connections")
        if standing != CONNECTIONS:
            raise BenchmarkError(f"idle: {standing:.0f} of {CONNECTIONS} connections stand")
    for name, (_, what) in rigs.items():
        yield _result(name, what, used[name], window_s, yardstick)


def _connection(port: int, n: int) -> socket.socket:
    """A connection that has sent one message, as a phone has: a silent one would be closed."""
    made = socket.create_connection((HOST, port), timeout=10)
    made.sendall(_HELLO.format(host=HOST, n=n).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        received = made.recv(4096)
        if not received:
            raise BenchmarkError(f"idle: connection {n} was closed")
        answer += received
    return made


def _used_ms_per_s(rig: Rig, window_s: float) -> float:
    """CPU ms that the engine uses in a second, over a window."""
    start_s, before_s = time.monotonic(), ran_s(rig.engine_pids())
    time.sleep(window_s)
    return 1000 * (ran_s(rig.engine_pids()) - before_s) / (time.monotonic() - start_s)


def _result(name: str, what: str, used: list[float], window_s: float, yardstick: float) -> Result:
    low, middle, high = min(used), statistics.median(used), max(used)
    return Result(
        bench=name,
        command="python -m benchmarks idle",
        seconds=window_s * len(used),
        idle_share=middle / 1000,
        yardstick_ms=yardstick,
        remark=f"{what}: {low:.1f} / {middle:.1f} / {high:.1f} ms of CPU a second (min/median/max)",
        more={"idle_ms_per_s": [round(value, 2) for value in used], "window_s": window_s},
    )
