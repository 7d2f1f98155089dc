"""A line with several phones: all ring, the first answer wins, one bad contact does no harm."""

from __future__ import annotations

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import check_one_tag, connect, part, refuse
from tests.scenarios.setup import ANSWER_BYTES, Setup, all_to_numbers, to_number
from tests.scenarios.sipp import free_port


async def three_phones(setup: Setup) -> tuple[str, dict[str, str], list[Endpoint]]:
    phones = [await setup.endpoint() for _ in range(3)]
    targets, forwards = all_to_numbers()
    line = setup.line(to=[phone.uri() for phone in phones], forwards=forwards)
    return line, dict(targets), phones


async def ring_all(call: Call, phones: list[Endpoint]) -> list[Call]:
    rings = [await phone.incoming() for phone in phones]
    for ring in rings:
        ring.respond(180)
    await call.receive(180)
    return rings


async def reach(setup: Setup, call: Call, target: str) -> None:
    away = await setup.server("number").incoming(target)
    await connect(call, away)
    await part(call, away)


async def test_the_first_answer_wins_and_the_others_are_cancelled(setup: Setup) -> None:
    line, _, phones = await three_phones(setup)
    call = await setup.call(line)
    rings = await ring_all(call, phones)
    await connect(call, rings[1], ring=False)
    for other in (rings[0], rings[2]):
        cancel = await other.receive("CANCEL")
        reason = cancel.one("Reason")
        assert reason.startswith("SIP")
        assert "cause=200" in reason
        assert '"Call completed elsewhere"' in reason
        await other.receive("ACK")
    check_one_tag(call.received)
    await part(call, rings[1])
    await setup.ended(call.call_id, condition="none", destination="line", outcome="answered")


async def test_two_answers_at_once_leave_one_call(setup: Setup) -> None:
    line, _, phones = await three_phones(setup)
    call = await setup.call(line)
    rings = await ring_all(call, phones)
    for ring in rings[:2]:
        ring.automatic.discard("CANCEL")
        ring.respond(200, body=ANSWER_BYTES)
    answer = await call.receive(200)
    call.ack(answer)
    await rings[2].receive("CANCEL")
    for ring in rings[:2]:
        await ring.receive("ACK")
    await rings[1].receive("BYE")
    assert call.codes().count(200) == 1
    await part(call, rings[0])


async def test_486_stops_one_phone_only(setup: Setup) -> None:
    line, _, phones = await three_phones(setup)
    call = await setup.call(line)
    rings = await ring_all(call, phones)
    await refuse(rings[0], 486)
    await connect(call, rings[2], ring=False)
    await part(call, rings[2])


async def test_480_stops_one_phone_only(setup: Setup) -> None:
    line, _, phones = await three_phones(setup)
    call = await setup.call(line)
    rings = await ring_all(call, phones)
    await refuse(rings[0], 480)
    await refuse(rings[1], 480)
    await connect(call, rings[2], ring=False)
    await part(call, rings[2])


async def test_603_stops_all(setup: Setup) -> None:
    line, targets, phones = await three_phones(setup)
    call = await setup.call(line)
    rings = await ring_all(call, phones)
    await refuse(rings[0], 603)
    for other in rings[1:]:
        await other.receive("CANCEL")
    await reach(setup, call, targets["busy"])


async def test_600_stops_all(setup: Setup) -> None:
    line, targets, phones = await three_phones(setup)
    call = await setup.call(line)
    rings = await ring_all(call, phones)
    await refuse(rings[2], 600)
    for other in rings[:2]:
        await other.receive("CANCEL")
    await reach(setup, call, targets["busy"])


async def test_one_stale_contact_does_no_harm(setup: Setup) -> None:
    phone = await setup.endpoint()
    silent = await setup.endpoint()
    targets, forwards = all_to_numbers()
    stale = [f"sip:old@127.0.0.1:{free_port()}", silent.uri(), "sip:x@nowhere.invalid"]
    line = setup.line(to=[*stale, phone.uri()], forwards=forwards)
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    for target in targets.values():
        assert not setup.server("number").invited(target)


