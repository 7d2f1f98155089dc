"""Proxies on the route: Record-Route and Route; each request visits them in order."""

from __future__ import annotations

import pytest

from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.message import Message, address_of, parameters
from tests.scenarios.proxy import FAR, FURTHER, check_route, proxy_of
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup, to_voicemail


async def update(asker: Call, asked: Call) -> Message:
    """An UPDATE through the engine; returns it as the other side got it."""
    asker.request("UPDATE", body=OFFER_BYTES)
    request = await asked.receive("UPDATE")
    asked.respond(200, to=request)
    await asker.receive(200, "UPDATE")
    return request


async def reinvite(asker: Call, asked: Call) -> tuple[Message, Message]:
    """A re-INVITE through the engine; returns it and its ACK as the other side got them."""
    asker.request("INVITE", body=OFFER_BYTES)
    request = await asked.receive("INVITE")
    asked.respond(200, to=request, body=ANSWER_BYTES)
    asker.ack(await asker.receive(200))
    return request, await asked.receive("ACK")


@pytest.mark.parametrize("style", ["lines", "commas"])
@pytest.mark.parametrize("more", [[], [FAR], [FAR, FURTHER]])
async def test_requests_to_the_caller_take_the_way_its_invite_came(
    setup: Setup, more: list[str], style: str
) -> None:
    """RFC 3261 12.1.1: the route set of the called side is the Record-Route in its order."""
    line, phone = await setup.line_with_phone()
    caller = await setup.endpoint()
    proxy, route = await proxy_of(setup, caller)
    routes = [route, *more]
    fields = routes if style == "lines" else [", ".join(routes)]
    call = caller.start(
        setup.engine.address,
        line,
        caller="ua",
        headers=[("Record-Route", field) for field in fields],
        body=OFFER_BYTES,
    )
    contact = address_of(call.first.one("Contact"))
    ring = await phone.incoming()
    assert not ring.first.has("Record-Route")
    assert not ring.first.has("Route")
    for code in (180, 183):
        ring.respond(code)
        assert (await call.receive(code)).values("Record-Route") == routes
    answer = await connect(call, ring, ring=False)
    assert answer.values("Record-Route") == routes
    check_route(await update(ring, call), routes, contact)
    for request in await reinvite(ring, call):
        check_route(request, routes, contact)
    assert not (await update(call, ring)).has("Route")
    await ring.hang_up()
    check_route(await call.receive("BYE"), routes, contact)
    assert proxy.requests() == ["UPDATE", "INVITE", "ACK", "BYE"]
    await setup.ended(call.call_id, outcome="answered")


async def test_the_way_to_the_caller_holds_after_a_forward(setup: Setup) -> None:
    line = setup.line()
    setup.change(line, forwards={"unreachable": to_voicemail(line)})
    caller = await setup.endpoint()
    proxy, route = await proxy_of(setup, caller)
    call = caller.start(
        setup.engine.address, line, headers=[("Record-Route", route)], body=OFFER_BYTES
    )
    away = await setup.server("voicemail").incoming(line)
    assert not away.first.has("Record-Route")
    assert (await call.receive(181)).values("Record-Route") == [route]
    await connect(call, away)
    await away.hang_up()
    check_route(await call.receive("BYE"), [route], address_of(call.first.one("Contact")))
    assert proxy.requests() == ["BYE"]


@pytest.mark.parametrize("more", [[], [FAR], [FURTHER, FAR]])
async def test_requests_to_a_phone_take_the_way_its_answer_came(
    setup: Setup, more: list[str]
) -> None:
    """RFC 3261 12.1.2: the route set of the calling side is the Record-Route backwards."""
    line, phone = await setup.line_with_phone()
    proxy, route = await proxy_of(setup, phone)
    recorded = [("Record-Route", value) for value in [*more, route]]
    backwards = [route, *reversed(more)]
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180, headers=recorded)
    assert not (await call.receive(180)).has("Record-Route")
    ring.respond(200, headers=recorded, body=ANSWER_BYTES)
    answer = await call.receive(200)
    assert not answer.has("Record-Route")
    call.ack(answer)
    contact = phone.uri()
    check_route(await ring.receive("ACK"), backwards, contact)
    check_route(await update(call, ring), backwards, contact)
    for request in await reinvite(call, ring):
        check_route(request, backwards, contact)
    await part(call, ring)
    check_route(ring.requests("BYE")[0], backwards, contact)
    assert proxy.requests() == ["ACK", "UPDATE", "INVITE", "ACK", "BYE"]


