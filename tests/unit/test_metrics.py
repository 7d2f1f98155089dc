"""Metrics: documented names and labels, bounded series, the content of a scrape."""

import ast
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.records.record import FIELDS, CallRecord, ForwardRecord, LegRecord
from engine.telemetry import exposition
from engine.telemetry.exposition import AT_ONCE, Histogram, parts
from engine.telemetry.metrics import (
    CONDITIONS,
    DESTINATIONS,
    OUTCOMES,
    RACES,
    REGISTRATIONS,
    REJECTIONS,
    WATCHED,
    Metrics,
    code_class,
    leg_result,
)

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = {
    "renvoi_calls": "counter",
    "renvoi_decision_seconds": "histogram",
    "renvoi_forward_delay_seconds": "histogram",
    "renvoi_post_dial_delay_seconds": "histogram",
    "renvoi_rule_lookup_seconds": "histogram",
    "renvoi_active_calls": "gauge",
    "renvoi_rejected": "counter",
    "renvoi_redis_up": "gauge",
    "renvoi_rules_age_seconds": "gauge",
    "renvoi_invalidation_lag_seconds": "gauge",
    "renvoi_sip_messages": "counter",
    "renvoi_loop_lag_seconds": "gauge",
    "renvoi_documents_refused": "counter",
}


async def scrape(metrics: Metrics) -> dict[str, Any]:
    """Sample values by (name, labels) and types by family name."""
    text = (await metrics.render()).decode()
    families = list(text_string_to_metric_families(text))
    values: dict[str, Any] = {f.name: f.type for f in families}
    for family in families:
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}"] = sample.value
    return values


async def test_every_metric_of_the_contract_is_there_with_its_type() -> None:
    values = await scrape(Metrics())
    for name, kind in CONTRACT.items():
        assert values.get(name) == kind, name


async def test_a_call_counts_once_under_its_labels() -> None:
    metrics = Metrics()
    metrics.call_ended("busy", "voicemail", "answered")
    metrics.call_ended("busy", "voicemail", "answered")
    values = await scrape(metrics)
    key = "renvoi_calls_total{condition=busy,destination=voicemail,outcome=answered}"
    assert values[key] == 2
    assert sum(v for k, v in values.items() if k.startswith("renvoi_calls_total{")) == 2


def record(code: int, why: str, *legs: LegRecord, **more: Any) -> CallRecord:
    """A record of a call that ended at 20 s, with what the metrics read filled in."""
    known: dict[str, Any] = dict.fromkeys(FIELDS, "")
    known |= {"code": code, "why": why, "ended": 20.0, "answered": None, "legs": list(legs)}
    known |= {"condition": "none", "destination": "line", "outcome": "failed", "forwards": []}
    return CallRecord(**(known | more))


def leg(
    role: str, code: int, rang: float | None = None, answered: float | None = None
) -> LegRecord:
    return LegRecord(role, "+33972101001", "", code, None, 1.0, rang, answered, 20.0, "none")


async def test_a_busy_phone_and_a_voicemail_that_answers_are_one_answered_call() -> None:
    metrics = Metrics()
    forward = ForwardRecord("+33972101001", "busy", "number", "+33612345678", "out_of_plan", 15)
    metrics.call_over(
        record(
            200, "bye", leg("line", 486), leg("number", 200, 3.0, 5.0), outcome="answered",
            condition="busy", destination="number", answered=5.0, forwards=[forward],
        )
    )  # fmt: skip
    values = await scrape(metrics)
    counted = {name: value for name, value in values.items() if value and "total" in name}
    counted = {name: value for name, value in counted.items() if name.startswith("renvoi")}
    assert counted == {
        "renvoi_calls_total{condition=busy,destination=number,outcome=answered}": 1,
        "renvoi_answers_total{code=200}": 1,
        "renvoi_targets_total{destination=line,result=busy}": 1,
        "renvoi_targets_total{destination=number,result=answered}": 1,
        "renvoi_conversation_ends_total{why=bye}": 1,
        "renvoi_billed_seconds_total{billing=out_of_plan}": 15,
    }
    assert values["renvoi_conversation_seconds_sum{end=completed}"] == 15
    assert values["renvoi_conversation_seconds_count{end=cut_off}"] == 0


@pytest.mark.parametrize(
    ("code", "label"),
    [(200, "200"), (202, "2xx"), (302, "3xx"), (404, "404"), (415, "4xx"), (501, "5xx"),
     (503, "503"), (600, "600"), (607, "6xx"), (0, "5xx"), (999, "5xx")],
)  # fmt: skip
def test_final_answers_have_a_closed_set_of_labels(code: int, label: str) -> None:
    assert code_class(code) == label


