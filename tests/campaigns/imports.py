"""An import of many lines beside an engine that takes calls: duration, memory, effect on others.

`python -m tests.campaigns.imports [--lines 1000000] [--form jsonl|csv]`. With the command itself,
on a real Redis: all lines new; then all of them changed, killed (SIGKILL) while Redis holds half of
the transaction, after which every line must be unchanged; then the same import to its end.
Meanwhile known lines are called, and no call may wait for Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from engine.changes.line_file import FORMATS, write_rows
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.processes import ROOT, Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES

KNOWN = 20  # lines that are called
FLEET = 50  # lines of a fleet
CALLS_A_SECOND = 20
ANSWER_S = 0.5  # the longest time until a call of a known line is answered, on a busy machine
SAMPLE = 2_000
GIVE_UP_S = 1_200.0


class Wrong(AssertionError):
    """A requirement was not met."""


def number(n: int) -> str:
    return f"+3397{n:07d}"


def document(n: int, label: str) -> dict[str, Any]:
    """A typical line; the phones of those that are called are always busy."""
    mobile = {"kind": "number", "number": f"+336{n % 100_000_000:08d}"}
    box = {"kind": "voicemail", "number": number(n // FLEET * FLEET)}
    return {
        "number": number(n),
        "fleet": f"fleet{n // FLEET}",
        "label": label,
        "max_calls": None if n < KNOWN else 2,
        "offer": {"fax": n % 10 == 0, "mobile": "hours", "mobile_hours": 2},
        "forwards": {
            "busy": {"on": n >= KNOWN, "to": mobile},
            "no_answer": {"on": True, "after_s": 20, "to": {"kind": "voicemail"}},
            "unreachable": {"on": n % 2 == 0, "to": box},
        },
    }


@dataclass
class Witness:
    """The effect of an import on others: another client of Redis, and callers of known lines. Times
    in seconds."""

    redis_s: float = 0.0
    answers_s: list[float] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    @contextmanager
    def on_redis(self, server: RedisServer) -> Iterator[None]:
        over = threading.Event()

        def ask() -> None:
            while not over.wait(0.001):
                begun = time.monotonic()
                server.client.ping()
                self.redis_s = max(self.redis_s, time.monotonic() - begun)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            yield
        finally:
            over.set()
            asking.join()

    async def call(self, engine: Engine, caller: Endpoint) -> None:
        dice = random.Random(1)
        while True:
            begun = time.monotonic()
            call = caller.start(engine.address, number(dice.randrange(KNOWN)), body=OFFER_BYTES)
            answer = await call.final()
            self.answers_s.append(time.monotonic() - begun)
            if answer.code != 486:
                self.odd.append(f"{answer.code} after {self.answers_s[-1]:.3f} s")
            await asyncio.sleep(max(0.0, 1 / CALLS_A_SECOND - self.answers_s[-1]))


@dataclass(frozen=True)
class Ended:
    """How the command ended: its output, seconds, and the most memory it had, in MB."""

    status: int
    output: str
    seconds: float
    peak_mb: float


def start(
    file: Path, server: RedisServer, output: IO[bytes], errors: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "engine.cli", "line", "import", str(file), "--json"],
        cwd=ROOT,
        env={**os.environ, "RENVOI_REDIS_URL": server.url},
        stdout=output,
        stderr=errors,
    )


def resources(child: subprocess.Popen[bytes]) -> resource.struct_rusage | None:
    """The resources that an ended command has used; None while it runs."""
    pid, status, used = os.wait4(child.pid, os.WNOHANG)
    if not pid:
        return None
    child.returncode = os.waitstatus_to_exitcode(status)
    return used


async def carry_out(
    file: Path, server: RedisServer, end: Callable[[], bool] = lambda: False
) -> Ended:
    """`renvoi line import FILE`; SIGKILL as soon as `end` says so."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = start(file, server, output, errors)
        while (used := resources(child)) is None:
            if end():
                os.kill(child.pid, signal.SIGKILL)  # Popen.kill would lose its resources
            if time.monotonic() - begun > GIVE_UP_S:
                os.kill(child.pid, signal.SIGKILL)
                raise Wrong(f"the import takes longer than {GIVE_UP_S:.0f} s")
            await asyncio.sleep(0.002)
        shown = errors if child.returncode else output
        shown.seek(0)
        text = shown.read().decode()
    return Ended(child.returncode, text, time.monotonic() - begun, used.ru_maxrss / 1024)