async def test_the_answer_decides_the_route_not_an_earlier_18x(setup: Setup) -> None:
    """RFC 3261 13.2.2.4: the route set is recomputed from the 2xx."""
    line, phone = await setup.line_with_phone()
    first, early = await proxy_of(setup, phone)
    second, late = await proxy_of(setup, phone)
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180, headers=[("Record-Route", early)])
    await call.receive(180)
    check_route(await update(call, ring), [early], phone.uri())
    ring.respond(200, headers=[("Record-Route", late)], body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    check_route(await ring.receive("ACK"), [late], phone.uri())
    await part(call, ring)
    assert first.requests() == ["UPDATE"]
    assert second.requests() == ["ACK", "BYE"]


async def test_a_lost_ack_is_sent_again_the_same_way(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    _, route = await proxy_of(setup, phone)
    call = await setup.call(line)
    ring = await phone.incoming()
    answered = ring.respond(200, headers=[("Record-Route", route)], body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    acks = [await ring.receive("ACK")]
    ring.repeat(answered)
    acks.append(await ring.receive("ACK"))
    for ack in acks:
        check_route(ack, [route], phone.uri())
    await part(call, ring)


@pytest.mark.parametrize("more", [[], [FAR]])
async def test_a_route_that_names_the_engine_is_harmless(setup: Setup, more: list[str]) -> None:
    """A pre-loaded Route: a proxy in front of the engine, or a caller, routes the call here by
    it."""
    host, port = setup.engine.address
    own = f"<sip:{host}:{port};lr>"
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=[("Route", own), *(("Route", hop) for hop in more)])
    ring = await phone.incoming()
    assert not ring.first.has("Route")
    assert ring.first.uri == phone.uri()
    await connect(call, ring)
    call.request("INFO", headers=[("Route", own)], body=b"x", content_type="text/plain")
    request = await ring.receive("INFO")
    assert not request.has("Route")
    ring.respond(200, to=request)
    await call.receive(200, "INFO")
    assert not (await update(ring, call)).has("Route")
    call.request("BYE", headers=[("Route", own)])
    await call.receive(200, "BYE")
    await ring.receive("BYE")
    await setup.ended(call.call_id, outcome="answered")


@pytest.mark.parametrize("side", ["caller", "phone"])
async def test_a_strict_router_is_the_target_and_the_contact_comes_last(
    setup: Setup, side: str
) -> None:
    """RFC 3261 12.2.1.1: a first route without `lr`, as of RFC 2543."""
    line, phone = await setup.line_with_phone()
    caller = await setup.endpoint()
    proxy, loose = await proxy_of(setup, caller if side == "caller" else phone)
    strict = loose.replace(";lr", "")
    recorded = [("Record-Route", strict), ("Record-Route", FAR)]
    if side == "phone":
        recorded.reverse()
    call = caller.start(
        setup.engine.address,
        line,
        caller="ua",
        headers=recorded if side == "caller" else [],
        body=OFFER_BYTES,
    )
    ring = await phone.incoming()
    ring.respond(200, headers=recorded if side == "phone" else [], body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    ack = await ring.receive("ACK")
    asker, asked = (ring, call) if side == "caller" else (call, ring)
    contact = f"<{address_of(call.first.one('Contact')) if side == 'caller' else phone.uri()}>"
    target = strict.strip("<>")
    if side == "phone":
        check_route(ack, [FAR, contact], target)
    check_route(await update(asker, asked), [FAR, contact], target)
    for request in await reinvite(asker, asked):
        check_route(request, [FAR, contact], target)
    await part(asker, asked)
    check_route(asked.requests("BYE")[0], [FAR, contact], target)
    expected = ["UPDATE", "INVITE", "ACK", "BYE"]
    assert proxy.requests() == (["ACK", *expected] if side == "phone" else expected)


@pytest.mark.parametrize("lr", ["lr", "lr=on", "transport=udp;r2=on;ftag=a1;lr", "LR;did=9.1"])
async def test_loose_routers_are_marked_in_several_ways(setup: Setup, lr: str) -> None:
    line, phone = await setup.line_with_phone()
    caller = await setup.endpoint()
    proxy, _ = await proxy_of(setup, caller)
    route = f"<sip:127.0.0.1:{proxy.port};{lr}>"
    call = caller.start(setup.engine.address, line, caller="ua", headers=[("Record-Route", route)])
    ring = await phone.incoming()
    await connect(call, ring)
    request = await update(ring, call)
    assert request.uri == caller.uri()
    (taken,) = request.values("Route")
    # `lr` may have no value, and may come before the others, with the same meaning (RFC 3261
    # 19.1.4).
    wanted, found = parameters(f";{lr.lower()}"), parameters(taken.rstrip(">").partition("<")[2])
    assert found in (wanted, wanted | {"lr": ""})
    await part(ring, call)
    assert proxy.requests() == ["UPDATE", "BYE"]


async def test_a_contact_that_nothing_can_be_sent_to_keeps_no_call_from_ending(
    setup: Setup,
) -> None:
    """The port of another scheme's URI may be any number. The phone hangs up, and the BYE to the
    caller has nowhere to go."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    call.cseq += 1
    update = call._within("UPDATE", call.cseq, headers=(), body=b"")
    call._send(update.replace(call.endpoint.uri().encode(), b"tel:x@127.0.0.1:99999"))
    ring.respond(200, to=await ring.receive("UPDATE"))
    await call.receive(200, "UPDATE")
    await ring.hang_up()
    call.state = "ended"
    await setup.ended(call.call_id, outcome="answered")
    assert not setup.engine.complaints()
