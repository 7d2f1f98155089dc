"""The setup of one test: engines, a telephony server, a simulated trunk, and phones."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.scenarios import numbers
from tests.scenarios.baresip import Baresip
from tests.scenarios.endpoint import Call, Endpoint, Headers
from tests.scenarios.message import Message
from tests.scenarios.processes import ROOT, Engine
from tests.scenarios.setup import RunningEngine, Setup, identity
from tests.servers.asterisk import Asterisk
from tests.servers.media import Media
from tests.servers.places import PHONE, SERVER, SIP_PORT, TRUNK

CALLER = "+33140000001"


def line_of_the_second() -> str:
    """A number whose calls go to the second engine first: its last digit is odd."""
    while int((line := numbers.line_number())[-1]) % 2 == 0:
        pass
    return line


class Site(Setup):
    """The setup of one test. Everything that it opened is closed on exit."""

    def __init__(
        self,
        running_engine: RunningEngine,
        second: Engine,
        asterisk: Asterisk,
        trunk: Endpoint,
        directory: Path,
    ) -> None:
        super().__init__(running_engine)
        self.second = second
        self.asterisk = asterisk
        self.trunk = trunk
        self.directory = directory
        self._voices: dict[str, Media] = {}
        self._before = len(self.records())

    async def all_are_reachable(self) -> None:
        """Wait until both engines are reachable for Asterisk."""
        for engine in ("renvoi-1", "renvoi-2"):
            await self.asterisk.until(
                lambda: self.asterisk.reachable(engine),  # noqa: B023 - asked before the next
                f"{engine} reachable",
            )

    def new_records(self) -> list[dict[str, str]]:
        """The records of calls that ended in this test."""
        return self.records()[self._before :]

    async def record_of(self, called: str, wait_s: float = 10.0) -> dict[str, str]:
        """The one record of this test's call to a number."""
        deadline = time.monotonic() + wait_s
        while True:
            found = [r for r in self.new_records() if r["called"] == called]
            if found or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        assert len(found) == 1, f"{len(found)} records of calls to {called}"
        return found[0]

    def does(self, *scripts: str) -> None:
        """Run the commands of the page on the engine's host."""
        program = f"{sys.executable} -m engine.cli"
        environment = {**os.environ, "RENVOI_CONFIG": str(self.engine.config)}
        for script in scripts:
            command = script.replace("renvoi ", f"{program} ", 1)
            subprocess.run(command, shell=True, check=True, cwd=ROOT, env=environment)

    # The outside

    async def media(self, host: str = TRUNK) -> Media:
        """An RTP socket at an address."""
        media = await Media.open(host)
        self._stack.callback(media.close)
        return media

    async def outside_call(
        self,
        called: str,
        *,
        caller: str = CALLER,
        headers: Headers = (),
        media: Media | None = None,
        **more: Any,
    ) -> Call:
        """A call from the trunk, which asserts the caller's number."""
        voice = media or await self.media()
        headers = (identity(caller), *headers)
        call = self.trunk.start(
            (SERVER, SIP_PORT), called, caller=caller, headers=headers, body=voice.sdp, **more
        )
        self._voices[call.call_id] = voice
        return call

    def voice_of(self, call: Call) -> Media:
        """The RTP socket of a call's offer."""
        return self._voices[call.call_id]

    async def answered(self, call: Call, media: Media) -> Message:
        """Wait for the answer, acknowledge it, and send voice."""
        answer = await call.receive(200, wait_s=20)
        call.ack(answer)
        media.speak_to(answer.body)
        return answer

    async def talk(self, call: Call, ring: Call) -> Media:
        """A ringing phone answers, and both sides send voice; returns the phone's RTP socket."""
        media = await self.media(ring.endpoint.host)
        ring.respond(180)
        ring.respond(200, body=media.sdp)
        await self.answered(call, self.voice_of(call))
        await ring.receive("ACK")
        media.speak_to(ring.first.body)
        # Now Asterisk has bridged the two channels: an earlier REFER might find only one of them.
        for voice in (media, self.voice_of(call)):
            await self.heard(voice)
        return media

    async def heard(self, media: Media, frames: int = 10) -> None:
        """Wait until `frames` more frames have been received."""
        until = media.heard + frames
        await self.asterisk.until(lambda: media.heard >= until, "a voice heard")

    async def goes_out(self, number: str) -> Call:
        """The call to that number at the trunk."""
        return await self.trunk.incoming(number)

    # Phones

    async def phone(self, number: str, register_s: int = 120, **more: Any) -> Baresip:
        """A baresip that registers with Asterisk."""
        phone = Baresip(
            self.directory, number, f"{SERVER}:{SIP_PORT}", host=PHONE, user=number,
            password="choose-one", register_s=register_s, **more,
        )  # fmt: skip
        self._stack.push_async_callback(phone.stop)
        return await phone.start()
