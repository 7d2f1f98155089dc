"""A TCP peer whose network is cut: the dead connection is detected."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from tests.patience import within
from tests.scenarios.expect import connect, part
from tests.scenarios.network import Network
from tests.scenarios.setup import Setup
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

SETTINGS = {
    "sip": {
        "listen": [
            f"udp:127.0.0.1:{free_port()}",
            f"tcp:127.0.0.1:{free_port(socket.SOCK_STREAM)}",
        ]
    },
    "timers": {"pre_ringing_s": 5},
}


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


async def test_a_phone_whose_network_was_cut_is_found_again(setup: Setup, network: Network) -> None:
    phone = await StreamEndpoint.listen(sock=network.socket(socket.SOCK_STREAM))
    setup._stack.push_async_callback(phone.finish)
    line = setup.line(to=[phone.uri()])
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    assert setup.engine.metric("renvoi_connections") == 1

    network.cut()
    call = await setup.call(line)
    await call.receive(480, wait_s=8)
    await setup.ended(call.call_id, outcome="unreachable")
    deadline = time.monotonic() + within(20)
    while setup.engine.metric("renvoi_connections"):
        assert time.monotonic() < deadline, "the dead connection is kept"
        await asyncio.sleep(0.1)

    network.mend()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    await part(call, ring)
    assert phone.made == 2
