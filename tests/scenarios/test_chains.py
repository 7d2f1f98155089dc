"""Forwards that lead to lines with forwards of their own: chains, loops and their limits."""

from __future__ import annotations

import asyncio

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Headers
from tests.scenarios.expect import check_diversion, check_one_tag, connect, part, refuse
from tests.scenarios.message import parameters, user_of
from tests.scenarios.setup import Setup, to_number, to_voicemail

SETTINGS = {"limits": {"max_diversions": 5, "forwards_per_line": 3}}


async def test_a_chain_follows_each_lines_own_rules(setup: Setup) -> None:
    """A forwards all to B; B is busy and forwards to its voicemail."""
    last, phone = await setup.line_with_phone()
    setup.change(last, forwards={"busy": to_voicemail(last)})
    first = setup.line(forwards={"unconditional": to_number(last)})
    call = await setup.call(first)
    ring = await phone.incoming()
    check_diversion(ring.first, [(first, "unconditional")])
    await refuse(ring, 486)
    deposit = await setup.server("voicemail").incoming(last)
    check_diversion(deposit.first, [(last, "busy"), (first, "unconditional")])
    await connect(call, deposit)
    check_one_tag(call.received)
    await part(call, deposit)
    record = await setup.ended(
        call.call_id, condition="busy", destination="voicemail", target=last, payer=last
    )
    assert [(f["line"], f["condition"]) for f in record["forwards"]] == [
        (first, "unconditional"),
        (last, "busy"),
    ]


async def test_history_info_grows_along_a_chain(setup: Setup) -> None:
    target = numbers.outside_number()
    second = setup.line(forwards={"unreachable": to_number(target)})
    first = setup.line(forwards={"unconditional": to_number(second)})
    call = await setup.call(first)
    away = await setup.server("number").incoming(target)
    await connect(call, away)
    await part(call, away)
    entries = away.first.values("History-Info")
    assert [user_of(entry) for entry in entries] == [first, second, target]
    assert [parameters(entry)["index"] for entry in entries] == ["1", "1.1", "1.1.1"]
    assert ["cause=302" in entry for entry in entries] == [False, True, False]
    assert "cause=503" in entries[2]


async def test_a_loop_between_two_lines_ends(setup: Setup) -> None:
    """A -> B -> A: the second visit of A counts as off, so B's phone rings."""
    first, second = numbers.line_number(), numbers.line_number()
    phone = await setup.endpoint()
    setup.line(number=first, forwards={"unconditional": to_number(second)})
    setup.line(number=second, to=[phone.uri()], forwards={"unconditional": to_number(first)})
    call = await setup.call(first)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    check_diversion(ring.first, [(first, "unconditional")])


async def test_a_loop_without_phones_is_480(setup: Setup) -> None:
    first, second = numbers.line_number(), numbers.line_number()
    setup.line(number=first, forwards={"unreachable": to_number(second)})
    setup.line(number=second, forwards={"unreachable": to_number(first)})
    call = await setup.call(first)
    assert (await call.final()).code == 480
    check_one_tag(call.received)


def _chain(setup: Setup, lines: int, trigger: str) -> tuple[list[str], str]:
    """Lines that forward unconditionally, one to the next; the last one on `trigger`."""
    target = numbers.outside_number()
    chain = [numbers.line_number() for _ in range(lines)]
    for line, following in zip(chain, [*chain[1:], target], strict=True):
        condition = trigger if following == target else "unconditional"
        setup.line(number=line, forwards={condition: to_number(following)})
    return chain, target


async def test_the_fifth_forward_happens(setup: Setup) -> None:
    chain, target = _chain(setup, 5, "unreachable")
    call = await setup.call(chain[0])
    away = await setup.server("number").incoming(target)
    assert len(away.first.values("Diversion")) == 5
    await connect(call, away)
    await part(call, away)


async def test_the_sixth_forward_does_not_happen_and_gives_480(setup: Setup) -> None:
    chain, target = _chain(setup, 6, "unreachable")
    call = await setup.call(chain[0])
    assert (await call.final()).code == 480
    assert not setup.server("number").invited(target)


async def test_the_sixth_forward_of_a_busy_line_gives_486(setup: Setup) -> None:
    chain, target = _chain(setup, 6, "busy")
    phone = await setup.endpoint()
    setup.register(chain[-1], phone.uri())
    call = await setup.call(chain[0])
    await refuse(await phone.incoming(), 486)
    assert (await call.final()).code == 486
    assert not setup.server("number").invited(target)


def _diversions(count: int) -> Headers:
    return [
        ("Diversion", f"<sip:+3314199000{i}@x.example>;reason=user-busy;counter=1")
        for i in range(count)
    ]