@pytest.mark.parametrize(
    ("ended", "result"),
    [
        (leg("line", 200, 2.0, 3.0), "answered"),
        (leg("line", 486), "busy"),
        (leg("line", 603, 2.0), "busy"),
        (leg("line", 480, 2.0), "no_answer"),
        (leg("line", 480), "unreachable"),
        (leg("line", 503), "unreachable"),
        (leg("line", 503, 2.0), "refused"),
        (leg("line", 488), "refused"),
        (leg("line", 487, 2.0), "given_up"),
        (leg("line", 0), "given_up"),
    ],
)
def test_how_a_leg_ended(ended: LegRecord, result: str) -> None:
    assert leg_result(ended) == result


async def test_calls_that_are_cut_off_are_counted() -> None:
    metrics = Metrics()
    metrics.call_over(record(200, "max_call", answered=10.0))
    metrics.call_over(record(200, "no such reason", answered=10.0))
    metrics.forward_prevented("forwards_per_line")
    values = await scrape(metrics)
    assert values["renvoi_conversation_ends_total{why=max_call}"] == 1
    assert values["renvoi_conversation_ends_total{why=other}"] == 1
    assert values["renvoi_conversation_seconds_sum{end=cut_off}"] == 20
    assert values["renvoi_forwards_prevented_total{reason=forwards_per_line}"] == 1


async def test_what_lines_pay_without_an_answer_to_the_caller_is_counted() -> None:
    """The caller withheld its PRACK: the seconds are in `usage`, and so in the metric."""
    metrics = Metrics()
    forward = ForwardRecord("+33972101001", "busy", "number", "+33612345678", "out_of_plan", 9)
    metrics.call_over(record(504, "ack_timeout", leg("number", 200, 3.0, 11.0), forwards=[forward]))
    values = await scrape(metrics)
    assert values["renvoi_billed_seconds_total{billing=out_of_plan}"] == 9
    assert values["renvoi_conversation_seconds_count{end=cut_off}"] == 0


async def test_an_answered_star_code_is_no_conversation_that_was_cut_off() -> None:
    metrics = Metrics()
    metrics.call_over(record(200, "star_code", outcome="answered", answered=19.9))
    values = await scrape(metrics)
    assert values["renvoi_answers_total{code=200}"] == 1
    assert values["renvoi_conversation_ends_total{why=other}"] == 0
    assert values["renvoi_conversation_seconds_count{end=cut_off}"] == 0


async def test_a_call_whose_place_another_one_took_is_not_cut_off() -> None:
    """As after each attended transfer (Replaces)."""
    metrics = Metrics()
    metrics.call_over(record(200, "replaced", answered=10.0))
    values = await scrape(metrics)
    assert values["renvoi_conversation_ends_total{why=replaced}"] == 1
    assert values["renvoi_conversation_seconds_sum{end=completed}"] == 10
    assert values["renvoi_conversation_seconds_count{end=cut_off}"] == 0


async def test_unknown_labels_add_no_series_and_count_against_us() -> None:
    metrics = Metrics()
    before = set(await scrape(metrics))
    metrics.call_ended("+33612345678", "line", "answered")
    metrics.rejected("no such reason")
    metrics.race("no such race")
    metrics.documents_refused("usage")
    values = await scrape(metrics)
    assert set(values) == before
    assert values["renvoi_calls_total{condition=none,destination=none,outcome=failed}"] == 1
    assert values["renvoi_rejected_total{reason=internal}"] == 1
    assert values["renvoi_races_total{kind=other}"] == 1


async def test_all_series_exist_before_the_first_call() -> None:
    values = await scrape(Metrics())
    series = [k for k in values if k.startswith("renvoi_calls_total{")]
    assert len(series) == len(CONDITIONS) * len(DESTINATIONS) * len(OUTCOMES)
    assert values["renvoi_rejected_total{reason=stranger}"] == 0


