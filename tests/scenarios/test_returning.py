"""Calls that a line has sent outside and that come back to it.

Nothing is left of what says so but what a server keeps that writes Diversion anew, as Asterisk
does: number, reason and display name.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scenarios import numbers
from tests.scenarios.crew import Crew
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part, refuse
from tests.scenarios.message import Message, user_of
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.stage import OFFER_BYTES, Stage, identity, to_number, to_voicemail

WORKERS = 2


def rewritten(invite: Message) -> tuple[str, str]:
    """The topmost Diversion, as a server writes it that keeps no parameter of it but the reason."""
    entry = invite.values("Diversion")[0]
    found = re.match(r'("[^"]*") <sip:([^@]+)@[^>]*>.*;reason=([\w-]+)', entry)
    assert found, entry
    return "Diversion", f"{found[1]} <sip:{found[2]}@192.0.2.30>;reason={found[3]}"


async def back(
    stage: Stage, line: str, *fields: tuple[str, str], worker: int = 1, engine: Engine | None = None
) -> Call:
    """The call comes back from outside, to another worker, or another engine."""
    crew = stage.engine
    assert isinstance(crew, Crew)
    address = engine.address if engine is not None else crew.address_of(worker)
    caller = numbers.caller_number()
    outside = await stage.endpoint()
    return outside.start(
        address, line, caller=caller, headers=[identity(caller), *fields], body=OFFER_BYTES
    )


async def sent_outside(stage: Stage, line: str) -> tuple[Call, Call]:
    """A call that the line's forward has sent outside: the caller's side and the target's."""
    call = await stage.call(line)
    return call, await stage.server("number").incoming()


async def test_a_line_forwards_a_call_once_whichever_worker_it_comes_back_to(stage: Stage) -> None:
    line, phone = await stage.line_with_phone()
    stage.change(line, forwards={"unconditional": to_number(numbers.outside_number())})
    await stage.settle()
    call, out = await sent_outside(stage, line)
    again = await back(stage, line, rewritten(out.first))
    ring = await phone.incoming()
    assert user_of(ring.first.values("Diversion")[0]) == line
    assert "Renvoi-" not in ring.first.one("Diversion")  # marks are for servers
    await connect(again, ring)
    out.respond(486)
    await call.receive(486)
    await part(again, ring)
    record = await stage.ended(again.call_id, condition="none", outcome="answered")
    assert not record["forwards"]


@pytest.mark.parametrize(("condition", "code"), [("unreachable", 480), ("busy", 486)])
async def test_where_the_forward_counts_as_off_the_caller_hears_the_condition(
    stage: Stage, condition: str, code: int
) -> None:
    phone = await stage.endpoint()
    contacts = [phone.uri()] if condition == "busy" else []
    forwards = {condition: to_number(numbers.outside_number())}
    line = stage.line(to=contacts, forwards=forwards)
    await stage.settle()
    call = await stage.call(line)
    if contacts:
        await refuse(await phone.incoming(), 486)
    out = await stage.server("number").incoming()
    again = await back(stage, line, rewritten(out.first))
    if contacts:
        await refuse(await phone.incoming(), 486)
    await again.receive(code)
    out.respond(486)
    await call.receive(486)
    assert len(stage.server("number").invited(out.first.user)) == 1


async def test_its_own_voicemail_is_there_for_a_call_that_came_back(stage: Stage) -> None:
    forwards = {"unconditional": to_number(numbers.outside_number())}
    line = stage.line(forwards={**forwards, "unreachable": to_voicemail(numbers.line_number())})
    stage.change(line, forwards={**forwards, "unreachable": to_voicemail(line)})
    await stage.settle()
    call, out = await sent_outside(stage, line)
    again = await back(stage, line, rewritten(out.first))
    deposit = await stage.server("voicemail").incoming()
    await connect(again, deposit)
    await part(again, deposit)
    out.respond(486)
    await call.receive(486)


async def test_no_other_line_of_the_circle_is_met_twice(stage: Stage) -> None:
    """A -> outside -> B -> A: B's forward counts as off, and B's phone rings."""
    first = stage.line(forwards={"unconditional": to_number(numbers.outside_number())})
    second, phone = await stage.line_with_phone()
    stage.change(second, forwards={"unconditional": to_number(first)})
    await stage.settle()
    call, out = await sent_outside(stage, first)
    again = await back(stage, second, rewritten(out.first))
    await refuse(await phone.incoming(), 486)
    await again.receive(486)
    out.respond(486)
    await call.receive(486)


@pytest.mark.parametrize(
    "written",
    [
        "<sip:{line}@192.0.2.30>;reason=unconditional",
        '"Renvoi-ABCDEFGHIJKL" <sip:{line}@192.0.2.30>;reason=unconditional',
    ],
    ids=["unsigned", "forged"],
)
async def test_nobody_else_turns_a_forward_off(stage: Stage, written: str) -> None:
    """It counts toward max_diversions, as any Diversion does."""
    line = stage.line(forwards={"unconditional": to_number(numbers.outside_number())})
    await stage.settle()
    call = await back(stage, line, ("Diversion", written.format(line=line)))
    out = await stage.server("number").incoming()
    assert len(out.first.values("Diversion")) == 2
    out.respond(486)
    await call.receive(486)


async def test_the_mark_of_one_line_says_nothing_of_another(stage: Stage) -> None:
    first = stage.line(forwards={"unconditional": to_number(numbers.outside_number())})
    second = stage.line(forwards={"unconditional": to_number(numbers.outside_number())})
    await stage.settle()
    call, out = await sent_outside(stage, first)
    name, value = rewritten(out.first)
    again = await back(stage, second, (name, value.replace(first, second)))
    further = await stage.server("number").incoming()
    for side in (out, further):
        side.respond(486)
    await call.receive(486)
    await again.receive(486)


async def test_another_engine_on_the_same_redis_knows_the_mark(
    stage: Stage, shared_redis: RedisServer, tmp_path: Path
) -> None:
    line, phone = await stage.line_with_phone()
    stage.change(line, forwards={"unconditional": to_number(numbers.outside_number())})
    await stage.settle()
    call, out = await sent_outside(stage, line)
    other = Engine(tmp_path, shared_redis.url)
    other.start()
    try:
        again = await back(stage, line, rewritten(out.first), engine=other)
        await refuse(await phone.incoming(), 486)
        await again.receive(486)
    finally:
        assert other.stop() == 0
    out.respond(486)
    await call.receive(486)


async def test_a_phone_is_not_told_the_mark(stage: Stage) -> None:
    second, phone = await stage.line_with_phone()
    first = stage.line(forwards={"unconditional": to_number(second)})
    await stage.settle()
    call = await stage.call(first)
    ring = await phone.incoming()
    assert "Renvoi-" not in ring.first.one("Diversion")
    await refuse(ring, 486)
    await call.receive(486)
