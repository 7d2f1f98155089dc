"""The source of the engine's own connections: peers know it by its listening address."""

from __future__ import annotations

import socket

import pytest

from tests.scenarios.certificates import CA, OWN, OWN_KEY, PHONE, PHONE_KEY, server_context
from tests.scenarios.expect import connect, part
from tests.scenarios.setup import Setup, to_number
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

pytestmark = pytest.mark.usefixtures("certificates")
UDP = free_port()
PORTS = {name: free_port(socket.SOCK_STREAM) for name in ("tcp", "tls")}
OURS = "127.0.0.2"
SETTINGS = {
    "sip": {
        "listen": [
            f"udp:127.0.0.1:{UDP}",
            f"tcp:{OURS}:{PORTS['tcp']}",
            f"tls:{OURS}:{PORTS['tls']}",
        ],
        "tls_certificate": str(OWN),
        "tls_key": str(OWN_KEY),
        "tls_ca": str(CA),
    },
}


async def endpoint(setup: Setup, transport: str) -> StreamEndpoint:
    context = server_context(PHONE, PHONE_KEY) if transport == "tls" else None
    made = await StreamEndpoint.listen(server_tls=context)
    setup._stack.push_async_callback(made.finish)
    return made


def sources(phone: StreamEndpoint) -> set[str]:
    return {host for host, _ in phone.streams}


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_a_connection_leaves_from_the_address_that_is_listened_on(
    setup: Setup, transport: str
) -> None:
    phone = await endpoint(setup, transport)
    call = await setup.call(setup.line(to=[phone.uri()]))
    ring = await phone.incoming()
    assert ring.first.one("Via").startswith(f"SIP/2.0/{transport.upper()} {OURS}:")
    await connect(call, ring)
    ring.request("INFO", body=b"x", content_type="text/plain")
    request = await call.receive("INFO")
    call.respond(200, to=request)
    await ring.receive(200, "INFO")
    await part(call, ring)
    assert sources(phone) == {OURS}


async def test_a_forward_over_a_path_leaves_from_there_too(setup: Setup) -> None:
    edge = await endpoint(setup, "tcp")
    line = setup.line(to=[f'<sip:a@192.0.2.1>;path="<{edge.uri()};lr>"'])
    forwards = {"unconditional": to_number(line)}
    call = await setup.call(setup.line(forwards=forwards))
    ring = await edge.incoming()
    await connect(call, ring)
    await part(call, ring)
    assert sources(edge) == {OURS}
