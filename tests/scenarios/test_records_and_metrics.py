"""The results of a call: one record, the right counter, the billed seconds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.month import this_month
from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.continued import until
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part, refuse
from tests.scenarios.setup import Setup, to_number, to_voicemail

SETTINGS = {"timers": {"max_ring_s": 6}}
RINGS_S = 8.0
Play = Callable[[Setup], Coroutine[Any, Any, tuple[Call, str, str]]]


async def answered(setup: Setup) -> tuple[Call, str, str]:
    line = numbers.line_number()
    setup.line(number=line, forwards={"unconditional": to_voicemail(line)})
    call = await setup.call(line)
    deposit = await setup.server("voicemail").incoming(line)
    await connect(call, deposit)
    await part(call, deposit)
    return call, "unconditional", "voicemail"


async def busy(setup: Setup) -> tuple[Call, str, str]:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    await refuse(await phone.incoming(), 486)
    await call.receive(486)
    return call, "none", "line"


async def no_answer(setup: Setup) -> tuple[Call, str, str]:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    (await phone.incoming()).respond(180)
    await call.receive(480, wait_s=RINGS_S)
    return call, "none", "line"


async def unreachable(setup: Setup) -> tuple[Call, str, str]:
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = await setup.call(line)
    await refuse(await setup.server("number").incoming(target), 404)
    await call.receive(480)
    return call, "unconditional", "number"


async def cancelled(setup: Setup) -> tuple[Call, str, str]:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    (await phone.incoming()).respond(180)
    await call.receive(180)
    call.cancel()
    await call.receive(487)
    return call, "none", "line"


async def rejected(setup: Setup) -> tuple[Call, str, str]:
    call = await setup.call(setup.line(suspended=True))
    await call.receive(403)
    return call, "none", "none"


async def failed(setup: Setup) -> tuple[Call, str, str]:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    await refuse(ring, 500)
    await call.receive(500)
    return call, "none", "line"


@pytest.mark.parametrize(
    "play", [answered, busy, no_answer, unreachable, cancelled, rejected, failed]
)
async def test_every_outcome_is_counted_and_recorded_once(setup: Setup, play: Play) -> None:
    outcome = getattr(play, "__name__", "")
    before = {
        name: setup.engine.metric("renvoi_calls_total", **labels)
        for name, labels in {"all": {}, "one": {"outcome": outcome}}.items()
    }
    call, condition, destination = await play(setup)
    await setup.ended(call.call_id, condition=condition, destination=destination, outcome=outcome)
    assert setup.engine.metric("renvoi_calls_total") == before["all"] + 1
    assert setup.engine.metric("renvoi_calls_total", outcome=outcome) == before["one"] + 1
    labels = {"condition": condition, "destination": destination, "outcome": outcome}
    assert setup.engine.metric("renvoi_calls_total", **labels) >= 1


async def test_the_caller_s_result_counts_not_the_steps_before_it(setup: Setup) -> None:
    metric = setup.engine.metric

    def counts() -> list[float]:
        return [
            metric("renvoi_answers_total", code="200"),
            metric("renvoi_answers_total", code="486"),
            metric("renvoi_targets_total", destination="line", result="busy"),
            metric("renvoi_targets_total", destination="voicemail", result="answered"),
            metric("renvoi_conversation_ends_total", why="bye"),
            metric("renvoi_line_arrivals_total", registered="yes"),
        ]

    before = counts()
    line, phone = await setup.line_with_phone()
    setup.change(line, forwards={"busy": to_voicemail(line)})
    call = await setup.call(line)
    await refuse(await phone.incoming(), 486)
    deposit = await setup.server("voicemail").incoming(line)
    await connect(call, deposit)
    await part(call, deposit)
    await setup.ended(call.call_id, condition="busy", outcome="answered")
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 0, 1, 1, 1, 1]


async def test_the_log_has_one_complete_event_per_call(setup: Setup) -> None:
    call, _, _ = await answered(setup)
    await setup.record(call.call_id)
    deadline = time.monotonic() + within(3)
    ends: list[dict[str, Any]] = []
    while not ends and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        mine = [e for e in setup.engine.events() if e.get("call_id") == call.call_id]
        ends = [event for event in mine if event["event"] == "call.end"]
    assert len(ends) == 1
    fields = {key: ends[0][key] for key in ("condition", "destination", "outcome")}
    assert fields == {
        "condition": "unconditional",
        "destination": "voicemail",
        "outcome": "answered",
    }
    assert [leg["code"] for leg in ends[0]["legs"]] == [200]


async def test_a_call_in_progress_shows_and_then_is_gone(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(max_calls=2)
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    assert setup.engine.metric("renvoi_active_calls") == 1
    shown = setup.engine.calls()
    assert len(shown) == 1
    assert line in json.dumps(shown)
    ((_, lapses),) = await until(
        lambda: setup.redis.zrange(f"live:{line}", 0, -1, withscores=True), "it counts"
    )
    assert lapses > time.time()
    await part(call, ring)
    await setup.record(call.call_id)
    assert setup.engine.calls() == []
    assert setup.engine.metric("renvoi_active_calls") == 0


async def test_each_forwarding_line_pays_for_its_own_leg(setup: Setup) -> None:
    month = this_month()
    mobile = numbers.mobile_number()
    second = setup.line(
        offer={"mobile": "hours", "mobile_hours": 2},
        forwards={"unreachable": to_number(mobile)},
    )
    first = setup.line(forwards={"unconditional": to_number(second)})
    call = await setup.call(first)
    away = await setup.server("number").incoming(mobile)
    await connect(call, away)
    await asyncio.sleep(1.2)
    await part(call, away)
    record = await setup.ended(
        call.call_id, payer=second, billing="deducted", destination="number", target=mobile
    )
    bills = {f["line"]: f["billing"] for f in record["forwards"]}
    assert bills == {first: "free", second: "deducted"}
    assert int(record["seconds"]) >= 1
    usage = setup.redis.hgetall(f"usage:{second}:{month}")
    assert usage == {"deducted": record["seconds"]}


@pytest.mark.parametrize(
    ("offer", "target", "billing"),
    [
        ({"mobile": "unlimited"}, "mobile", "out_of_plan"),
        ({"mobile": "none"}, "mobile", "out_of_plan"),
        ({"mobile": "hours", "mobile_hours": 1}, "mobile", "deducted"),
        ({"mobile": "hours", "mobile_hours": 0}, "mobile", "out_of_plan"),
        ({"mobile": "unlimited"}, "outside", "standard"),
        ({"mobile": "unlimited"}, "voicemail", "free"),
    ],
)
async def test_the_class_follows_the_offer_and_the_target(
    setup: Setup, offer: dict[str, object], target: str, billing: str
) -> None:
    line = numbers.line_number()
    if target == "voicemail":
        number, server, forward = line, "voicemail", to_voicemail(line)
    else:
        number = numbers.mobile_number() if target == "mobile" else numbers.outside_number()
        server, forward = "number", to_number(number)
    setup.line(number=line, offer=offer, forwards={"unreachable": forward})
    call = await setup.call(line)
    away = await setup.server(server).incoming(number)
    await connect(call, away)
    await part(call, away)
    await setup.ended(call.call_id, billing=billing, payer=line)


async def test_the_metrics_of_the_contract_are_there(setup: Setup) -> None:
    await answered(setup)
    page = setup.engine.get("/metrics")[1]
    for name in (
        "renvoi_calls_total",
        "renvoi_decision_seconds_bucket",
        "renvoi_forward_delay_seconds_bucket",
        "renvoi_post_dial_delay_seconds_bucket",
        "renvoi_rule_lookup_seconds_bucket",
        "renvoi_active_calls",
        "renvoi_rejected_total",
        "renvoi_redis_up",
        "renvoi_rules_age_seconds",
        "renvoi_invalidation_lag_seconds",
        "renvoi_sip_messages_total",
        "renvoi_loop_lag_seconds",
        "renvoi_documents_refused_total",
    ):
        assert f"\n{name}" in page, name
    assert setup.engine.metric("renvoi_redis_up") == 1
    delays = "renvoi_forward_delay_seconds_count"
    assert setup.engine.metric(delays, condition="unconditional") > 0
    assert setup.engine.metric("renvoi_decision_seconds_count") > 0
    assert setup.engine.metric("renvoi_rule_lookup_seconds_count", source="redis") > 0
    assert "+33" not in page
    assert "sip:" not in page
