"""Draws the dashboard from a Prometheus, without a Grafana: one PNG for each row.

    python deploy/grafana/picture.py --prometheus http://127.0.0.1:9090 --minutes 60 --out pictures

Panels, places, queries, units and thresholds are those of renvoi.json. Needs matplotlib
(`pip install '.[dev]'`).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DASHBOARD = Path(__file__).with_name("renvoi.json")
COLUMNS = 24
UNIT_W, UNIT_H = 0.66, 0.36  # inches of a grid cell
POINTS = 240
PAPER, PANEL, INK, FAINT = "#111217", "#181b1f", "#d8d9da", "#8e8e8e"
COLOURS = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}
PALETTE = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#e0b400",
           "#37872d", "#fa6400", "#c4162a", "#a352cc")  # fmt: skip

Box = tuple[float, float, float, float]
Series = tuple[str, list[float], list[float]]  # legend, times in unix seconds, values


class Source:
    """A Prometheus, and the span of time that is drawn."""

    def __init__(self, url: str, minutes: float, job: str, instance: str, scrape_s: float) -> None:
        self._url = url.rstrip("/")
        self.end = time.time()
        self.start = self.end - minutes * 60
        self._step = max(1.0, minutes * 60 / POINTS)
        self._variables = {
            "$job": job,
            "$instance": instance,
            # A rate needs two scrapes; with four it tolerates missed ones, as in Grafana.
            "$__rate_interval": f"{round(4 * max(scrape_s, self._step) * 1000)}ms",
        }

    def series(self, target: dict[str, Any]) -> list[Series]:
        """The curves of one query, by legend."""
        expression = target["expr"]
        for name, value in self._variables.items():
            expression = expression.replace(name, value)
        query = urllib.parse.urlencode(
            {"query": expression, "start": self.start, "end": self.end, "step": self._step}
        )
        with urllib.request.urlopen(f"{self._url}/api/v1/query_range?{query}") as answer:
            found = json.load(answer)["data"]["result"]
        curves: list[Series] = []
        for one in found:
            metric = one["metric"]
            legend = target["legendFormat"]
            for label in re.findall(r"\{\{(\w+)\}\}", legend):
                legend = legend.replace("{{" + label + "}}", metric.get(label, ""))
            times: list[float] = []
            values: list[float] = []
            for at, text in one["values"]:
                if times and at - times[-1] > 1.5 * self._step:  # a gap is drawn as one
                    times.append(at - self._step)
                    values.append(math.nan)
                times.append(float(at))
                values.append(float(text))
            if any(map(math.isfinite, values)):
                curves.append((legend.strip(), times, values))
        return sorted(curves, key=lambda curve: curve[0])


def shown(unit: str, decimals: int | None) -> Callable[[float], str]:
    """How Grafana writes a number of that unit."""

    def number(value: float, digits: int = 3) -> str:
        if decimals is not None:
            return f"{value:.{decimals}f}"
        return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"

    def seconds(value: float) -> str:
        for limit, factor, name in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (60, 1, "s"),
                                    (3600, 1 / 60, "min"), (math.inf, 1 / 3600, "h")):  # fmt: skip
            if abs(value) < limit:
                return f"{number(value * factor)} {name}" if value else "0 s"
        return ""

    def scaled(value: float) -> str:
        for factor, name in ((1e9, " G"), (1e6, " M"), (1e3, " K")):
            if abs(value) >= factor:
                return f"{number(value / factor)}{name}"
        return number(value)

    kinds: dict[str, Callable[[float], str]] = {
        "s": seconds,
        "percentunit": lambda value: f"{number(value * 100)} %",
        "reqps": lambda value: f"{number(value)}/s",
        "mps": lambda value: f"{number(value)}/s",
        "bytes": lambda value: f"{scaled(value)}B",
        "short": scaled,
    }
    return kinds[unit]


def _number(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def colour_of(value: float, panel: dict[str, Any]) -> str:
    """The colour of a number by the panel's thresholds."""
    name = "green"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            name = step["color"]
    return COLOURS[name]


def draw_stat(axes: Axes, panel: dict[str, Any], curves: Sequence[Series]) -> None:
    """The last number, large, before its history."""
    defaults = panel["fieldConfig"]["defaults"]
    tell = shown(defaults["unit"], defaults.get("decimals"))
    axes.axis("off")
    if not curves:
        axes.text(0.5, 0.4, "no data", color=FAINT, ha="center", va="center")
        return
    _, times, values = curves[0]
    colour = colour_of(values[-1], panel)
    axes.fill_between(times, values, 0, color=colour, alpha=0.15, linewidth=0)
    axes.plot(times, values, color=colour, linewidth=0.8, alpha=0.6)
    axes.set_ylim(0, 2.2 * max(filter(math.isfinite, values)) or 1)
    text = " / ".join(tell(last[-1]) for _, _, last in curves)
    axes.text(0.5, 0.55, text, color=colour, ha="center", va="center", fontsize=17, weight="bold",
              transform=axes.transAxes)  # fmt: skip


