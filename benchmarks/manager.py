"""The customer's page and the API on a fleet of 10,000 lines: how fast they are, and how they
affect calls. One engine under steady load, windows with and without customers in turn (A B A B).
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlencode

import msgspec
import redis

from benchmarks.cases import STEADY, Settings, settle
from benchmarks.figures import Result, percentile
from benchmarks.load import Plan, Run, report
from benchmarks.processes import BenchmarkError, Child, free_port, rss_bytes, yardstick_ms
from benchmarks.rig import HOST, LINES, Rig
from benchmarks.scrape import Window, assign, new_callers, ratios, summary
from benchmarks.wire import Wire
from manager import accounts, tokens
from store.keys import ACCOUNT, TOKEN, line_key

FLEET_LINES = 10_000
CUSTOMERS = 4  # at once, each with its own connection, without a pause
NAMES = {False: "manager-none", True: "manager-load"}
_START_S = 60.0
_PASSWORD = "a password of the bench"


def other_line(index: int) -> str:
    """A line of the fleet that no call of the bench calls."""
    return f"+339725{index:05d}"


@dataclass
class Customers:
    """What they do, and how long each kind of request takes, in milliseconds."""

    port: int
    token: str
    cookie: str = ""
    taken_ms: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    busy: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def log_in(self) -> None:
        """One session for all."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        connection.request("GET", "/login")
        answer = connection.getresponse()
        cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
        token = re.search(r'name="csrf" value="([^"]+)"', answer.read().decode())
        fields = {"csrf": token[1] if token else "", "account": "bench", "password": _PASSWORD}
        headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/login", urlencode(fields), headers)
        answer = connection.getresponse()
        answer.read()
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie" and "renvoi_session" in value:
                self.cookie = value.partition(";")[0]
        connection.close()
        if not self.cookie:
            raise BenchmarkError(f"manager: the log-in gave {answer.status}")

    def run(self, seed: int) -> None:
        """One customer: sends requests while `busy` is set, until `over`."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        for turn in itertools.count(seed * 1000):
            while not self.busy.wait(0.05):
                if self.over.is_set():
                    connection.close()
                    return
            if self.over.is_set():
                connection.close()
                return
            self._do(connection, turn)

    def _do(self, connection: http.client.HTTPConnection, turn: int) -> None:
        line = other_line(turn * 37 % (FLEET_LINES - LINES))
        path = line.replace("+", "%2B")
        forward = {"on": turn % 2 == 0, "to": {"kind": "voicemail", "number": line}}
        kind, method, url, body = (
            ("page: lines", "GET", "/lines", None),
            ("page: search", "GET", f"/lines?q=bureau+{turn % 997}&part=list", None),
            ("page: line", "GET", f"/lines/{path}", None),
            ("page: forwards", "GET", f"/lines/{path}/forwards", None),
            ("api: lines", "GET", "/api/v1/lines?limit=50", None),
            ("api: forwards", "GET", f"/api/v1/lines/{path}/forwards", None),
            ("api: explain", "GET", f"/api/v1/lines/{path}/explain", None),
            ("api: put", "PUT", f"/api/v1/lines/{path}/forwards/busy", json.dumps(forward)),
        )[turn % 8]
        headers = {"Cookie": self.cookie, "Authorization": f"Bearer {self.token}"}
        begun = time.perf_counter()
        connection.request(method, url, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        self.taken_ms.setdefault(kind, []).append((time.perf_counter() - begun) * 1000)
        if answer.status != 200:
            self.wrong.append(f"{kind}: {answer.status} {text[:200]!r}")


def run_manager(settings: Settings) -> Iterator[Result]:
    """Windows in turn, in one run of one SIPp; calls belong to the window of their INVITE."""
    rounds, window_s = (2, 3.0) if settings.quick else (10, 5.0)
    bench = STEADY[1]
    with Rig(settings.subject, cores=settings.cores) as rig:
        _write_fleet(rig)
        port, token, child = _start_manager(rig)
        try:
            customers = Customers(port, token)
            customers.log_in()
            rest = settle(rig, bench, settings)
            rate = settings.rate or min(
                300.0, max(10.0, round(0.3 / max(rest.warm_cpu_s, 1e-4), -1))
            )
            plan = Plan(rate=rate, calls=round(rate * (2 * rounds * (window_s + 0.5) + 4)))
            yardstick = yardstick_ms(rig.engine_core)
            windows = _measure(rig, plan, customers, rounds, window_s)
            memory = rss_bytes([child.pid])
        finally:
            child.stop(first=signal.SIGTERM, patience_s=10)
    if customers.wrong:
        raise BenchmarkError(f"manager: {len(customers.wrong)} wrong, {customers.wrong[0]}")
    for loaded, name in NAMES.items():
        command = f"python -m benchmarks manager --rate {rate:g}"
        result = summary(name, command, rate, windows, loaded)
        result.yardstick_ms = yardstick
        if loaded:
            _summarise(result, windows, customers, memory)
        yield result


def _measure(
    rig: Rig, plan: Plan, customers: Customers, rounds: int, window_s: float
) -> list[Window]:
    people = [threading.Thread(target=customers.run, args=(n,)) for n in range(CUSTOMERS)]
    for person in people:
        person.start()
    windows: list[Window] = []
    turns = threading.Thread(target=_take_turns, args=(customers, rounds, window_s, windows))
    with Wire(rig.sip_port) as wire:
        running = Run(rig, plan, "manager", numbers=new_callers(rig, plan.calls))
        turns.start()
        try:
            while running.step() and turns.is_alive():
                pass
            turns.join()
        finally:
            customers.over.set()
            customers.busy.set()
            for person in people:
                person.join()
            running.finish()
    if len(windows) < 2 * rounds:
        raise BenchmarkError(f"manager: only {len(windows)} of {2 * rounds} windows")
    assign(windows, running.log, wire.calls.values())
    return windows


def _take_turns(customers: Customers, rounds: int, window_s: float, windows: list[Window]) -> None:
    time.sleep(2.0)  # until the load is steady
    for turn in range(2 * rounds):
        loaded = turn % 2 == 1
        if loaded:
            customers.busy.set()
        time.sleep(0.3)
        window = Window(loaded, time.time())
        time.sleep(window_s)
        window.end = time.time()
        customers.busy.clear()
        time.sleep(0.2)
        windows.append(window)
        report(f"{NAMES[loaded]} {turn // 2 + 1}/{rounds}")


def _summarise(result: Result, windows: list[Window], customers: Customers, memory: int) -> None:
    """The effect on calls, and how long the customers waited."""
    text, figures = ratios(windows)
    waits = {kind: sorted(taken) for kind, taken in sorted(customers.taken_ms.items())}
    per_s = sum(map(len, waits.values())) / result.seconds
    shown = ", ".join(
        f"{kind} {percentile(taken, 0.5):.0f} / {percentile(taken, 0.99):.0f}"
        for kind, taken in waits.items()
    )
    result.remark = (
        f"{text}; {per_s:.0f} requests/s of {CUSTOMERS} customers on {FLEET_LINES} lines, "
        f"{memory / 2**20:.0f} MiB; ms p50 / p99: {shown}"
    )
    result.more = figures | {
        "requests_per_s": round(per_s, 1),
        "rss_mib": round(memory / 2**20, 1),
        "ms": {
            kind: [len(taken), percentile(taken, 0.5), percentile(taken, 0.99)]
            for kind, taken in waits.items()
        },
    }


def _write_fleet(rig: Rig) -> None:
    """Write the rest of the fleet; the rig has written its first lines."""
    with redis.Redis(host=HOST, port=rig.redis_port) as client, client.pipeline() as batch:
        for index in range(FLEET_LINES - LINES):
            number = other_line(index)
            document = {"number": number, "fleet": "bench", "label": f"Bureau {index}"}
            batch.set(line_key(number), json.dumps(document))
        batch.execute()


def _start_manager(rig: Rig) -> tuple[int, str, Child]:
    """The manager on the load's core: its port, a token, its process."""
    port = free_port(socket.SOCK_STREAM)
    token, text = tokens.make("bench", "bench")
    account = accounts.make("bench", "bench", _PASSWORD)
    with redis.Redis(host=HOST, port=rig.redis_port) as client:
        client.set(TOKEN + token.id, msgspec.json.encode(token))
        client.set(ACCOUNT + account.name, msgspec.json.encode(account))
    config = {
        "redis": {"url": f"redis://{HOST}:{rig.redis_port}/0"},
        "manager": {"listen": f"{HOST}:{port}", "admin_listen": f"{HOST}:0"},
    }
    path = rig.directory / "manager.yaml"
    path.write_text(json.dumps(config))
    argv = [sys.executable, "-m", "engine.cli", "manager", "--config", str(path)]
    child = Child(
        argv,
        core=rig.load_core,
        log=rig.directory / "manager.log",
        cwd=rig.directory,
        env=rig.subject.environment(),
    )
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return port, text, child
        except OSError:
            if child.status() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"the manager is not up: {child.last_lines()}") from None
            time.sleep(0.05)
