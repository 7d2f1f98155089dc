"""Probes the servers of the destinations.

Every `sip.probe_s` each server of a destination's URI gets OPTIONS. A destination is down if all
its servers are silent or answer 503: forwards to it fail at once (`Hunting.ring_target`).
"""

from __future__ import annotations

import asyncio
import re

from engine.services import Services
from sip.address import Address
from sip.names import address_of, place_of
from store import background_tasks

WAIT_S = 4.0  # for a response: time for three lost packets (RFC 3261 17.1.2)
DOWN = (408, 503)
KINDS = ("voicemail", "fax", "number")


class Probing:
    """The destinations' state. `up` holds the probed ones; until its first result a destination
    counts as up."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tasks: list[asyncio.Task[None]] = []
        self.up: dict[str, bool] = {}

    async def start(self) -> None:
        """Start probing."""
        self._begin()

    def _begin(self) -> None:
        services = self._services
        if not services.config.sip.probe_s:
            return
        for kind in KINDS:
            uri = probed_uri(getattr(services.config.destinations, kind))
            if uri is None:
                services.log.warning("destination.unprobed", destination=kind, reason="host varies")
                continue
            self.up[kind] = True
            self._tasks.append(services.loop.create_task(self._watch(kind, uri)))

    def restart(self) -> None:
        """Restart, because the destinations or the probing have changed."""
        self._stop()
        self.up.clear()
        self._begin()

    async def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()

    def is_down(self, kind: str) -> bool:
        return not self.up.get(kind, True)

    async def _watch(self, kind: str, uri: str) -> None:
        while True:
            started = self._services.loop.time()
            try:
                codes = await self._ask(uri)
            except Exception as error:
                # The next probe tells; a destination that stayed down would get no calls any more.
                background_tasks.report(f"probing: {kind} was not probed", error)
                await asyncio.sleep(self._services.config.sip.probe_s)
                continue
            up = any(code not in DOWN for code in codes.values())
            if up != self.up[kind]:
                self.up[kind] = up
                code_of = {str(server): code for server, code in codes.items()}
                self._services.log.warning(
                    "destination.up" if up else "destination.down",
                    destination=kind,
                    uri=uri,
                    servers=code_of,
                )
            passed = self._services.loop.time() - started
            await asyncio.sleep(max(0.1, self._services.config.sip.probe_s - passed))

    async def _ask(self, uri: str) -> dict[Address, int]:
        """The response code of each server; none if the name leads nowhere."""
        endpoint = self._services.endpoint
        proxy = self._services.config.sip.outbound_proxy
        place = place_of(proxy or uri)
        address = address_of(place)
        servers = [address] if address is not None else await endpoint.names.ask(place)
        codes = await asyncio.gather(*(self._code(uri, server, place.host) for server in servers))
        for server, code in zip(servers, codes, strict=True):
            if code not in DOWN:
                endpoint.names.works(server)
            elif proxy is None:  # a proxy's code may concern the server behind it
                endpoint.names.failed(server)
        return dict(zip(servers, codes, strict=True))

    async def _code(self, uri: str, server: Address, name: str) -> int:
        loop = self._services.loop
        response: asyncio.Future[int] = loop.create_future()

        def hear(code: int) -> None:
            if not response.done():
                response.set_result(code)

        self._services.endpoint.probes.ask(uri, server, name, WAIT_S, hear)
        async with asyncio.timeout(2 * WAIT_S):  # an error while it is handled leaves none
            return await response


def probed_uri(template: str) -> str | None:
    """The URI of a destination's server: the template without its user. None if the host depends on
    the number."""
    scheme, _, rest = template.partition(":")
    host = rest.rpartition("@")[2]
    if re.search(r"\{\w+\}", host.partition(";")[0]):
        return None
    return f"{scheme}:{re.sub(r';[^;]*[{][^;]*', '', host)}"
