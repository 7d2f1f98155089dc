"""`sip.outbound_proxy`: every outgoing leg is sent there first."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.proxy import FAR, FURTHER, check_route
from tests.scenarios.setup import ANSWER_BYTES, Setup, to_number, to_voicemail
from tests.scenarios.sipp import free_port
from tests.scenarios.test_registrar import phone_at

PORT = free_port()
PROXY = f"<sip:127.0.0.1:{PORT};lr>"
SETTINGS = {
    "sip": {
        "outbound_proxy": PROXY.strip("<>"),
        "registrar_peers": ["127.0.0.1/32", "127.0.0.2/32"],
    }
}


@pytest.fixture
async def proxy(setup: Setup) -> AsyncIterator[Endpoint]:
    """An endpoint at the proxy's address."""
    endpoint = await Endpoint.open(port=PORT)
    yield endpoint
    endpoint.close()


async def test_a_line_a_voicemail_and_a_number_are_all_called_through_it(
    setup: Setup, proxy: Endpoint
) -> None:
    target = numbers.outside_number()
    line, phone = await setup.line_with_phone()
    setup.change(line, forwards={"busy": to_voicemail(line)})
    call = await setup.call(line)
    ring = await proxy.incoming()
    check_route(ring.first, [PROXY], phone.uri())
    ring.respond(486)
    check_route(await ring.receive("ACK"), [PROXY], phone.uri())
    away = await proxy.incoming(line)
    assert away.first.values("Route") == [PROXY]
    assert f"@127.0.0.1:{setup.engine.ports['voicemail']};" in away.first.uri
    away.respond(486)
    await call.receive(486)
    other = setup.line(forwards={"unconditional": to_number(target)})
    call = await setup.call(other)
    away = await proxy.incoming(target)
    check_route(away.first, [PROXY], f"sip:{target}@127.0.0.1:{setup.engine.ports['number']}")
    await connect(call, away)
    await part(call, away)
    assert phone.requests() == []
    await setup.ended(call.call_id, outcome="answered")


@pytest.mark.parametrize("hops", [[FAR], [FAR, FURTHER]])
async def test_the_proxy_comes_before_the_path_of_a_phone(
    setup: Setup, proxy: Endpoint, hops: list[str]
) -> None:
    phone = await setup.endpoint()
    line = setup.line()
    setup.register(line, f'<{phone.uri()}>;path="{", ".join(hops)}"')
    call = await setup.call(line)
    ring = await proxy.incoming()
    check_route(ring.first, [PROXY, *hops], phone.uri())
    ring.respond(180)
    await call.receive(180)
    call.cancel()
    await call.receive(487)
    check_route(await ring.receive("CANCEL"), [PROXY, *hops], phone.uri())
    check_route(await ring.receive("ACK"), [PROXY, *hops], phone.uri())
    await setup.ended(call.call_id, outcome="cancelled")


async def test_a_path_that_begins_at_the_proxy_goes_there_once(
    setup: Setup, proxy: Endpoint
) -> None:
    """A Kamailio that is proxy and edge would otherwise have to send the request to itself."""
    phone = await setup.endpoint()
    path = f"<sip:127.0.0.1:{PORT};lr;received=sip:192.0.2.9:5060>"
    line = setup.line()
    setup.register(line, f'<{phone.uri()}>;path="{path}, {FAR}"')
    call = await setup.call(line)
    ring = await proxy.incoming()
    check_route(ring.first, [path, FAR], phone.uri())
    ring.respond(486)
    await call.receive(486)


@pytest.mark.parametrize("records", [True, False])
async def test_the_proxy_stays_on_the_route_if_it_records_one(
    setup: Setup, proxy: Endpoint, records: bool
) -> None:
    """RFC 3261 12.1.2: the route set of the dialog comes from the answer."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await proxy.incoming()
    proxy.show(phone)
    recorded = [("Record-Route", PROXY)] if records else []
    ring.respond(200, headers=recorded, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    routes = [PROXY] if records else []
    check_route(await ring.receive("ACK"), routes, phone.uri())
    await part(call, ring)
    check_route(ring.requests("BYE")[0], routes, phone.uri())
    assert proxy.requests() == (["INVITE", "ACK", "BYE"] if records else ["INVITE"])
    assert phone.requests() == ([] if records else ["ACK", "BYE"])


async def test_requests_to_the_caller_do_not_go_there(setup: Setup, proxy: Endpoint) -> None:
    line, _ = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await proxy.incoming()
    await connect(call, ring)
    await ring.hang_up()
    assert not (await call.receive("BYE")).has("Route")
    assert proxy.requests() == ["INVITE", "ACK"]


async def test_a_proxy_that_is_not_there_makes_every_phone_unreachable(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    await call.receive(480, wait_s=6)
    assert phone.requests() == []
    await setup.ended(call.call_id, outcome="unreachable")


async def test_no_phone_that_comes_by_itself_registers_at_the_proxy(setup: Setup) -> None:
    """An edge may, because edge and proxy are the same server."""
    contact = ("Contact", f"<sip:{numbers.outside_number()}@127.0.0.1:{PORT}>")
    for host, code in (("127.0.0.2", 403), ("127.0.0.1", 200)):
        phone = await phone_at(setup, host)
        assert (await phone.register(contact)).code == code
