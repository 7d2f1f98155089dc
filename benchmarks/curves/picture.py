"""Curves as SVG: CPU and delay side by side over one x."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.curves.points import Curve

_COLOURS = ("#1f5fa8", "#c2571a", "#2b7a3d")  # distinct for colour-blind readers too
_MARKS = ("o", "s", "^")
_FIGURES = (("cpu_us", "CPU per call, us"), ("p99_ms", "decision p99, ms"))


def draw(curve: Curve, path: Path, note: str) -> None:
    """Write the picture of `curve`; `note` says below it how it was measured."""
    # Text is kept as text, and the same points give the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "renvoi"}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        figure.suptitle(curve.title)
        figure.supxlabel(note, fontsize=8, color="#555")
        panels = figure.subplots(1, 2)
        for axes, (name, label) in zip(panels, _FIGURES, strict=True):
            for series, colour, mark in zip(curve.series, _COLOURS, _MARKS, strict=False):
                points = [point for point in series.points if getattr(point, name) is not None]
                ys = [getattr(point, name) for point in points]
                xs = [point.x for point in points]
                axes.plot(xs, ys, color=colour, marker=mark, label=series.name)
            axes.set(xlabel=curve.x_label, ylabel=label, xscale="log" if curve.log else "linear")
            axes.xaxis.set_major_formatter("{x:,.10g}")
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", color="#ddd")
        panels[0].legend(frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
