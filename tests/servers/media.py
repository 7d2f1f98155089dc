"""Voice without a phone: sends RTP to the address in the SDP, and receives it."""

from __future__ import annotations

import asyncio
import re
import struct
from typing import Self

FRAME_S = 0.02
_TONE = bytes(0x55 ^ (0x80 if i % 16 < 8 else 0) ^ 0x30 for i in range(160))  # A-law, 500 Hz


class Media(asyncio.DatagramProtocol):
    """One RTP socket. It sends voice (PCMA) as soon as it has an address."""

    def __init__(self) -> None:
        self.heard = 0
        self._said = 0
        self.sources: set[str] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self._speaking: asyncio.Task[None] | None = None
        self._host, self._port = "", 0

    @classmethod
    async def open(cls, host: str) -> Self:
        loop = asyncio.get_running_loop()
        transport, media = await loop.create_datagram_endpoint(cls, local_addr=(host, 0))
        media._transport = transport
        media._host, media._port = transport.get_extra_info("sockname")[:2]
        return media

    @property
    def sdp(self) -> bytes:
        """A session description of this socket."""
        lines = ["v=0", f"o=- 1 1 IN IP4 {self._host}", "s=-", f"c=IN IP4 {self._host}", "t=0 0"]
        lines += [f"m=audio {self._port} RTP/AVP 8", "a=rtpmap:8 PCMA/8000", "a=sendrecv"]
        return ("\r\n".join(lines) + "\r\n").encode()

    def speak_to(self, sdp: bytes) -> None:
        """From now on send to the address in the other side's session description."""
        text = sdp.decode()
        host = re.search(r"^c=IN IP4 (\S+)", text, re.M)
        port = re.search(r"^m=audio (\d+)", text, re.M)
        assert host, text
        assert port, text
        self.quiet()
        self._speaking = asyncio.get_running_loop().create_task(
            self._speak((host[1], int(port[1])))
        )

    async def _speak(self, peer: tuple[str, int]) -> None:
        assert self._transport is not None
        for number in range(1_000_000):
            head = struct.pack("!BBHII", 0x80, 8, number & 0xFFFF, number * 160, 4711)
            self._transport.sendto(head + _TONE, peer)
            self._said += 1
            await asyncio.sleep(FRAME_S)

    async def says(self, frames: int) -> None:
        """Wait until `frames` more frames are sent, 20 ms of voice each."""
        until = self._said + frames
        while self._said < until:
            await asyncio.sleep(FRAME_S)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard += 1
        self.sources.add(addr[0])

    def quiet(self) -> None:
        """Stop sending."""
        if self._speaking is not None:
            self._speaking.cancel()

    def close(self) -> None:
        self.quiet()
        if self._transport is not None:
            self._transport.close()