def draw_graph(axes: Axes, panel: dict[str, Any], curves: Sequence[Series], source: Source) -> None:
    """Curves, stacked where the panel says so, with the thresholds as lines."""
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    tell = shown(defaults["unit"], defaults.get("decimals"))
    axes.set_facecolor(PANEL)
    axes.tick_params(colors=FAINT, labelsize=7, length=0)
    axes.grid(color="#2c3235", linewidth=0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlim(source.start, source.end)
    clock = "%H:%M:%S" if source.end - source.start < 600 else "%H:%M"
    axes.xaxis.set_major_formatter(lambda at, _: time.strftime(clock, time.localtime(at)))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6))
    logarithmic = custom["scaleDistribution"]["type"] == "log"
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    elif defaults.get("decimals") == 0:
        axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: tell(value))
    stacked = custom["stacking"]["mode"] == "normal"
    heights: dict[float, float] = {}
    highest = 0.0
    for place, (legend, times, values) in enumerate(curves):
        colour = PALETTE[place % len(PALETTE)]
        if stacked:
            below = [heights.get(moment, 0.0) for moment in times]
            values = [low + value for low, value in zip(below, map(_number, values), strict=True)]
            heights.update(zip(times, values, strict=True))
            axes.fill_between(times, below, values, color=colour, alpha=0.3, linewidth=0)
        axes.plot(times, values, color=colour, linewidth=1.1, label=legend)
        highest = max(highest, *filter(math.isfinite, values))
    if custom["thresholdsStyle"]["mode"] == "line":
        for step in defaults["thresholds"]["steps"]:
            # As in Grafana, a threshold far above the curves does not flatten them.
            if step["value"] is not None and (step["value"] <= 4 * highest or logarithmic):
                axes.axhline(step["value"], color=COLOURS[step["color"]], linewidth=0.8, ls="--")
                highest = max(highest, step["value"])
    if not logarithmic:
        axes.set_ylim(defaults.get("min", 0), defaults.get("max") or highest * 1.1 or 1)
    if not curves:
        axes.text(0.5, 0.5, "no data", color=FAINT, ha="center", transform=axes.transAxes)
    elif len(curves) > 1 or curves[0][0]:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.1), ncols=4, fontsize=6.5,
                    frameon=False, labelcolor=INK, handlelength=1, columnspacing=1)  # fmt: skip


def draw_row(title: str, panels: Sequence[dict[str, Any]], source: Source, path: Path) -> None:
    """One row of the dashboard as a picture."""
    top = min(panel["gridPos"]["y"] for panel in panels)
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) - top + 1
    width, height = COLUMNS * UNIT_W, rows * UNIT_H
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    figure.text(0.008, 1 - 0.25 / height, title, color=INK, fontsize=12, weight="bold", va="center")

    def box(left: float, below: float, wide: float, high: float) -> Box:
        return (left / width, 1 - (below + high) / height, wide / width, high / height)

    for panel in panels:
        place = panel["gridPos"]
        left, wide = place["x"] * UNIT_W, place["w"] * UNIT_W
        below, high = (place["y"] - top + 1) * UNIT_H, place["h"] * UNIT_H
        frame = figure.add_axes(box(left + 0.05, below + 0.05, wide - 0.1, high - 0.1))
        frame.set_facecolor(PANEL)
        frame.set_xticks([])
        frame.set_yticks([])
        frame.set_title(panel["title"], color=INK, fontsize=8.5, loc="left", x=0.09 / wide, y=1,
                        pad=-13)  # fmt: skip
        curves = [curve for target in panel["targets"] for curve in source.series(target)]
        if panel["type"] == "stat":
            axes = figure.add_axes(box(left + 0.1, below + 0.3, wide - 0.2, high - 0.4))
            draw_stat(axes, panel, curves)
        else:
            lines = math.ceil(len(curves) / 4)
            inner = box(left + 0.62, below + 0.38, wide - 0.8, high - 0.78 - 0.15 * lines)
            axes = figure.add_axes(inner)
            draw_graph(axes, panel, curves, source)
    figure.savefig(path, dpi=100)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--minutes", type=float, default=60, help="how far back to draw")
    parser.add_argument("--job", default="renvoi")
    parser.add_argument("--instance", default=".*", help="engines, a regular expression")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="directory of the PNGs")
    parser.add_argument(
        "--scrape", type=float, default=15, metavar="S", help="its scrape_interval, in seconds (15)"
    )
    options = parser.parse_args()
    source = Source(
        options.prometheus, options.minutes, options.job, options.instance, options.scrape
    )
    options.out.mkdir(parents=True, exist_ok=True)
    row = ""
    rows: dict[str, list[dict[str, Any]]] = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        else:
            rows.setdefault(row, []).append(panel)
    for place, (title, panels) in enumerate(rows.items(), 1):
        name = re.sub(r"\W+", "-", title.lower())
        path = options.out / f"{place}-{name}.png"
        draw_row(title, panels, source, path)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
