"""Dashboard and alerts against a real Prometheus that scrapes a real engine under SIPp traffic:
`python -m tests.campaigns.alerts [--pictures DIRECTORY]`.

Every query of the dashboard must return data and every rule must evaluate. Then faults are staged,
one after the other: the alert fires, and clears when the fault is gone. Windows are shorter than in
deploy/prometheus (see `tests.campaigns.prometheus`); the lags of 45 and 60 s are the real ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaigns.prometheus import Numbers, Prometheus, hurried
from tests.scenarios import script
from tests.scenarios.processes import ROOT, Engine, RedisServer
from tests.scenarios.sipp import HOST, Sipp

DASHBOARD = ROOT / "deploy" / "grafana" / "renvoi.json"
STRANGER = "127.0.0.2"
SETTINGS: dict[str, dict[str, Any]] = {
    "sip": {"trusted_peers": [f"{HOST}/32"]},
    "timers": {"pre_ringing_s": 2, "max_ring_s": 8, "max_call_s": 15},
    "limits": {"calls": 100, "forwards_per_line": 8, "wait_s": 0},
}
MOBILE, NOBODY, FAX = "+33612345678", "+33972139999", "+33972130099"
# Business hours are all hours here, and sums of money are small.
NUMBERS: Numbers = {
    "RenvoiNoTraffic": (
        "and on () (day_of_week() > 0 < 6) and on () (hour() >= 8 < 16)", ""
    ),
    "RenvoiOutOfPlan": ("> 3600", "> 150"),
    "RenvoiRecordsWait": ("> 1000", "> 5"),
    "RenvoiRulesStale": ("> 900", "> 30"),
}  # fmt: skip


class Wrong(AssertionError):
    """A panel without data, a rule that does not evaluate, an alert that is silent or does not end.
    """


@dataclass(frozen=True)
class Flow:
    """Calls of one kind: the called line, what its phone plays ("" = none is registered), and what
    the caller plays."""

    number: str
    phone: str
    caller: Callable[[str, str], str]
    rate: float
    forwards: dict[str, dict[str, Any]]
    offer: dict[str, Any]


def _answered(called: str, caller: str) -> str:
    return script.answered_call(called, caller, talk_s=1.0)


def _to(kind: str, number: str, **more: Any) -> dict[str, Any]:
    return {"on": True, "to": {"kind": kind, "number": number}, **more}


def flows() -> list[Flow]:
    """What a day looks like: most calls are answered, some forwarded, some refused."""
    number = [f"+3397213{place:04d}" for place in range(10)]
    unlimited: dict[str, Any] = {"mobile": "unlimited"}
    return [
        Flow(number[0], "answers", _answered, 3, {}, {}),
        Flow(number[1], "busy", _answered, 1, {"busy": _to("voicemail", number[1])}, {}),
        Flow(number[2], "rings", _answered, 0.5,
             {"no_answer": _to("voicemail", number[2], after_s=5)}, {}),
        Flow(number[3], "", _answered, 1, {"unreachable": _to("number", MOBILE)}, unlimited),
        Flow(number[4], "", _answered, 0.5, {"unreachable": _to("number", MOBILE)},
             {"mobile": "hours", "mobile_hours": 100}),
        Flow(number[5], "answers", _answered, 0.5, {"unconditional": _to("fax", FAX)}, {}),
        Flow(number[6], "busy", lambda a, b: script.refused_call(a, b, 486), 0.5, {}, {}),
        Flow(number[7], "rings", lambda a, b: script.cancelled_call(a, b, after=180), 0.3, {}, {}),
    ]  # fmt: skip


class Scene:
    """Redis, engine, Prometheus, phones, destinations and callers."""

    def __init__(self, directory: Path, factor: float, numbers: Numbers) -> None:
        self._directory = directory
        self.server = RedisServer(directory)
        self.engine = Engine(directory, self.server.url, SETTINGS)
        self.prometheus = Prometheus(directory, [self.engine.admin], factor, numbers)
        self.factor = factor
        self.flows = flows()
        self._phones: dict[str, Sipp] = {}
        self._callers: list[Sipp] = []
        self._targets: dict[str, Sipp] = {}

    async def start(self) -> None:
        """Everything runs, and nobody calls yet."""
        self.server.start()
        for name, play in {
            "answers": script.answering_phone(rings_s=0.2),
            "busy": script.refusing_phone("486 Busy Here"),
            "rings": script.cancelled_phone(),
        }.items():
            self._phones[name] = await self.sipp(play)
        for kind in self.engine.ports:
            await self.target(kind, script.answering_phone(rings_s=0.1))
        self.write_line(FAX, offer={"fax": True})
        for flow in self.flows:
            self.write_line(flow.number, forwards=flow.forwards, offer=flow.offer)
        self.register()
        self.engine.start()
        self.prometheus.start()

    async def stop(self) -> None:
        """End everything."""
        self.prometheus.stop()
        for sipp in (*self._callers, *self._phones.values(), *self._targets.values()):
            await sipp.stop()
        self.server.resume()
        self.engine.stop()
        self.server.stop()

    def write_line(self, number: str, **fields: Any) -> None:
        """A line of the fleet."""
        document = {"number": number, "fleet": "acme", **fields}
        self.server.client.set(f"line:{number}", json.dumps(document))

    def register(self) -> None:
        """Every phone is where it belongs, for an hour."""
        for flow in self.flows:
            if flow.phone:
                uri = f"sip:phone@{HOST}:{self._phones[flow.phone].port}"
                self.server.client.zadd(f"reg:{flow.number}", {uri: time.time() + 3600})

    async def sipp(self, play: str, **options: Any) -> Sipp:
        """A SIPp that goes on until it is stopped."""
        settings: dict[str, Any] = {"calls": 1_000_000, "limit_s": 3600, "trace": False}
        return await Sipp(self._directory, play, self.engine.peer).start(**(settings | options))

    async def target(self, kind: str, play: str) -> None:
        """The server of a destination, in the place of the one before."""
        if kind in self._targets:
            await self._targets[kind].stop()
        self._targets[kind] = await self.sipp(play, port=self.engine.ports[kind])

    async def call(self) -> None:
        """The usual traffic begins."""
        for place, flow in enumerate(self.flows):
            play = flow.caller(flow.number, f"+3314000{place:04d}")
            self._callers.append(await self.sipp(play, rate=flow.rate))

    async def be_silent(self) -> None:
        """Nobody calls any more."""
        for caller in self._callers:
            await caller.stop()
        self._callers.clear()

    @asynccontextmanager
    async def more(self, play: str, rate: float, **options: Any) -> AsyncIterator[None]:
        """More calls, of one kind."""
        sipp = await self.sipp(play, rate=rate, **options)
        try:
            yield
        finally:
            await sipp.stop()


# -- faults ----------------------------------------------------------------------------------------


Fault = Callable[[Scene], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def redis_hangs(scene: Scene) -> AsyncIterator[None]:
    """Redis stops without closing a connection."""
    scene.server.pause()
    try:
        yield
    finally:
        scene.server.resume()


@asynccontextmanager
async def redis_takes_no_writes(scene: Scene) -> AsyncIterator[None]:
    """Redis answers and refuses every write."""
    scene.server.client.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        scene.server.client.config_set("min-replicas-to-write", 0)


@asynccontextmanager
async def bad_document(scene: Scene) -> AsyncIterator[None]:
    """Somebody writes nonsense for a line that is called."""
    scene.server.client.set(f"line:{scene.flows[0].number}", '{"number": 7}')
    try:
        yield
    finally:
        scene.write_line(scene.flows[0].number)


@asynccontextmanager
async def registrations_gone(scene: Scene) -> AsyncIterator[None]:
    """All phones are gone at once."""
    scene.server.client.delete(*(f"reg:{flow.number}" for flow in scene.flows))
    try:
        yield
    finally:
        scene.register()


@asynccontextmanager
async def numbers_gone(scene: Scene) -> AsyncIterator[None]:
    """Many calls to numbers that are no lines: an import that went wrong."""
    async with scene.more(script.refused_call(NOBODY, "+33140009001", 404), rate=40):
        yield


@asynccontextmanager
async def forwards_pile_up(scene: Scene) -> AsyncIterator[None]:
    """One line is made to forward many calls at once."""
    number = "+33972130050"
    scene.write_line(number, forwards={"unreachable": _to("number", "+33186000001")})
    play = script.answered_call(number, "+33140009002", talk_s=4.0)
    async with scene.more(play, rate=6):
        yield


@asynccontextmanager
async def out_of_plan(scene: Scene) -> AsyncIterator[None]:
    """Many calls out of plan: fraud by a forward."""
    lines = [f"+3397213006{place}" for place in range(5)]
    forwards = {"unreachable": _to("number", MOBILE)}
    async with AsyncExitStack() as stack:
        for line in lines:
            scene.write_line(line, forwards=forwards, offer={"mobile": "unlimited"})
            play = script.answered_call(line, "+33140009003", talk_s=2.0)
            await stack.enter_async_context(scene.more(play, rate=3))
        yield


@asynccontextmanager
async def crowd(scene: Scene) -> AsyncIterator[None]:
    """More calls at once than `limits.calls`."""
    number = scene.flows[0].number
    async with scene.more(script.answered_call(number, "+33140009004", talk_s=6.0), rate=25):
        yield


@asynccontextmanager
async def voicemail_fails(scene: Scene) -> AsyncIterator[None]:
    """The voicemail refuses every call."""
    await scene.target("voicemail", script.refusing_phone("503 Service Unavailable"))
    try:
        yield
    finally:
        await scene.target("voicemail", script.answering_phone(rings_s=0.1))


@asynccontextmanager
async def strangers(scene: Scene) -> AsyncIterator[None]:
    """Somebody who is not trusted tries many calls."""
    play = script.refused_call(scene.flows[0].number, "+33140009005", 403)
    async with scene.more(play, rate=40, host=STRANGER):
        yield


@asynccontextmanager
async def core_taken(scene: Scene) -> AsyncIterator[None]:
    """Something else takes the engine's core most of the time."""

    async def take() -> None:
        while True:
            scene.engine.signal(signal.SIGSTOP)
            await asyncio.sleep(0.4)
            scene.engine.signal(signal.SIGCONT)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(take())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        scene.engine.signal(signal.SIGCONT)


