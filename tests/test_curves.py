"""The curves: the picture shows what was measured, the slope is right, the relay delays."""

from __future__ import annotations

import os
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import redis

from benchmarks.curves.command import main, summary
from benchmarks.curves.picture import draw
from benchmarks.curves.points import Curve, Point, Series, SizedRig, measure, warm
from benchmarks.pauses import main as pauses
from benchmarks.rig import HOST
from benchmarks.subject import Subject


def points(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(x, cpu, 0.5, cpu / 1000, 10, 0, 100.0) for x, cpu in pairs]


def test_a_slope_is_for_ten_times_as_many_or_for_each_more() -> None:
    series = Series("s", points((10, 100), (100, 150), (1000, 200)))
    assert series.slope("cpu_us", log=True) == pytest.approx(50)
    assert Series("s", points((0, 5), (20, 45))).slope("cpu_us", log=False) == pytest.approx(2)
    assert Series("s", points((1, 1))).slope("cpu_us", log=False) is None


def test_the_picture_has_every_point_in_both_panels(tmp_path: Path) -> None:
    one, two = points((1_000, 900), (1_000_000, 950)), points((1_000, 1_000), (1_000_000, 1_300))
    curve = Curve("lines", "Lines & calls", "lines", True, [Series("a", one), Series("b", two)])
    for again in ("c.svg", "d.svg"):
        draw(curve, tmp_path / again, "how")
    assert (tmp_path / "c.svg").read_bytes() == (tmp_path / "d.svg").read_bytes()
    root = ElementTree.parse(tmp_path / "c.svg").getroot()
    svg, colours = "{http://www.w3.org/2000/svg}", ("#1f5fa8", "#c2571a")
    marks = [use.get("style", "") for use in root.iter(f"{svg}use")]
    for colour in colours:
        assert sum(colour in style for style in marks) == 2 * 2 + 1  # and the legend's
    texts = {text.text for text in root.iter(f"{svg}text")}
    assert {"Lines & calls", "a", "b", "lines", "how"} <= texts
    assert any("1,000,000" in (text or "") for text in texts)
    assert "slope, b: +100 us/call, +0.1 ms of p99 for ten times as many" in summary(curve)


@pytest.mark.skipif(os.geteuid() != 0, reason="capturing packets needs root")
def test_a_point_is_measured_with_a_redis_that_is_farther_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.curves.points.LINES", 20)  # calls of the warm-up
    core = min(os.sched_getaffinity(0))
    sized = SizedRig(Subject(), (core, core), lines=2_000, at_random=True, max_calls=5, redis_ms=20)
    sized.limits["wait_s"] = 5  # a busy machine would refuse calls
    with sized as rig:
        with redis.Redis(host=HOST, port=rig.engine_redis_port) as client:
            client.ping()
            start = time.perf_counter()
            client.ping()
            assert time.perf_counter() - start >= 0.02
            assert client.exists("line:+33900001999", "reg:+33900000000") == 2
        warm(rig, "test", rate=20.0)
        point = measure(rig, 20, 20, 1, "test")
    assert (point.calls, point.lost) == (20, 0)
    assert point.cpu_us > 0
    # Each line is read from Redis for its first call.
    assert point.p99_ms is not None
    assert point.p99_ms >= 20


@pytest.mark.parametrize(
    ("command", "argv", "named"),
    [(main, ["nothing"], "curve"), (main, ["--rate", "0"], "--rate"),
     (pauses, ["--seconds", "-1"], "--seconds")],
)  # fmt: skip
def test_wrong_input_is_one_line(
    command: object, argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(command)
    with pytest.raises(SystemExit) as error:
        command(argv)
    assert error.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
