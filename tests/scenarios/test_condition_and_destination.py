"""Each of the four conditions leads to each destination. Both ends and the servers are SIPp."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import product

import pytest

from tests.scenarios import numbers, script
from tests.scenarios.batch import Batch, Outcomes, Scenario, names_in
from tests.scenarios.expect import check_deposit, check_diversion, check_history, check_one_tag
from tests.scenarios.setup import (
    ANSWER_BYTES,
    OFFER_BYTES,
    RunningEngine,
    Setup,
    to_fax,
    to_number,
    to_voicemail,
)

batch = Batch()
CONDITIONS = ("unconditional", "busy", "no_answer", "unreachable")
DESTINATIONS = ("own_voicemail", "other_voicemail", "fax", "line", "outside")


def forwarded(condition: str, destination: str) -> Scenario:
    async def scenario(setup: Setup) -> None:
        line, caller = numbers.line_number(), numbers.caller_number()
        more = {"after_s": 5} if condition == "no_answer" else {}
        kind, server = destination, destination
        other = None
        if destination == "own_voicemail":
            target, kind, server = line, "voicemail", "voicemail"
            forward = to_voicemail(target, **more)
        elif destination == "other_voicemail":
            target, kind, server = setup.line(), "voicemail", "voicemail"
            forward = to_voicemail(target, **more)
        elif destination == "fax":
            target = setup.line(offer={"fax": True})
            forward = to_fax(target, **more)
        elif destination == "line":
            target, other = await setup.sipp_phone(script.answering_phone())
            forward = to_number(target, **more)
        else:
            target, kind, server = numbers.outside_number(), "number", "number"
            forward = to_number(target, **more)

        phone = None
        if condition == "busy":
            phone = await setup.sipp(script.refusing_phone("486 Busy Here"))
        elif condition == "no_answer":
            phone = await setup.sipp(script.cancelled_phone())
        to = [f"sip:phone@127.0.0.1:{phone.port}"] if phone else []
        setup.line(number=line, to=to, offer={"fax": True}, forwards={condition: forward})

        seen = await setup.sipp_call(script.answered_call(line, caller))
        if phone:
            await phone.finish()
        if other:
            invites = (await other.finish()).invites()
        else:
            assert setup.reached(target) == [server]
            invites = setup.sipp_server(server).trace.invites(target)

        assert len(invites) == 1
        check_diversion(invites[0], [(line, condition)])
        if not other:
            check_history(invites[0], line, target, condition)
        if kind == "voicemail":
            check_deposit(invites[0], target, condition)
        assert invites[0].body == OFFER_BYTES
        assert seen.answer(200).body == ANSWER_BYTES
        assert 181 in seen.codes()
        assert seen.codes()[-1] == 200
        check_one_tag(seen.received)
        record = await setup.ended(
            seen.sent[0].call_id,
            condition=condition,
            destination=kind,
            outcome="answered",
            target=target,
            payer=line,
            code=200,
        )
        assert [f["condition"] for f in record["forwards"]] == [condition]

    return scenario


for _condition, _destination in product(CONDITIONS, DESTINATIONS):
    batch.add(f"{_condition}_to_{_destination}", forwarded(_condition, _destination))


@pytest.fixture(scope="module")
def outcomes(running_engine: RunningEngine, request: pytest.FixtureRequest) -> Outcomes:
    @asynccontextmanager
    async def open_set() -> AsyncIterator[Callable[[], Setup]]:
        async with running_engine.sipp_servers() as sipps:
            yield lambda: Setup(running_engine, sipps=sipps)

    return batch.play(open_set, names_in(request))


@pytest.mark.parametrize("name", batch.names)
def test_a_call_is_forwarded(name: str, outcomes: Outcomes) -> None:
    outcomes.check(name)