@asynccontextmanager
async def slow_look_ups(scene: Scene) -> AsyncIterator[None]:
    """Redis answers late, and the lines that are called are not in memory."""

    async def hold_up() -> None:
        while True:
            scene.server.client.flushdb()  # every look-up goes to Redis again
            for flow in scene.flows:
                scene.write_line(flow.number, forwards=flow.forwards, offer=flow.offer)
            scene.register()
            scene.server.client.client_pause(150, all=True)
            await asyncio.sleep(0.3)

    task = asyncio.create_task(hold_up())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def calls_cut_off(scene: Scene) -> AsyncIterator[None]:
    """Calls that last longer than `timers.max_call_s`."""
    number = scene.flows[0].number
    async with scene.more(script.answered_call(number, "+33140009006", talk_s=60.0), rate=2):
        yield


@asynccontextmanager
async def engine_gone(scene: Scene) -> AsyncIterator[None]:
    """The engine is killed, and started again later."""
    scene.engine.signal(signal.SIGKILL)
    await scene.engine.exited(5)
    yield
    scene.engine.start()


@asynccontextmanager
async def engine_restarted(scene: Scene) -> AsyncIterator[None]:
    """The engine is killed and started again at once."""
    async with engine_gone(scene):
        pass
    yield


@asynccontextmanager
async def silence(scene: Scene) -> AsyncIterator[None]:
    """Nobody calls any more."""
    await scene.be_silent()
    yield
    await scene.call()


