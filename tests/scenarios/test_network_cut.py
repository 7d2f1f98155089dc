"""A real phone (baresip) in a separate network that is cut: there is no error, and its calls follow
the forward for an unreachable phone. Direct, and through Kamailio as shipped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import pytest

from tests.scenarios.baresip import CREDENTIALS, Baresip
from tests.scenarios.kamailio import Kamailio
from tests.scenarios.network import Network
from tests.scenarios.phones import Front, Phones, open_front
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import RunningEngine, Setup, to_number
from tests.scenarios.sipp import HOST, free_port


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
) -> Iterator[Front]:
    """A front that phones of both networks can reach."""
    directory = tmp_path_factory.mktemp("engine")
    sip: dict[str, Any] = {"register_min_s": 1}
    if request.param == "straight":
        server, kamailio = f"{network.outside}:{free_port()}", None
        sip["registrar_peers"] = [f"{HOST}/32", f"{network.inside}/32"]
    else:
        server = f"{HOST}:{free_port()}"
        kamailio = Kamailio(directory, [server], callers=[], host=network.outside)
    with open_front(directory, shared_redis, server, kamailio, pre_ringing_s=6, **sip) as front:
        yield front


@pytest.fixture(scope="module")
def running_engine(front: Front) -> RunningEngine:
    return front.running_engine


class CutOff:
    """The phone that is cut off, a caller, and the colleague that gets forwarded calls."""

    def __init__(self, phones: Phones, network: Network) -> None:
        self._phones, self._stage = phones, phones.setup
        self.network = network

    async def __aenter__(self) -> Self:
        self.caller = await self._phones.line()
        self.colleague = await self._phones.line("answermode=auto")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.network.mend()  # so that the phone can unregister

    async def cut_off(self, register_s: int) -> Baresip:
        """Start a phone in the other network."""
        forwards = {"unreachable": to_number(self.colleague.number)}
        line = self._stage.line(credentials=CREDENTIALS, forwards=forwards)
        return await self._phones.start(line, network=self.network, register_s=register_s)

    async def again(self, phone: Baresip) -> Baresip:
        """Start the same phone again."""
        return await self._phones.start(phone.number, network=self.network)

    async def rings(self, phone: Baresip) -> None:
        """A call from the caller reaches the phone, and is answered and ended."""
        await self.caller.dial(phone.number)
        await phone.rings()
        await phone.command("accept")
        await self.caller.event("CALL_ESTABLISHED")
        await self.caller.command("hangup")
        await phone.closed()

    async def is_forwarded(self, phone: Baresip) -> dict[str, Any]:
        """A call from the caller reaches the colleague; returns its record."""
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
async def cut_off_phone(setup: Setup, front: Front, network: Network) -> AsyncIterator[CutOff]:
    async with CutOff(Phones(setup, front), network) as cut_off_phone:
        yield cut_off_phone


async def test_a_phone_that_is_cut_off_is_forwarded_until_its_network_is_back(
    cut_off_phone: CutOff,
) -> None:
    phone = await cut_off_phone.cut_off(register_s=120)
    await cut_off_phone.rings(phone)
    cut_off_phone.network.cut()
    record = await cut_off_phone.is_forwarded(phone)
    assert [leg["number"] for leg in record["legs"]] == [
        phone.number,
        cut_off_phone.colleague.number,
    ]
    cut_off_phone.network.mend()
    await cut_off_phone.rings(phone)


async def test_a_phone_whose_registration_has_run_out_is_not_even_rung(
    setup: Setup, cut_off_phone: CutOff
) -> None:
    phone = await cut_off_phone.cut_off(register_s=2)
    cut_off_phone.network.cut()
    while setup.redis.zcount(f"reg:{phone.number}", time.time(), "+inf"):
        await asyncio.sleep(0.1)
    record = await cut_off_phone.is_forwarded(phone)
    assert [leg["number"] for leg in record["legs"]] == [cut_off_phone.colleague.number]
    cut_off_phone.network.mend()
    await phone.stop()  # baresip itself would retry after half a minute
    await cut_off_phone.rings(await cut_off_phone.again(phone))
