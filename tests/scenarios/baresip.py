"""baresip, an independent SIP phone: one process, controlled through its TCP port (ctrl_tcp).

It works without a sound card: it sends a sine and discards the received sound.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.registration.digest import ha1
from tests.patience import within
from tests.scenarios.mailbox import Mailbox
from tests.scenarios.network import Network
from tests.scenarios.sipp import HOST, free_port

MODULES = Path("/usr/lib/baresip/modules")
PASSWORD = "s3same"
CREDENTIALS = {"user": "accueil", "ha1": ha1("MD5", "accueil", "renvoi", PASSWORD)}
WAIT_S = 5.0
START_S = within(6)
_names = itertools.count(1)
CONFIG = """\
poll_method epoll
net_interface {host}
sip_listen {host}:{port}
rtp_ports {media}-{last_media}
audio_source ausine,440
ausrc_srate 48000
ausrc_channels 2
audio_player aubridge,heard
audio_alert aubridge,bell
audio_path /nonexistent
menu_bell no
module_path {modules}
module g711.so
module ausine.so
module aubridge.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:{control}
"""


class Baresip:
    """One phone with the number `number`; its requests go to `server`, a host:port.

    With a password it registers as `user` for `register_s`, through the outbound proxy if there is
    one. It is at `host`, or in its own network namespace. `options` are parameters of its account,
    `config` more lines of its configuration.
    """

    def __init__(
        self,
        directory: Path,
        number: str,
        server: str,
        *,
        password: str = "",
        register_s: int = 120,
        outbound: str = "",
        network: Network | None = None,
        host: str = HOST,
        user: str = "accueil",
        options: Sequence[str] = (),
        config: str = "",
    ) -> None:
        self.number = number
        self._server = server
        self._network = network
        self._directory = directory / f"baresip{next(_names)}"
        self._directory.mkdir()
        self._registers = bool(password)
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._events: Mailbox[dict[str, Any]] = Mailbox()
        self._answers: Mailbox[dict[str, Any]] = Mailbox()
        self.host = network.inside if network is not None else host
        self.port = free_port(several=2)  # it uses the next one for TLS
        self._control = free_port(socket.SOCK_STREAM)
        account = [f"<sip:{number}@{server}>", f"regint={register_s if password else 0}", *options]
        if password:
            account += [f"auth_user={user}", f"auth_pass={password}"]
        if outbound:
            account += [f'outbound="{outbound}"']
        media = free_port(several=12)
        whole = config + CONFIG.format(
            host=self.host,
            port=self.port,
            media=media,
            last_media=media + 11,
            modules=MODULES,
            control=self._control,
        )
        for name, text in (
            ("config", whole),
            ("accounts", ";".join(account) + "\n"),
            ("contacts", ""),
        ):
            (self._directory / name).write_text(text, encoding="utf-8")

    def __repr__(self) -> str:
        return f"<baresip {self.number} at {self.host}:{self.port}, unclaimed: {self.said()}>"

    @property
    def log(self) -> str:
        """Everything it printed, including its SIP messages."""
        return (self._directory / "log").read_text("utf-8", "replace")

    def said(self) -> list[str]:
        """The kinds of events that no test code waited for."""
        return [event["type"] for event in self._events.items]

    async def start(self) -> Baresip:
        """Start it and wait until it is ready, registered if it has a password."""
        prefix = self._network.prefix if self._network is not None else []
        with (self._directory / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *prefix, "baresip", "-s", "-f", str(self._directory),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        reader, self._writer = await self._connect()
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))
        if self._registers:
            await self.registered()
        return self

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        deadline = asyncio.get_running_loop().time() + START_S
        while True:
            try:
                return await asyncio.open_connection(sock=self._socket())
            except OSError:
                assert self._process is not None
                assert self._process.returncode is None, f"baresip ended:\n{self.log}"
                assert asyncio.get_running_loop().time() < deadline, f"not ready:\n{self.log}"
                await asyncio.sleep(0.05)

    def _socket(self) -> socket.socket:
        def make() -> socket.socket:
            return socket.create_connection(("127.0.0.1", self._control), timeout=within(WAIT_S))

        return make() if self._network is None else self._network.within(make)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Netstrings of JSON: answers to commands, and events."""
        try:
            while True:
                size = int((await reader.readuntil(b":"))[:-1])
                message = json.loads((await reader.readexactly(size + 1))[:-1])
                (self._events if message.get("event") else self._answers).put(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def command(
        self, name: str, parameters: str = "", *, tolerated: str | None = None
    ) -> str:
        """Run one command of its menu; returns the answer. Fails at an error that is not
        `tolerated`.

        Version 1.1.0 hangs up a call that it makes only once that rings: wait for CALL_RINGING.
        """
        text = json.dumps({"command": name, "params": parameters}).encode()
        assert self._writer is not None, "not started"
        self._writer.write(b"%d:%s," % (len(text), text))
        answer = await self._answers.take(lambda _: True, WAIT_S, f"answer to {name}")
        data = str(answer.get("data", ""))
        assert answer["ok"] or data == tolerated, f"{name} {parameters}: {answer}"
        return data

    async def event(self, kind: str, wait_s: float = WAIT_S) -> dict[str, Any]:
        """Wait for an event of that kind, such as CALL_RINGING."""
        try:
            return await self._events.take(lambda e: e["type"] == kind, wait_s, kind)
        except AssertionError:
            raise AssertionError(f"no {kind} within {wait_s} s: {self!r}\n{self.log}") from None

    # Actions of the user

    async def registered(self) -> None:
        """Wait until its registration is accepted, which may be before the control port is
        connected."""
        deadline = asyncio.get_running_loop().time() + START_S
        while "OK" not in await self.command("reginfo"):
            assert asyncio.get_running_loop().time() < deadline, f"not registered:\n{self.log}"
            await asyncio.sleep(0.05)

    async def dial(self, number: str) -> None:
        """Call a number at its server. Forget the events of earlier calls."""
        self._events.items.clear()
        await self.command("dial", f"sip:{number}@{self._server}")

    async def rings(self, wait_s: float = WAIT_S) -> str:
        """Wait for a call; returns the caller, as its display would show."""
        event = await self.event("CALL_INCOMING", wait_s)
        return str(event["peeruri"])

    async def talks(self, wait_s: float = WAIT_S) -> None:
        """Wait until a call is answered and the other side's sound arrives."""
        await self.event("CALL_ESTABLISHED", wait_s)
        await self.event("CALL_RTPESTAB", wait_s)

    async def resume(self) -> None:
        """Resume the call that it holds. Version 1.1.0 (Debian 13) does so and answers an error."""
        before = len(self.log)
        await self.command("resume", tolerated="Invalid argument")
        await self.is_sent("a=sendrecv", before)

    async def closed(self, wait_s: float = WAIT_S) -> str:
        """Wait until a call has ended; returns the reason, as its display would show."""
        event = await self.event("CALL_CLOSED", wait_s)
        return str(event["param"])

    async def is_sent(self, text: str, after: int = 0) -> None:
        """Wait until it has received or sent a message with this text, `after` that much of its
        log."""
        deadline = asyncio.get_running_loop().time() + within(WAIT_S)
        while text not in self.log[after:]:
            assert asyncio.get_running_loop().time() < deadline, f"no {text}: {self!r}\n{self.log}"
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Quit it as a user would; kill it if it does not react."""
        if self._process is not None and self._process.returncode is None:
            try:
                await self.command("quit")
                await asyncio.wait_for(self._process.wait(), within(WAIT_S))
            except (AssertionError, ConnectionError, TimeoutError):
                self._process.kill()
                await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()