@dataclass(frozen=True)
class Case:
    """A fault and the alerts that must fire while it is there."""

    fault: Fault
    alerts: tuple[str, ...]
    within_s: float = 60.0


CASES = (
    Case(bad_document, ("RenvoiDocumentsRefused",)),
    Case(registrations_gone, ("RenvoiMassDeregistration",)),
    Case(numbers_gone, ("RenvoiSeerBurn",), 120),
    Case(forwards_pile_up, ("RenvoiForwardLimit",)),
    Case(voicemail_fails, ("RenvoiTargetUnreachable",)),
    Case(strangers, ("RenvoiStrangers",)),
    Case(crowd, ("RenvoiNearCapacity", "RenvoiRefusingCalls")),
    Case(out_of_plan, ("RenvoiOutOfPlan",), 120),
    Case(slow_look_ups, ("RenvoiDecisionBurn",), 120),
    Case(core_taken, ("RenvoiLoopLag",)),
    Case(calls_cut_off, ("RenvoiCallsCutOff",), 90),
    Case(
        redis_hangs,
        ("RenvoiRedisDown", "RenvoiRulesLate", "RenvoiRulesTooLate", "RenvoiRecordsWait",
         "RenvoiRulesStale"),
        90,
    ),
    Case(redis_takes_no_writes, ("RenvoiRulesLate", "RenvoiRulesTooLate"), 90),
    Case(silence, ("RenvoiNoTraffic",)),
    Case(engine_gone, ("RenvoiDown",)),
    Case(engine_restarted, ("RenvoiRestarts",)),
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """What came of one alert: seconds from the fault until it fired, and from its end until it
    cleared."""

    alert: str
    fault: str
    fired_s: float
    cleared_s: float


async def until(condition: Callable[[], bool], within_s: float) -> float:
    """Seconds until it holds. Raises TimeoutError."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > within_s:
            raise TimeoutError
        await asyncio.sleep(0.25)
    return time.monotonic() - start


async def show(scene: Scene, cases: Sequence[Case], clears_s: float) -> list[Shown]:
    """Stage these faults at once; each of their alerts must fire, and clear after. Raises Wrong."""
    wanted = {alert: case for case in cases for alert in case.alerts}
    names = " + ".join(case.fault.__name__ for case in cases)
    early = scene.prometheus.firing() & set(wanted)
    if early:
        raise Wrong(f"{names}: {sorted(early)} fire before anything is wrong")
    fired: dict[str, float] = {}
    start = time.monotonic()

    def all_fired() -> bool:
        for alert in scene.prometheus.firing() & set(wanted) - set(fired):
            fired[alert] = time.monotonic() - start
        return set(fired) == set(wanted)

    async with AsyncExitStack() as stack:
        for case in cases:
            await stack.enter_async_context(case.fault(scene))
        try:
            await until(all_fired, max(case.within_s for case in cases))
        except TimeoutError:
            raise Wrong(f"{names}: {sorted(set(wanted) - set(fired))} did not fire") from None
    cleared: dict[str, float] = {}
    start = time.monotonic()

    def all_cleared() -> bool:
        for alert in set(wanted) - scene.prometheus.firing() - set(cleared):
            cleared[alert] = time.monotonic() - start
        return set(cleared) == set(wanted)

    try:
        await until(all_cleared, clears_s)
    except TimeoutError:
        raise Wrong(f"{names}: {sorted(set(wanted) - set(cleared))} did not clear") from None
    return [
        Shown(alert, case.fault.__name__, fired[alert], cleared[alert])
        for alert, case in wanted.items()
    ]


def panel_queries() -> list[tuple[str, str]]:
    """Every query of the dashboard as Grafana would send it, with the title of its panel."""
    variables = {"$job": "renvoi", "$instance": ".*", "$__rate_interval": "20s"}
    found = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in variables.items():
                expression = expression.replace(name, value)
            found.append((panel["title"], expression))
    return found


def silent_panels(prometheus: Prometheus) -> list[str]:
    """The dashboard's queries that return no number."""
    silent = []
    for title, expression in panel_queries():
        if not any(map(math.isfinite, prometheus.values(expression))):
            silent.append(f"{title}: {expression}")
    return silent


def broken_rules(prometheus: Prometheus) -> list[str]:
    """The rules that do not evaluate, and the figures that have no value."""
    broken = []
    for name, rule in prometheus.rules().items():
        if rule["health"] != "ok":
            broken.append(f"{name}: {rule['health']} {rule.get('lastError', '')}")
        elif rule["type"] == "recording" and not prometheus.values(name):
            broken.append(f"{name}: no value")
        elif rule["type"] == "alerting":
            prometheus.ask("query", query=rule["query"])  # raises with its error
    return broken


async def run(
    groups: Iterable[Sequence[Case]],
    *,
    factor: float,
    numbers: Numbers,
    warm_s: float,
    clears_s: float,
    pictures: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Shown]:
    """The whole: traffic, panels, rules, then the faults, group by group. Raises Wrong."""
    with tempfile.TemporaryDirectory(prefix="alerts-") as name:
        scene = Scene(Path(name), factor, numbers)
        try:
            await scene.start()
            await scene.call()
            await asyncio.sleep(warm_s)
            await settled(scene.prometheus)
            tell(f"{len(panel_queries())} queries of the dashboard return data, "
                 f"{len(scene.prometheus.rules())} rules evaluate")  # fmt: skip
            shown = []
            for group in groups:
                for one in await show(scene, group, clears_s):
                    tell(f"{one.alert:26} {one.fault:24} fired after {one.fired_s:5.1f} s, "
                         f"cleared {one.cleared_s:5.1f} s after")  # fmt: skip
                    shown.append(one)
            if pictures is not None:
                await paint(scene.prometheus, pictures)
            return shown
        finally:
            await scene.stop()


async def settled(prometheus: Prometheus, within_s: float = 20) -> None:
    """Wait until all panels have data and all rules a value. Raises Wrong."""
    try:
        await until(lambda: not silent_panels(prometheus) + broken_rules(prometheus), within_s)
    except TimeoutError:
        what = "\n".join(silent_panels(prometheus) + broken_rules(prometheus))
        raise Wrong(f"no data or no value:\n{what}") from None


async def paint(prometheus: Prometheus, directory: Path) -> None:
    """Draw the dashboard as it stands."""
    command = [sys.executable, str(ROOT / "deploy" / "grafana" / "picture.py")]
    command += ["--prometheus", prometheus.url, "--out", str(directory), "--minutes", "15"]
    painter = await asyncio.create_subprocess_exec(*command)
    if await painter.wait():
        raise Wrong("the dashboard could not be drawn")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--factor", type=float, default=30.0, help="so much shorter are windows")
    parser.add_argument("--only", nargs="*", help="faults to stage; all if not given")
    parser.add_argument("--pictures", type=Path, help="draw the dashboard into this directory")
    options = parser.parse_args()
    known = {case.fault.__name__: case for case in CASES}
    if wrong := set(options.only or ()) - set(known):
        parser.error(f"--only: no such fault {sorted(wrong)}, known: {', '.join(known)}")
    groups = [[known[name]] for name in options.only or known]
    try:
        shown = asyncio.run(
            run(groups, factor=options.factor, numbers=NUMBERS, warm_s=20, clears_s=180,
                pictures=options.pictures, tell=lambda line: print(line, flush=True))
        )  # fmt: skip
    except Wrong as wrong_one:
        print(f"alerts: {wrong_one}", file=sys.stderr)
        return 1
    print(f"{len({one.alert for one in shown})} alerts fired and cleared")
    return 0


__all__ = ["CASES", "NUMBERS", "Case", "Shown", "Wrong", "hurried", "run"]

if __name__ == "__main__":
    sys.exit(main())
