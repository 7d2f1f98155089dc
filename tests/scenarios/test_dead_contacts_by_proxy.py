"""Contacts behind `sip.outbound_proxy`: it looks up their names, so the engine does before."""

from __future__ import annotations

import pytest

from tests.scenarios.endpoint import Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.nameserver import NameServer
from tests.scenarios.proxy import check_route
from tests.scenarios.setup import Setup
from tests.scenarios.sipp import free_port

PORT, DNS = free_port(), free_port()
PROXY = f"<sip:127.0.0.1:{PORT};lr>"
SETTINGS = {
    "sip": {"outbound_proxy": PROXY.strip("<>"), "nameservers": [f"127.0.0.1:{DNS}"]},
}


@pytest.fixture
async def proxy(setup: Setup) -> Endpoint:
    endpoint = await Endpoint.open(port=PORT)
    setup._stack.callback(endpoint.close)
    return endpoint


async def test_a_contact_that_is_the_proxy_by_another_name_is_never_rung(
    setup: Setup, proxy: Endpoint
) -> None:
    """The proxy would relay it by its user part, without billing. The name in the configuration may
    be used by an edge for itself."""
    names = NameServer(setup.running_engine.directory, DNS)
    await names.start("host-record=evil.test,127.0.0.1", "host-record=pabx.test,127.0.0.1")
    try:
        for place in (
            f"evil.test:{PORT}",
            f"evil.test:{setup.engine.ports['number']}",
            f"evil.test:{setup.engine.address[1]}",
        ):
            call = await setup.call(setup.line(to=[f"sip:+33899123456@{place}"]))
            await call.receive(480)
        assert not proxy.invited()
        for contact in (f"sip:a@127.0.0.1:{PORT}", f"sip:a@pabx.test:{free_port()}"):
            call = await setup.call(setup.line(to=[contact]))
            ring = await proxy.incoming()
            check_route(ring.first, [PROXY], contact)
            await connect(call, ring)
            await part(call, ring)
    finally:
        names.stop()


async def test_a_name_without_an_answer_may_lead_anywhere(setup: Setup, proxy: Endpoint) -> None:
    """Except the name of the edge, which is trusted."""
    call = await setup.call(setup.line(to=["sip:+33899123456@unanswered.test"]))
    await call.receive(480)
    assert not proxy.invited()
    member = '<sip:a@192.0.2.1>;path="<sip:edge.unanswered.test;lr>"'
    call = await setup.call(setup.line(to=[member]))
    ring = await proxy.incoming()
    check_route(ring.first, [PROXY, "<sip:edge.unanswered.test;lr>"], "sip:a@192.0.2.1")
    await connect(call, ring)
    await part(call, ring)