def _counted_diversion(count: int) -> Headers:
    return [("Diversion", f"<sip:+33141990000@x.example>;reason=user-busy;counter={count}")]


def _one_line_of_diversions(count: int) -> Headers:
    return [("Diversion", ", ".join(value for _, value in _diversions(count)))]


def _history(count: int) -> Headers:
    index, entries = "1", ["<sip:+33141990009@x.example>;index=1"]
    for hop in range(count):
        index += ".1"
        entries.append(f"<sip:+3314199001{hop}@x.example;cause=302>;index={index}")
    return [("History-Info", ", ".join(entries))]


@pytest.mark.parametrize(
    "received", [_diversions, _counted_diversion, _one_line_of_diversions, _history]
)
async def test_forwards_made_before_us_count(setup: Setup, received: object) -> None:
    assert callable(received)
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = await setup.call(line, headers=received(4))
    away = await setup.server("number").incoming(target)
    await connect(call, away)
    await part(call, away)
    call = await setup.call(line, headers=received(5))
    assert (await call.final()).code == 480
    assert len(setup.server("number").invited(target)) == 1


async def test_max_forwards_is_one_less_on_every_leg(setup: Setup) -> None:
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    for given, expected in ((70, "69"), (1, "0")):
        call = await setup.call(line, max_forwards=given)
        away = await setup.server("number").incoming(target)
        assert away.first.one("Max-Forwards") == expected
        await connect(call, away)
        await part(call, away)


async def test_a_loop_through_the_outside_is_capped_per_line(setup: Setup) -> None:
    """A gateway that returns the call without Diversion or Max-Forwards."""
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    calls = [await setup.call(line) for _ in range(3)]
    aways = [await setup.server("number").incoming(target) for _ in range(3)]
    one_more = await setup.call(line)
    assert (await one_more.final()).code >= 400
    assert len(setup.server("number").invited(target)) == 3
    for call in calls:
        call.cancel()
    for away in aways:
        away.respond(180)
        await away.receive("ACK")
    await asyncio.gather(*(call.receive(487) for call in calls))
    again = await setup.call(line)
    away = await setup.server("number").incoming(target)
    await connect(again, away)
    await part(again, away)


async def test_the_secretary_reaches_the_boss(setup: Setup) -> None:
    """All calls of the boss go to the secretary, except the secretary's own."""
    secretary, desk = await setup.line_with_phone()
    boss, phone = await setup.line_with_phone(forwards={"unconditional": to_number(secretary)})
    call = await setup.call(boss, caller=secretary)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    assert not desk.invited()
    assert not ring.first.has("Diversion")
    call = await setup.call(boss)
    ring = await desk.incoming()
    await connect(call, ring)
    await part(call, ring)


async def test_a_secretary_is_not_sent_to_her_own_phone_when_the_boss_is_busy(
    setup: Setup,
) -> None:
    secretary, desk = await setup.line_with_phone()
    boss, phone = await setup.line_with_phone(forwards={"busy": to_number(secretary)})
    call = await setup.call(boss, caller=secretary)
    await refuse(await phone.incoming(), 486)
    assert (await call.final()).code == 486
    assert not desk.invited()


async def test_an_outside_number_that_is_the_target_reaches_the_line(setup: Setup) -> None:
    mobile = numbers.mobile_number()
    line, phone = await setup.line_with_phone(forwards={"unconditional": to_number(mobile)})
    call = await setup.call(line, caller="0" + mobile[3:])
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (486, 486),
        (603, 603),
        (488, 488),
        (403, 403),
        (404, 480),
        (408, 480),
        (500, 480),
        (503, 480),
    ],
)
async def test_a_target_that_fails_gives_its_code_and_no_second_forward(
    setup: Setup, code: int, expected: int
) -> None:
    target = numbers.outside_number()
    line = numbers.line_number()
    others = {"busy": to_voicemail(line), "unreachable": to_voicemail(line)}
    setup.line(number=line, forwards={"unconditional": to_number(target), **others})
    call = await setup.call(line)
    await refuse(await setup.server("number").incoming(target), code)
    assert (await call.final()).code == expected
    assert not setup.server("voicemail").invited(line)
    await setup.ended(call.call_id, condition="unconditional", code=expected)


@pytest.mark.parametrize("code", [401, 407, 302])
async def test_a_challenge_or_redirect_of_a_target_is_never_relayed(
    setup: Setup, code: int
) -> None:
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = await setup.call(line)
    await refuse(await setup.server("number").incoming(target), code)
    assert (await call.final()).code == 480
