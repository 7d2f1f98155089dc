"""The setup for real phones: an engine, direct or behind Kamailio, and lines with such phones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.scenarios.baresip import CREDENTIALS, PASSWORD, Baresip
from tests.scenarios.kamailio import Kamailio
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import RunningEngine, Setup, started_engine


@dataclass(frozen=True)
class Front:
    """A running engine, and the server for its phones: host:port, and the transport if not UDP."""

    running_engine: RunningEngine
    server: str


@contextmanager
def open_front(
    directory: Path,
    redis: RedisServer,
    server: str,
    kamailio: Kamailio | None = None,
    transport: str = "udp",
    pre_ringing_s: float = 10,
    **sip: Any,
) -> Iterator[Front]:
    """An engine at `server` (host:port), on an empty Redis. Behind Kamailio it trusts only
    Kamailio, and sends everything through it, over UDP. `transport` is that of the phones, `sip`
    are settings. On a busy machine a real phone may take seconds to ring: `pre_ringing_s`."""
    redis.client.flushall()
    settings = {"listen": [f"{transport if kamailio is None else 'udp'}:{server}"], **sip}
    if kamailio is not None:
        settings["trusted_peers"] = [f"{kamailio.address[0]}/32"]
        settings["outbound_proxy"] = kamailio.uri
    engine = Engine(
        directory, redis.url, {"sip": settings, "timers": {"pre_ringing_s": pre_ringing_s}}
    )
    with started_engine(engine, redis.client, directory) as running_engine, ExitStack() as stack:
        if kamailio is not None:
            kamailio.start()
            stack.callback(kamailio.stop)
        known = kamailio.peer if kamailio is not None else server
        yield Front(
            running_engine, known if transport == "udp" else f"{known};transport={transport}"
        )


class Phones:
    """Starts phones, and stops them at the end of the scenario."""

    def __init__(self, setup: Setup, front: Front) -> None:
        self.setup = setup
        self.server = front.server

    async def line(self, *options: str, **fields: Any) -> Baresip:
        """A line with a registered phone."""
        return await self.start(self.setup.line(credentials=CREDENTIALS, **fields), options=options)

    async def start(self, line: str, **more: Any) -> Baresip:
        """A registered phone of a line with credentials."""
        directory = self.setup.running_engine.directory
        phone = Baresip(directory, line, self.server, password=PASSWORD, **more)
        self.setup._stack.push_async_callback(phone.stop)
        return await phone.start()
