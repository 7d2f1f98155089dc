"""Where real phones belong: an engine, straight or behind Kamailio, and lines with such phones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.scenarios.baresip import CREDENTIALS, PASSWORD, Baresip
from tests.scenarios.kamailio import Kamailio
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.stage import Stage, Theatre, playing

WAYS = ("straight", "through_kamailio")


@dataclass(frozen=True)
class Front:
    """A running engine, and the host:port that its phones know."""

    theatre: Theatre
    server: str


@contextmanager
def open_front(
    directory: Path, redis: RedisServer, listen: str, sip: dict[str, Any], kamailio: Kamailio | None
) -> Iterator[Front]:
    """An engine at `listen` (host:port), on an empty Redis. Behind Kamailio it trusts that alone,
    and sends everything through it."""
    redis.client.flushall()
    settings = {"listen": [f"udp:{listen}"], **sip}
    if kamailio is not None:
        settings["trusted_peers"] = [f"{kamailio.address[0]}/32"]
        settings["outbound_proxy"] = kamailio.uri
    engine = Engine(directory, redis.url, {"sip": settings})
    with playing(engine, redis.client, directory) as theatre, ExitStack() as stack:
        if kamailio is not None:
            kamailio.start()
            stack.callback(kamailio.stop)
        yield Front(theatre, kamailio.peer if kamailio is not None else listen)


class Phones:
    """Starts phones, and ends them when the scenario is done."""

    def __init__(self, stage: Stage, front: Front) -> None:
        self.stage = stage
        self.server = front.server

    async def line(self, *options: str, **fields: Any) -> Baresip:
        """A line with such a phone, registered."""
        return await self.start(self.stage.line(credentials=CREDENTIALS, **fields), options=options)

    async def start(self, line: str, **more: Any) -> Baresip:
        """A phone of a line with credentials, registered."""
        directory = self.stage.theatre.directory
        phone = Baresip(directory, line, self.server, password=PASSWORD, **more)
        self.stage._stack.push_async_callback(phone.stop)
        return await phone.start()
