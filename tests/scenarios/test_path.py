"""Phones that registered through an edge (Path, RFC 3327): calls to them go the same way."""

from __future__ import annotations

import socket

import pytest

from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.proxy import FAR, check_route, proxy_of
from tests.scenarios.setup import ANSWER_BYTES, Setup
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

UDP, TCP = free_port(), free_port(socket.SOCK_STREAM)
SETTINGS = {"sip": {"listen": [f"udp:127.0.0.1:{UDP}", f"tcp:127.0.0.1:{TCP}"]}}


async def registered(setup: Setup, more: str = "") -> tuple[str, Endpoint, Endpoint, list[str]]:
    """A line whose phone registered through an edge: its number, phone, edge and routes."""
    phone = await setup.endpoint()
    edge, route = await proxy_of(setup, phone)
    line = setup.line()
    setup.register(line, f'<{phone.uri()}>;path="{route}{"," if more else ""}{more}"')
    return line, phone, edge, [route, *([more] if more else [])]


async def edge_call(setup: Setup, line: str, edge: Endpoint) -> tuple[Call, Call]:
    """A call to the line, and the INVITE that the edge gets."""
    call = await setup.call(line)
    return call, await edge.incoming()


@pytest.mark.parametrize("more", ["", FAR])
async def test_a_phone_is_rung_by_the_path_it_registered_through(setup: Setup, more: str) -> None:
    line, phone, edge, routes = await registered(setup, more)
    call, ring = await edge_call(setup, line, edge)
    check_route(ring.first, routes, phone.uri())
    ring.endpoint.show(phone)
    await connect(call, ring)
    # From then on the answer counts: without Record-Route, directly to the Contact.
    await part(call, ring)
    for method in ("ACK", "BYE"):
        check_route(ring.requests(method)[0], [], phone.uri())
    assert edge.requests() == ["INVITE"]
    assert phone.requests() == ["ACK", "BYE"]


async def test_an_edge_that_records_its_route_stays_on_the_way(setup: Setup) -> None:
    line, phone, edge, routes = await registered(setup)
    call, ring = await edge_call(setup, line, edge)
    edge.show(phone)
    ring.respond(200, headers=[("Record-Route", routes[0])], body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    check_route(await ring.receive("ACK"), routes, phone.uri())
    await part(call, ring)
    check_route(ring.requests("BYE")[0], routes, phone.uri())
    assert edge.requests() == ["INVITE", "ACK", "BYE"]
    assert phone.requests() == []


@pytest.mark.parametrize("more", ["", FAR])
async def test_a_cancel_takes_the_path_of_its_invite(setup: Setup, more: str) -> None:
    line, phone, edge, routes = await registered(setup, more)
    call, ring = await edge_call(setup, line, edge)
    ring.respond(180)
    await call.receive(180)
    call.cancel()
    await call.receive(487)
    cancel = await ring.receive("CANCEL")
    check_route(cancel, routes, phone.uri())
    assert cancel.one("Via") == ring.first.one("Via")
    check_route(await ring.receive("ACK"), routes, phone.uri())
    assert edge.requests() == ["INVITE", "CANCEL", "ACK"]
    assert phone.requests() == []


async def test_the_ack_of_a_refusal_takes_the_path_of_its_invite(setup: Setup) -> None:
    line, phone, edge, routes = await registered(setup)
    call, ring = await edge_call(setup, line, edge)
    ring.respond(486)
    check_route(await ring.receive("ACK"), routes, phone.uri())
    await call.receive(486)
    assert edge.requests() == ["INVITE", "ACK"]


async def test_the_path_of_one_phone_is_not_taken_to_another(setup: Setup) -> None:
    line, phone, edge, routes = await registered(setup)
    other = await setup.endpoint()
    setup.register(line, other.uri())
    call, ring = await edge_call(setup, line, edge)
    check_route(ring.first, routes, phone.uri())
    beside = await other.incoming()
    check_route(beside.first, [], other.uri())
    beside.respond(486)
    await beside.receive("ACK")
    ring.respond(486)
    await call.receive(486)


async def test_a_path_with_a_user_and_parameters_comes_back_as_it_was(setup: Setup) -> None:
    """An edge uses them to identify its connections (RFC 3327 5.3, RFC 5626 5.2)."""
    phone = await setup.endpoint()
    edge, _ = await proxy_of(setup, phone)
    received = "received=sip:192.0.2.9:5061%3btransport%3dtls"
    route = f"<sip:Vskz%40tcQ==@127.0.0.1:{edge.port};lr;ob;nat=yes;{received};x>"
    line = setup.line()
    setup.register(line, f'<{phone.uri()};line=7>;path="{route}"')
    call, ring = await edge_call(setup, line, edge)
    check_route(ring.first, [route], f"{phone.uri()};line=7")
    ring.respond(486)
    await call.receive(486)


async def test_an_edge_on_tcp_is_reached_on_tcp_whatever_the_phone_has(setup: Setup) -> None:
    """The first route decides where a request goes: transport, Via and Contact follow it."""
    edge = await StreamEndpoint.listen()
    setup._stack.push_async_callback(edge.finish)
    phone = await setup.endpoint()
    route = f"<sip:edge@127.0.0.1:{edge.port};transport=tcp;lr>"
    line = setup.line()
    setup.register(line, f'<{phone.uri()}>;path="{route}"')
    call = await setup.call(line)
    ring = await edge.incoming()
    check_route(ring.first, [route], phone.uri())
    assert ring.first.one("Via").startswith(f"SIP/2.0/TCP 127.0.0.1:{TCP};")
    assert ring.first.one("Contact") == f"<sip:renvoi@127.0.0.1:{TCP};transport=tcp>"
    ring.respond(200, headers=[("Record-Route", route)], body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    await part(call, ring)
    for method in ("ACK", "BYE"):
        assert ring.requests(method)[0].values("Route") == [route]
    assert edge.made == 1
    assert not phone.heard
