"""Dashboard and alerts against a real Prometheus that scrapes a real engine under SIPp traffic:
`python -m tests.campaigns.alerts [--pictures DIRECTORY]`.

Every query of the dashboard must return data and every rule must evaluate. Then faults are caused
one by one: the alert must fire, and clear when the fault is over. Windows are shorter than in
deploy/prometheus (see `tests.campaigns.prometheus`); the lags of 45 and 60 s are unchanged. At the
end promtool tests every alert with the unchanged rules (tests/prometheus). A table shows how each
alert was tested.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.campaigns import faults
from tests.campaigns.alert_setup import AlertSetup
from tests.campaigns.faults import Fault
from tests.campaigns.prometheus import RULES, SCRAPE_S, Numbers, Prometheus
from tests.scenarios.processes import ROOT

EARLY_S = 20.0
DASHBOARD = ROOT / "deploy" / "grafana" / "renvoi.json"
# Here all hours are business hours, and the limits of costs are low.
NUMBERS: Numbers = {
    "RenvoiNoTraffic": (
        "and on () (day_of_week() > 0 < 6) and on () (hour() >= 8 < 16)", ""
    ),
    "RenvoiOutOfPlan": ("> 3600", "> 300"),
    "RenvoiRecordsWait": ("> 1000", "> 5"),
    "RenvoiRulesStale": ("> 900", "> 30"),
}  # fmt: skip


class Wrong(AssertionError):
    """A panel without data, a rule that does not evaluate, an alert that does not fire or clear."""


@dataclass(frozen=True)
class Case:
    """A fault and the alerts that must fire while it lasts."""

    fault: Fault
    alerts: tuple[str, ...]
    within_s: float = 60.0


CASES = (
    Case(faults.bad_document, ("RenvoiDocumentsRefused",)),
    Case(faults.registrations_gone, ("RenvoiMassDeregistration",)),
    Case(faults.numbers_gone, ("RenvoiSeerBurn",), 120),
    Case(faults.forwards_pile_up, ("RenvoiForwardLimit",)),
    Case(faults.voicemail_fails, ("RenvoiTargetUnreachable",)),
    Case(faults.strangers, ("RenvoiStrangers",)),
    Case(faults.crowd, ("RenvoiNearCapacity", "RenvoiRefusingCalls")),
    Case(faults.out_of_plan, ("RenvoiOutOfPlan",), 120),
    Case(faults.slow_look_ups, ("RenvoiDecisionBurn",), 120),
    Case(faults.core_taken, ("RenvoiLoopLag",)),
    Case(faults.calls_cut_off, ("RenvoiCallsCutOff",), 90),
    Case(
        faults.redis_hangs,
        ("RenvoiRedisDown", "RenvoiRulesLate", "RenvoiRulesTooLate", "RenvoiRecordsWait",
         "RenvoiRulesStale"),
        90,
    ),
    Case(faults.redis_takes_no_writes, ("RenvoiRulesLate", "RenvoiRulesTooLate"), 90),
    Case(faults.silence, ("RenvoiNoTraffic",)),
    Case(faults.engine_gone, ("RenvoiDown",)),
    Case(faults.engine_restarted, ("RenvoiRestarts",)),
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """The result of one alert: seconds from the fault until it fired, and from the end of the fault
    until it cleared."""

    alert: str
    fault: str
    fired_s: float
    cleared_s: float


async def until(condition: Callable[[], bool], within_s: float) -> float:
    """Wait for the condition; returns the seconds. Raises TimeoutError."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > within_s:
            raise TimeoutError
        await asyncio.sleep(0.25)
    return time.monotonic() - start


async def show(setup: AlertSetup, cases: Sequence[Case], clears_s: float) -> list[Shown]:
    """Cause these faults at once; each of their alerts must fire, and clear afterwards. Raises
    Wrong."""
    wanted = {alert: case for case in cases for alert in case.alerts}
    names = " + ".join(case.fault.__name__ for case in cases)
    try:  # on a busy machine some scrapes may be missing
        await until(lambda: not setup.prometheus.firing() & set(wanted), EARLY_S)
    except TimeoutError:
        early = sorted(setup.prometheus.firing() & set(wanted))
        raise Wrong(f"{names}: {early} fire before there is a fault") from None
    fired: dict[str, float] = {}
    start = time.monotonic()

    def all_fired() -> bool:
        for alert in setup.prometheus.firing() & set(wanted) - set(fired):
            fired[alert] = time.monotonic() - start
        return set(fired) == set(wanted)

    async with AsyncExitStack() as stack:
        for case in cases:
            await stack.enter_async_context(case.fault(setup))
        try:
            await until(all_fired, max(case.within_s for case in cases))
        except TimeoutError:
            raise Wrong(f"{names}: {sorted(set(wanted) - set(fired))} did not fire") from None
    cleared: dict[str, float] = {}
    start = time.monotonic()

    def all_cleared() -> bool:
        for alert in set(wanted) - setup.prometheus.firing() - set(cleared):
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
    """Every query of the dashboard as Grafana sends it, with the title of its panel."""
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
    """The dashboard's queries without a numeric result."""
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


