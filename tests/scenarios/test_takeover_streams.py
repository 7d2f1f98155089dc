"""A takeover over TCP that reaches the wrong worker is redirected to that of its dialog."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.scenarios import numbers
from tests.scenarios.expect import connect, part
from tests.scenarios.message import address_of
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import OFFER_BYTES, RunningEngine, Setup, identity, started_engine
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint
from tests.scenarios.test_transfer import own, talk
from tests.scenarios.worker_pool import WorkerPool

TCP = free_port(socket.SOCK_STREAM, several=2)


@pytest.fixture(scope="module")
def running_engine(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    """Two workers that listen on UDP and on TCP."""
    shared_redis.client.flushall()
    directory = tmp_path_factory.mktemp("engine")
    pool = WorkerPool(directory, shared_redis.url, 2)
    udp = pool.address[1]
    pool.change(sip={"listen": [f"udp:127.0.0.1:{udp}", f"tcp:127.0.0.1:{TCP}"]})
    with started_engine(pool, shared_redis.client, directory) as running_engine:
        yield running_engine


async def test_the_caller_is_sent_to_the_worker_that_has_it(setup: Setup) -> None:
    caller = numbers.caller_number()
    line, call, ring = await talk(setup, caller)
    endpoint = await StreamEndpoint.listen()
    setup._stack.push_async_callback(endpoint.finish)
    fields = [identity(caller), ("Replaces", own(ring))]
    away = endpoint.start(
        ("127.0.0.1", TCP + 1), line, caller=caller, headers=fields, body=OFFER_BYTES
    )
    sent = await away.receive(302)
    assert address_of(sent.one("Contact")) == f"sip:{line}@127.0.0.1:{TCP};transport=tcp"
    await setup.ended(away.call_id, why="takeover_elsewhere", payer="", outcome="rejected")
    taking = endpoint.start(
        ("127.0.0.1", TCP), line, caller=caller, headers=fields, body=OFFER_BYTES
    )
    taken = await ring.endpoint.incoming()
    await connect(taking, taken)
    await call.receive("BYE")
    await part(taking, taken)