async def test_histograms_are_cumulative_and_have_at_most_twelve_bounds() -> None:
    metrics = Metrics()
    for seconds in (0.00001, 0.0004, 0.001, 0.0011, 99):
        metrics.decision.observe(seconds)
    metrics.lookup_redis.observe(0.0003)
    metrics.forward_delay["no_answer"].observe(0.0001)
    values = await scrape(metrics)
    assert values["renvoi_decision_seconds_bucket{le=0.001}"] == 3  # the upper bound is included
    assert values["renvoi_decision_seconds_bucket{le=0.002}"] == 4
    assert values["renvoi_decision_seconds_bucket{le=+Inf}"] == 5
    assert values["renvoi_decision_seconds_count{}"] == 5
    assert values["renvoi_decision_seconds_sum{}"] == pytest.approx(99.00251)
    assert values["renvoi_rule_lookup_seconds_count{source=redis}"] == 1
    assert values["renvoi_rule_lookup_seconds_count{source=memory}"] == 0
    assert values["renvoi_forward_delay_seconds_count{condition=no_answer}"] == 1
    for name in (
        "decision", "post_dial_delay", "lookup_memory", "lookup_redis", "ring_answered",
        "ring_overrun",
    ):  # fmt: skip
        histogram = getattr(metrics, name)
        assert isinstance(histogram, Histogram)
        assert len(histogram.bounds) <= 12
        assert sorted(histogram.bounds) == list(histogram.bounds)


async def test_watched_values_are_read_at_each_scrape_and_may_fail_alone() -> None:
    metrics = Metrics()
    calls = [7]
    metrics.watch("active_calls", lambda: calls[0])

    def broken() -> float:
        raise RuntimeError("gone")

    metrics.watch("rules_age", broken)
    assert (await scrape(metrics))["renvoi_active_calls{}"] == 7
    calls[0] = 8
    values = await scrape(metrics)
    assert values["renvoi_active_calls{}"] == 8
    assert values["renvoi_rules_age_seconds{}"] != values["renvoi_rules_age_seconds{}"]  # NaN
    with pytest.raises(KeyError):
        metrics.watch("nonsense", lambda: 0)
    assert set(WATCHED) >= {"active_calls", "redis_up", "rules_age", "invalidation_lag", "loop_lag"}


async def test_sip_messages_come_from_their_counter() -> None:
    metrics = Metrics()
    counts = {("in", "INVITE"): 3, ("out", "200"): 2}
    metrics.sip_messages(lambda: counts)
    values = await scrape(metrics)
    assert values["renvoi_sip_messages_total{direction=in,kind=INVITE}"] == 3
    assert values["renvoi_sip_messages_total{direction=out,kind=200}"] == 2


async def test_two_workers_in_one_process_do_not_share_metrics() -> None:
    first, second = Metrics(), Metrics()
    first.rejected("overload")
    assert (await scrape(second))["renvoi_rejected_total{reason=overload}"] == 0


def test_no_metric_holds_the_loop_for_long() -> None:
    """Calls are handled between groups of series. The number of SIP message series depends on
    methods and codes."""
    metrics = Metrics()
    kinds = [(way, f"{number}") for way in ("in", "out") for number in range(80)]
    metrics.sip_messages(lambda: dict.fromkeys(kinds, 12_345))
    for family in metrics.families:
        found = list(parts(family))
        assert all(part.count("\n") <= AT_ONCE + 2 for part in found), family.name
        assert "".join(found).count("# TYPE") == 1, family.name


def said() -> Iterator[tuple[str, str]]:
    """The string constants in engine/ and sip/ except the sets themselves, each with the method
    whose first argument it is ("" = none)."""
    for path in (p for package in ("engine", "sip") for p in (ROOT / package).rglob("*.py")):
        if path.name == "metrics.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr=method), args=[ast.Constant(str(word)), *_]):
                    yield method, word
                case ast.Constant(value=str(word)):
                    yield "", word


def test_closed_sets_have_what_the_code_counts_and_nothing_else() -> None:
    sets = {
        "race": RACES, "registration": REGISTRATIONS, "rejected": REJECTIONS,
        "_on_rejected": REJECTIONS,
    }  # fmt: skip
    words = list(said())
    counted = [(method, word) for method, word in words if method in sets]
    assert len(counted) > 20
    assert not [(method, word) for method, word in counted if word not in sets[method]]
    unknown = {"other", "internal"}  # values that are in no set count as these
    everything = {word for _, word in words}
    assert {word for each in sets.values() for word in each} - unknown <= everything


def test_new_code_in_the_same_process_finds_the_same_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGUSR2 is no restart: `RenvoiRestarts` must not fire."""
    late_s = iter((0.0, 1e-6, 2e-4))  # between the two clocks that are read
    clocks = SimpleNamespace(
        CLOCK_BOOTTIME=time.CLOCK_BOOTTIME,
        clock_gettime=lambda _: 1000.0 + next(late_s),
        time=lambda: 1764554400.12,
    )
    monkeypatch.setattr(exposition, "time", clocks)
    assert len({exposition._started_at() for _ in range(3)}) == 1
