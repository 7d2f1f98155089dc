"""Curves as SVG, drawn here: two panels over one x, with axes, points, lines and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.curves.points import Curve, Point

_WIDTH, _HEIGHT = 860, 330
_PANEL_W, _PANEL_H = 320, 200
_TOP, _LEFTS = 62, (72, 500)
_COLOURS = ("#1f5fa8", "#c2571a", "#2b7a3d")  # told apart also by those who see few colours
_MARKS = ("circle", "square", "triangle")
_FIGURES = (("cpu_us", "CPU per call, us"), ("p99_ms", "decision p99, ms"))


def draw(curve: Curve, path: Path, note: str) -> None:
    """Write the picture of `curve`; `note` says below it how it was measured."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(curve.title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        _text(_WIDTH / 2, 24, curve.title, anchor="middle", size=15),
        _text(_WIDTH / 2, _HEIGHT - 10, note, anchor="middle", size=10, colour="#555"),
    ]
    for left, (figure, label) in zip(_LEFTS, _FIGURES, strict=True):
        parts += _panel(curve, left, figure, label)
    for number, series in enumerate(curve.series):
        x = _LEFTS[0] + 200 * number
        parts += [_mark(number, x, 42), _text(x + 10, 46, series.name)]
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _panel(curve: Curve, left: float, figure: str, label: str) -> list[str]:
    points = [point for series in curve.series for point in series.points]
    xs = [_x(point.x, curve.log) for point in points]
    values = [value for point in points if (value := _value(point, figure)) is not None]
    low, high = min(xs), max(xs)
    top = _round_up(max(values, default=1.0))
    bottom = _TOP + _PANEL_H

    def at(x: float, value: float) -> tuple[float, float]:
        share = (_x(x, curve.log) - low) / ((high - low) or 1.0)
        return left + share * _PANEL_W, bottom - value / top * _PANEL_H

    parts = [
        f'<rect x="{left}" y="{_TOP}" width="{_PANEL_W}" height="{_PANEL_H}" fill="none" '
        'stroke="#888"/>',
        _text(left + _PANEL_W / 2, bottom + 34, curve.x_label, anchor="middle"),
        f'<text transform="translate({left - 50} {_TOP + _PANEL_H / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(label)}</text>',
    ]
    for tick in range(5):
        value = top * tick / 4
        y = bottom - tick / 4 * _PANEL_H
        parts.append(
            f'<line x1="{left}" y1="{y:.1f}" x2="{left + _PANEL_W}" y2="{y:.1f}" stroke="#ddd"/>'
        )
        parts.append(_text(left - 6, y + 4, f"{value:,g}", anchor="end", size=11))
    end = -math.inf
    for x in sorted({point.x for point in points}):
        middle, text = at(x, 0)[0], f"{x:,.10g}"
        if middle - 4 * len(text) > end:  # where there is room for it
            parts.append(_text(middle, bottom + 16, text, anchor="middle", size=11))
            end = middle + 4 * len(text)
    for number, series in enumerate(curve.series):
        places = [
            at(point.x, value)
            for point in series.points
            if (value := _value(point, figure)) is not None
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{_COLOURS[number]}" stroke-width="2"/>'
        )
        parts += [_mark(number, x, y) for x, y in places]
    return parts


def _value(point: Point, figure: str) -> float | None:
    value = getattr(point, figure)
    return None if value is None else float(value)


def _x(value: float, log: bool) -> float:
    return math.log10(max(value, 1.0)) if log else value


def _round_up(value: float) -> float:
    """The least of 1, 2, 2.5, 4, 5, 8, 10 times a power of ten that is above `value`."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    steps: Sequence[float] = (1, 2, 2.5, 4, 5, 8, 10)
    return next(step * power for step in steps if step * power >= value)


def _mark(number: int, x: float, y: float) -> str:
    colour, shape = _COLOURS[number], _MARKS[number]
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    if shape == "square":
        return f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="{colour}"/>'
    return f'<path d="M{x:.1f} {y - 4:.1f}l4 7h-8z" fill="{colour}"/>'


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#000"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}">{escape(text)}</text>'
    )
