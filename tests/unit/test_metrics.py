"""Metrics: names and labels of the contract, bounded series, what a scrape reads."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.metrics import CONDITIONS, DESTINATIONS, OUTCOMES, WATCHED, Histogram, Metrics

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
    assert values["renvoi_decision_seconds_bucket{le=0.001}"] == 3  # an upper bound belongs to it
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
