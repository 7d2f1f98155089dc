"""The URI in the OPTIONS to a destination's server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from engine.probing import Probing, probed_uri
from sip.address import Address
from tests.patience import within
from tests.sip.house import House, answer


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("sip:{number}@127.0.0.1:5091", "sip:127.0.0.1:5091"),
        ("sips:{national}@gw.test;user=phone", "sips:gw.test;user=phone"),
        ("sip:{number}@gw.test;transport=tcp;for={number};x=1", "sip:gw.test;transport=tcp;x=1"),
        ("sip:fax@{national}.enum.test", None),
        ("sip:gw.test", "sip:gw.test"),
    ],
)
def test_the_uri_of_a_destinations_server(template: str, uri: str | None) -> None:
    assert probed_uri(template) == uri


@pytest.mark.parametrize("proxy", [None, "sip:proxy.test;transport=tls"])
async def test_a_server_is_asked_under_the_name_that_calls_use(proxy: str | None) -> None:
    """Over TLS its certificate is checked for that name, and the connection is the calls' own."""
    home = House()
    endpoint: Any = home.endpoint
    names: list[str] = []

    def way_for(server: Address, name: str) -> Any:
        names.append(name)
        return home.line(server.port)

    async def servers(place: object) -> list[Address]:
        return [Address("tls", "127.0.0.1", 5061)]

    endpoint.transports.way_for = way_for
    endpoint.names.ask = servers
    config = SimpleNamespace(sip=SimpleNamespace(outbound_proxy=proxy))
    services: Any = SimpleNamespace(loop=endpoint.loop, endpoint=endpoint, config=config)
    asked = asyncio.ensure_future(Probing(services)._ask("sips:gw.test"))
    while not home.line(5061).sent:
        await asyncio.sleep(0)
    home.feed(answer(home.line(5061).sent[0], 200), 5061)
    assert list((await asked).values()) == [200]
    assert names == ["proxy.test" if proxy else "gw.test"]


async def test_a_destination_is_probed_again_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A response that cannot be handled tells nothing, and so does an error of ours."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    monkeypatch.setattr("engine.probing.WAIT_S", 0.01)
    asked: list[str] = []

    def ask(
        uri: str, server: Address, name: str, wait_s: float, hear: Callable[[int], None]
    ) -> None:
        asked.append(uri)
        if len(asked) == 1:
            raise RuntimeError("cannot be asked")
        if len(asked) > 2:
            hear(503 if len(asked) == 3 else 200)

    sip = SimpleNamespace(probe_s=0.01, outbound_proxy=None)
    destinations = SimpleNamespace(
        voicemail="sip:{number}@127.0.0.1:5091", fax="sip:{number}.test", number="sip:{number}.test"
    )
    names = SimpleNamespace(works=lambda _: None, failed=lambda _: None)
    downs: list[str] = []
    services: Any = SimpleNamespace(
        loop=asyncio.get_running_loop(),
        config=SimpleNamespace(sip=sip, destinations=destinations),
        endpoint=SimpleNamespace(probes=SimpleNamespace(ask=ask), names=names),
        log=SimpleNamespace(warning=lambda event, **_: downs.append(event)),
    )
    probing = Probing(services)
    await probing.start()
    async with asyncio.timeout(within(5)):
        while "destination.up" not in downs:
            await asyncio.sleep(0.01)
    await probing.close()
    assert not probing.is_down("voicemail")
    assert len(told) == 2