def labels(server: RedisServer, lines: int) -> set[str]:
    """The labels of some lines, read in one step."""
    some = random.Random(2).sample(range(lines), min(SAMPLE, lines))
    stored: Any = server.client.mget([f"line:{number(n)}" for n in some])
    return {json.loads(raw)["label"] if raw else "none" for raw in stored}


def is_sending(server: RedisServer, lines: int) -> bool:
    """Whether Redis has part of a transaction; half of it, if it is a long one."""
    held: Any = server.client.client_list()
    return any(int(client["multi"]) >= min(lines // 2000, 200) for client in held)


async def killed(server: RedisServer, lines: int, before: Path, file: Path) -> str:
    """An import that SIGKILL ends during its transaction; returns the result. A small import may
    end before the kill: then it is repeated."""
    for _ in range(5):
        ended = await carry_out(file, server, lambda: is_sending(server, lines))
        if ended.status == -signal.SIGKILL:
            if found := labels(server, lines) - {before.stem}:
                raise Wrong(f"an import that was killed left {found}")
            return f"killed after {ended.seconds:.1f} s: every line is unchanged"
        await imported(server, lines, before)
    raise Wrong("was never killed in time")


async def imported(server: RedisServer, lines: int, file: Path) -> str:
    """Run an import to its end; returns its figures."""
    done = await carry_out(file, server)
    if done.status:
        raise Wrong(done.output)
    if (found := labels(server, lines)) != {file.stem}:
        raise Wrong(f"after the import of {file.name}: {found}")
    sums = json.loads(done.output)
    if not sums["in_force"]["complete"]:
        raise Wrong(f"not in force: {sums}")
    return (
        f"{lines:,} lines of {file.suffix[1:]}, {'all new' if sums['added'] else 'all changed'}: "
        f"{done.seconds:.1f} s, at most {done.peak_mb:.0f} MB, "
        f"switch-over {1000 * sums['redis_busy_s']:.0f} ms, "
        f"in force after {sums['in_force']['ms']:.0f} ms"
    )


async def campaign(lines: int, form: str, directory: Path, answer_s: float) -> str:
    server = RedisServer(directory)
    server.start()
    engine = Engine(directory, server.url)
    witness, tasks = Witness(), list[asyncio.Task[None]]()
    phone, caller = await Endpoint.open(), await Endpoint.open()
    one, two = files = [directory / f"{label}.{form}" for label in ("one", "two")]
    try:
        for file in files:
            with file.open("wb") as out:
                rows = (orjson.dumps(document(n, file.stem)) for n in range(lines))
                write_rows(rows, form, out.write)
        engine.start()
        for n in range(KNOWN):
            server.client.set(f"line:{number(n)}", orjson.dumps(document(n, "zero")))
            server.client.zadd(f"reg:{number(n)}", {phone.uri(): time.time() + 3 * GIVE_UP_S})
        tasks += [
            asyncio.create_task(refuse(phone)),
            asyncio.create_task(witness.call(engine, caller)),
        ]
        await asyncio.sleep(1.0)  # now the lines are known
        with witness.on_redis(server):
            results = [await imported(server, lines, one)]
            results.append(await killed(server, lines, one, two))
            results.append(await imported(server, lines, two))
        if server.client.xlen("audit:") < 2:
            raise Wrong("the log of changes does not have both imports")
        await asyncio.sleep(0.2)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for endpoint in (phone, caller):
            endpoint.close()
        engine.stop()
        server.stop()
    worst_s = max(witness.answers_s)
    results.append(
        f"longest wait of another client of Redis {1000 * witness.redis_s:.0f} ms; "
        f"{len(witness.answers_s):,} calls of known lines, the slowest answered after "
        f"{1000 * worst_s:.0f} ms"
    )
    if witness.odd or worst_s > answer_s:
        raise Wrong("\n".join([*results, f"calls of known lines: {witness.odd[:10]}"]))
    return "\n".join(results)


async def refuse(phone: Endpoint) -> None:
    """A phone that is busy."""
    while True:
        (await phone.incoming(wait_s=GIVE_UP_S)).respond(486)


def run(lines: int, form: str, answer_s: float = ANSWER_S) -> str:
    """Run the campaign; returns the figures. Raises Wrong, also when a call of a known line is
    answered later than after `answer_s`."""
    with tempfile.TemporaryDirectory(prefix="imports-") as name:
        return asyncio.run(campaign(lines, form, Path(name), answer_s))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--form", choices=FORMATS, default="jsonl")
    options = parser.parse_args()
    try:
        print(run(options.lines, options.form))
    except Wrong as wrong:
        print(f"imports: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