async def campaign(
    groups: Iterable[Sequence[Case]],
    *,
    factor: float,
    numbers: Numbers,
    warm_s: float,
    clears_s: float,
    pictures: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Shown]:
    """The whole campaign: traffic, panels, rules, then the faults, group by group. Raises Wrong."""
    with tempfile.TemporaryDirectory(prefix="alerts-") as name:
        setup = AlertSetup(Path(name), factor, numbers)
        try:
            await setup.start()
            began = time.monotonic()
            await setup.call()
            await asyncio.sleep(warm_s)
            await settled(setup.prometheus)
            tell(f"{len(panel_queries())} queries of the dashboard return data, "
                 f"{len(setup.prometheus.rules())} rules evaluate")  # fmt: skip
            shown = []
            for group in groups:
                for one in await show(setup, group, clears_s):
                    tell(f"{one.alert:26} {one.fault:24} fired after {one.fired_s:5.1f} s, "
                         f"cleared {one.cleared_s:5.1f} s after")  # fmt: skip
                    shown.append(one)
            if pictures is not None:
                await paint(setup.prometheus, pictures, (time.monotonic() - began) / 60)
            return shown
        finally:
            await setup.stop()


async def settled(prometheus: Prometheus, within_s: float = 45) -> None:
    """Wait until all panels have data and all rules a value. Raises Wrong."""
    try:
        await until(lambda: not silent_panels(prometheus) + broken_rules(prometheus), within_s)
    except TimeoutError:
        what = "\n".join(silent_panels(prometheus) + broken_rules(prometheus))
        raise Wrong(f"no data or no value:\n{what}") from None


async def paint(prometheus: Prometheus, directory: Path, minutes: float) -> None:
    """Draw the dashboard over the last minutes."""
    command = [sys.executable, str(ROOT / "deploy" / "grafana" / "picture.py")]
    command += ["--prometheus", prometheus.url, "--out", str(directory)]
    command += ["--minutes", f"{minutes:g}", "--scrape", f"{SCRAPE_S:g}"]
    painter = await asyncio.create_subprocess_exec(*command)
    if await painter.wait():
        raise Wrong("the dashboard could not be drawn")


def promtool() -> None:
    """Test every alert with the unchanged rules, by tests/prometheus. Raises Wrong."""
    tests = ROOT / "tests" / "prometheus" / "test_rules.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(done.stdout + done.stderr)


def table(shown: Sequence[Shown]) -> Iterator[str]:
    """How each alert of deploy/prometheus was tested, in the order of the file. One that only
    promtool tests has no figures."""
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    names = [rule["alert"] for group in groups for rule in group["rules"]]
    live = {one.alert: one for one in shown}  # the last result, if several faults caused it
    yield "| alert | tested by | fault | fired after s | cleared after s |"
    yield "|---|---|---|---|---|"
    for name in names:
        one = live.get(name)
        figures = f"{one.fault} | {one.fired_s:.0f} | {one.cleared_s:.0f}" if one else "- | - | -"
        yield f"| {name} | {'live, promtool' if one else 'promtool'} | {figures} |"
    yield f"{len(names)} alerts: {len(live)} fired and cleared live, all by promtool"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--factor", type=float, default=30.0, help="divides all windows")
    parser.add_argument("--only", nargs="*", help="faults to cause; all if not given")
    parser.add_argument("--pictures", type=Path, help="draw the dashboard into this directory")
    options = parser.parse_args()
    known = {case.fault.__name__: case for case in CASES}
    if wrong := set(options.only or ()) - set(known):
        parser.error(f"--only: no such fault {sorted(wrong)}, known: {', '.join(known)}")
    groups = [[known[name]] for name in options.only or known]
    try:
        shown = asyncio.run(
            campaign(groups, factor=options.factor, numbers=NUMBERS, warm_s=20, clears_s=180,
                pictures=options.pictures, tell=lambda line: print(line, flush=True))
        )  # fmt: skip
        promtool()
    except Wrong as wrong_one:
        print(f"alerts: {wrong_one}", file=sys.stderr)
        return 1
    for line in table(shown):
        print(line)
    return 0


__all__ = ["CASES", "NUMBERS", "Case", "Shown", "Wrong", "campaign"]

if __name__ == "__main__":
    sys.exit(main())