async def test_the_line_is_busy_when_every_phone_that_is_there_is(setup: Setup) -> None:
    phones = [await setup.endpoint() for _ in range(2)]
    targets, forwards = all_to_numbers()
    gone = await setup.endpoint()
    to = [phone.uri() for phone in (*phones, gone)]
    line = setup.line(to=to, forwards=forwards)
    call = await setup.call(line)
    await refuse(await gone.incoming(), 404)
    for phone in phones:
        await refuse(await phone.incoming(), 486)
    await reach(setup, call, targets["busy"])


async def test_the_line_is_unreachable_when_every_phone_is(setup: Setup) -> None:
    phones = [await setup.endpoint() for _ in range(2)]
    targets, forwards = all_to_numbers()
    line = setup.line(to=[phone.uri() for phone in phones], forwards=forwards)
    call = await setup.call(line)
    await refuse(await phones[0].incoming(), 404)
    await refuse(await phones[1].incoming(), 503)
    await reach(setup, call, targets["unreachable"])


async def test_the_caller_who_cancels_stops_every_phone(setup: Setup) -> None:
    line, _, phones = await three_phones(setup)
    call = await setup.call(line)
    rings = await ring_all(call, phones)
    call.cancel()
    await call.receive(487)
    for ring in rings:
        await ring.receive("CANCEL")
        await ring.receive("ACK")


async def test_a_phone_behind_an_edge_is_reached_through_its_path(setup: Setup) -> None:
    edge = await setup.endpoint()
    line = setup.line()
    path = f"sip:127.0.0.1:{edge.port};lr"
    setup.register(line, f'<sip:phone@192.0.2.77:5060>;path="<{path}>"')
    call = await setup.call(line)
    ring = await edge.incoming()
    assert ring.first.uri == "sip:phone@192.0.2.77:5060"
    assert path in ring.first.one("Route")
    await connect(call, ring)
    await part(call, ring)


async def test_an_expired_contact_is_not_rung(setup: Setup) -> None:
    gone, here = await setup.endpoint(), await setup.endpoint()
    line = setup.line(to=[here.uri()], forwards={"busy": to_number(numbers.outside_number())})
    setup.register(line, gone.uri(), expires_s=-5)
    call = await setup.call(line)
    ring = await here.incoming()
    await connect(call, ring)
    await part(call, ring)
    assert not gone.invited()


async def test_one_phone_that_forwards_by_itself_is_one_phone_less(setup: Setup) -> None:
    """Its 302 stops no other phone, and the responses of the others decide."""
    fraud = f"<sip:+881623400000@127.0.0.1:{setup.engine.ports['number']}>"
    for said, condition in (486, "busy"), (480, "no_answer"), (302, "no_answer"):
        line, targets, phones = await three_phones(setup)
        call = await setup.call(line)
        rings = [await phone.incoming() for phone in phones]
        await refuse(rings[0], 302, headers=[("Contact", fraud)])
        for ring in rings[1:]:
            if condition == "no_answer":
                ring.respond(180)
                await call.receive(180)
        for ring in rings[1:]:
            await refuse(ring, said)
        await reach(setup, call, targets[condition])
        await setup.ended(call.call_id, condition=condition, outcome="answered")
        assert not setup.server("number").invited("+881623400000")


async def test_a_phone_that_forwards_by_itself_leaves_the_call_to_the_others(setup: Setup) -> None:
    line, _, phones = await three_phones(setup)
    call = await setup.call(line)
    rings = [await phone.incoming() for phone in phones]
    await refuse(rings[0], 302)
    await refuse(rings[1], 405)
    await connect(call, rings[2])
    await part(call, rings[2])
    await setup.ended(call.call_id, condition="none", destination="line", outcome="answered")
