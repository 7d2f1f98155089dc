"""Calls that a line has forwarded outside and that come back to it.

The server outside rewrites Diversion, as Asterisk does: only number, reason and display name
remain.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part, refuse
from tests.scenarios.message import Message, user_of
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, Setup, identity, to_number, to_voicemail
from tests.scenarios.worker_pool import WorkerPool

WORKERS = 2


def rewritten(invite: Message) -> tuple[str, str]:
    """The topmost Diversion, rewritten by a server that keeps only the parameter reason."""
    entry = invite.values("Diversion")[0]
    found = re.match(r'("[^"]*") <sip:([^@]+)@[^>]*>.*;reason=([\w-]+)', entry)
    assert found, entry
    return "Diversion", f"{found[1]} <sip:{found[2]}@192.0.2.30>;reason={found[3]}"


async def back(
    setup: Setup, line: str, *fields: tuple[str, str], worker: int = 1, engine: Engine | None = None
) -> Call:
    """The call comes back from outside, to another worker, or another engine."""
    pool = setup.engine
    assert isinstance(pool, WorkerPool)
    address = engine.address if engine is not None else pool.address_of(worker)
    caller = numbers.caller_number()
    outside = await setup.endpoint()
    return outside.start(
        address, line, caller=caller, headers=[identity(caller), *fields], body=OFFER_BYTES
    )


async def sent_outside(setup: Setup, line: str) -> tuple[Call, Call]:
    """A call that the line has forwarded outside: the caller's side and the target's."""
    call = await setup.call(line)
    return call, await setup.server("number").incoming()


async def test_a_line_forwards_a_call_once_whichever_worker_it_comes_back_to(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    setup.change(line, forwards={"unconditional": to_number(numbers.outside_number())})
    await setup.settle()
    call, out = await sent_outside(setup, line)
    again = await back(setup, line, rewritten(out.first))
    ring = await phone.incoming()
    assert user_of(ring.first.values("Diversion")[0]) == line
    assert "Renvoi-" not in ring.first.one("Diversion")  # marks are for servers
    await connect(again, ring)
    out.respond(486)
    await call.receive(486)
    await part(again, ring)
    record = await setup.ended(again.call_id, condition="none", outcome="answered")
    assert not record["forwards"]


@pytest.mark.parametrize(("condition", "code"), [("unreachable", 480), ("busy", 486)])
async def test_where_the_forward_counts_as_off_the_caller_gets_the_code_of_the_condition(
    setup: Setup, condition: str, code: int
) -> None:
    phone = await setup.endpoint()
    contacts = [phone.uri()] if condition == "busy" else []
    forwards = {condition: to_number(numbers.outside_number())}
    line = setup.line(to=contacts, forwards=forwards)
    await setup.settle()
    call = await setup.call(line)
    if contacts:
        await refuse(await phone.incoming(), 486)
    out = await setup.server("number").incoming()
    again = await back(setup, line, rewritten(out.first))
    if contacts:
        await refuse(await phone.incoming(), 486)
    await again.receive(code)
    out.respond(486)
    await call.receive(486)
    assert len(setup.server("number").invited(out.first.user)) == 1


async def test_its_own_voicemail_takes_a_call_that_came_back(setup: Setup) -> None:
    forwards = {"unconditional": to_number(numbers.outside_number())}
    line = setup.line(forwards={**forwards, "unreachable": to_voicemail(numbers.line_number())})
    setup.change(line, forwards={**forwards, "unreachable": to_voicemail(line)})
    await setup.settle()
    call, out = await sent_outside(setup, line)
    again = await back(setup, line, rewritten(out.first))
    deposit = await setup.server("voicemail").incoming()
    await connect(again, deposit)
    await part(again, deposit)
    out.respond(486)
    await call.receive(486)


async def test_no_other_line_of_the_loop_is_reached_twice(setup: Setup) -> None:
    """A -> outside -> B -> A: B's forward counts as off, and B's phone rings."""
    first = setup.line(forwards={"unconditional": to_number(numbers.outside_number())})
    second, phone = await setup.line_with_phone()
    setup.change(second, forwards={"unconditional": to_number(first)})
    await setup.settle()
    call, out = await sent_outside(setup, first)
    again = await back(setup, second, rewritten(out.first))
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
async def test_a_forged_mark_turns_no_forward_off(setup: Setup, written: str) -> None:
    """It counts toward max_diversions, as any Diversion does."""
    line = setup.line(forwards={"unconditional": to_number(numbers.outside_number())})
    await setup.settle()
    call = await back(setup, line, ("Diversion", written.format(line=line)))
    out = await setup.server("number").incoming()
    assert len(out.first.values("Diversion")) == 2
    out.respond(486)
    await call.receive(486)


async def test_the_mark_of_one_line_does_not_count_for_another(setup: Setup) -> None:
    first = setup.line(forwards={"unconditional": to_number(numbers.outside_number())})
    second = setup.line(forwards={"unconditional": to_number(numbers.outside_number())})
    await setup.settle()
    call, out = await sent_outside(setup, first)
    name, value = rewritten(out.first)
    again = await back(setup, second, (name, value.replace(first, second)))
    further = await setup.server("number").incoming()
    for side in (out, further):
        side.respond(486)
    await call.receive(486)
    await again.receive(486)


async def test_another_engine_on_the_same_redis_knows_the_mark(
    setup: Setup, shared_redis: RedisServer, tmp_path: Path
) -> None:
    line, phone = await setup.line_with_phone()
    setup.change(line, forwards={"unconditional": to_number(numbers.outside_number())})
    await setup.settle()
    call, out = await sent_outside(setup, line)
    other = Engine(tmp_path, shared_redis.url)
    other.start()
    try:
        again = await back(setup, line, rewritten(out.first), engine=other)
        await refuse(await phone.incoming(), 486)
        await again.receive(486)
    finally:
        assert other.stop() == 0
    out.respond(486)
    await call.receive(486)


async def test_a_phone_does_not_get_the_mark(setup: Setup) -> None:
    second, phone = await setup.line_with_phone()
    first = setup.line(forwards={"unconditional": to_number(second)})
    await setup.settle()
    call = await setup.call(first)
    ring = await phone.incoming()
    assert "Renvoi-" not in ring.first.one("Diversion")
    await refuse(ring, 486)
    await call.receive(486)
