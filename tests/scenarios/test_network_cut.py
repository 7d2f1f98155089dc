"""A real phone (baresip) in a network of its own, whose cable is pulled: nobody is told, and its
calls go where its line says for an unreachable phone. Straight, and through Kamailio as shipped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.scenarios.baresip import CREDENTIALS, PASSWORD, Baresip
from tests.scenarios.kamailio import Kamailio
from tests.scenarios.network import Network
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.sipp import HOST, free_port
from tests.scenarios.stage import Stage, Theatre, playing, to_number


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture(scope="module", params=["straight", "through_kamailio"])
def front(
    request: pytest.FixtureRequest,
    network: Network,
    shared_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Theatre, str]]:
    """A running engine, and the host:port that phones of both networks know."""
    shared_redis.client.flushall()
    directory = tmp_path_factory.mktemp("engine")
    host = network.outside if request.param == "straight" else HOST
    server = f"{host}:{free_port()}"
    sip: dict[str, Any] = {"listen": [f"udp:{server}"], "register_min_s": 1}
    kamailio = None
    if request.param == "straight":
        sip["registrar_peers"] = [f"{HOST}/32", f"{network.inside}/32"]
    else:
        kamailio = Kamailio(directory, [server], callers=[], host=network.outside)
        sip |= {"trusted_peers": [f"{network.outside}/32"], "outbound_proxy": kamailio.uri}
    engine = Engine(directory, shared_redis.url, {"sip": sip})
    with playing(engine, shared_redis.client, directory) as theatre:
        if kamailio is not None:
            kamailio.start()
        try:
            yield theatre, kamailio.peer if kamailio is not None else server
        finally:
            if kamailio is not None:
                kamailio.stop()


@pytest.fixture(scope="module")
def theatre(front: tuple[Theatre, str]) -> Theatre:
    return front[0]


class Phones:
    """The phone that is cut off, a caller, and the colleague that an unreachable one leads to."""

    def __init__(self, stage: Stage, server: str, network: Network) -> None:
        self._stage, self._server, self.network = stage, server, network

    async def __aenter__(self) -> Phones:
        self.caller = await self._start(self._stage.line(credentials=CREDENTIALS))
        colleague = self._stage.line(credentials=CREDENTIALS)
        self.colleague = await self._start(colleague, options=["answermode=auto"])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.network.mend()  # so that the phone can say goodbye

    async def cut_off(self, register_s: int) -> Baresip:
        """A phone in the other network."""
        forwards = {"unreachable": to_number(self.colleague.number)}
        line = self._stage.line(credentials=CREDENTIALS, forwards=forwards)
        return await self._start(line, network=self.network, register_s=register_s)

    async def again(self, phone: Baresip) -> Baresip:
        """The same phone, switched on again."""
        return await self._start(phone.number, network=self.network)

    async def _start(self, line: str, **more: Any) -> Baresip:
        directory = self._stage.theatre.directory
        phone = Baresip(directory, line, self._server, password=PASSWORD, **more)
        self._stage._stack.push_async_callback(phone.stop)
        return await phone.start()

    async def rings(self, phone: Baresip) -> None:
        """A call from the caller arrives there, and is answered and ended."""
        await self.caller.dial(phone.number)
        await phone.rings()
        await phone.command("accept")
        await self.caller.event("CALL_ESTABLISHED")
        await self.caller.command("hangup")
        await phone.closed()

    async def is_forwarded(self, phone: Baresip) -> dict[str, Any]:
        """A call from the caller comes to the colleague; its record."""
        before = len(self._stage.records())
        await self.caller.dial(phone.number)
        for side in (self.caller, self.colleague):
            await side.talks(8)
        await self.caller.command("hangup")
        await self.colleague.closed()
        while len(records := self._stage.records()) == before:
            await asyncio.sleep(0.05)
        return await self._stage.ended(
            records[-1]["call_id"], outcome="answered", condition="unreachable"
        )


@pytest.fixture
async def phones(stage: Stage, front: tuple[Theatre, str], network: Network) -> Phones:
    return Phones(stage, front[1], network)


async def test_a_phone_that_is_cut_off_is_forwarded_until_its_network_is_back(
    phones: Phones,
) -> None:
    async with phones:
        phone = await phones.cut_off(register_s=120)
        await phones.rings(phone)
        phones.network.cut()
        record = await phones.is_forwarded(phone)
        assert [leg["number"] for leg in record["legs"]] == [phone.number, phones.colleague.number]
        phones.network.mend()
        await phones.rings(phone)


async def test_a_phone_whose_registration_has_run_out_is_not_even_rung(
    stage: Stage, phones: Phones
) -> None:
    async with phones:
        phone = await phones.cut_off(register_s=2)
        phones.network.cut()
        while stage.redis.zcount(f"reg:{phone.number}", time.time(), "+inf"):
            await asyncio.sleep(0.1)
        record = await phones.is_forwarded(phone)
        assert [leg["number"] for leg in record["legs"]] == [phones.colleague.number]
        phones.network.mend()
        await phone.stop()  # by itself baresip would try again after half a minute
        await phones.rings(await phones.again(phone))
