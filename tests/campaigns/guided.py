"""Fuzzing guided by coverage: `python -m tests.campaigns.guided [CORPUS] [-max_total_time=S]`.

The uncompiled core: message, grammar, framing, and whole calls through layer, legs and machines. An
input is up to 20 messages; if it says so, tags, branches and Call-IDs are those of the engine or of
an earlier message, so that it reaches dialogs. Atheris is not a dependency of this project: run
this in a separate environment that has it (docs/core.md).
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

os.environ["RENVOI_SIP_CORE"] = "python"

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["sip"]):
    from sip import framing, grammar
    from sip import layer as layer_module
    from sip.message import Message
    from tests.campaigns.quick_loop import QuickLoop
    from tests.sip.house import CALLER, PHONE, House, answer, request
    from tests.sip.rfc4475 import MESSAGES


def _read(data: bytes) -> None:
    """Run all parsers of one value or one message."""
    grammar.name_addr(data)
    grammar.via(data)
    grammar.split(data)
    grammar.has_gap(data, 0)
    grammar.same_uri(data, data[1:])
    message = Message(data)
    message.fields, message.names, message.record_routes, message.contact  # noqa: B018
    message.body, message.head, message.start_line, message.phrase  # noqa: B018
    if message.bad == 0:
        message.response_head(b"192.0.2.1", 5060)
        again = Message(message.data)
        assert (again.bad, again.fields) == (0, message.fields), "read differently the second time"


def _frame(data: bytes, cut: int) -> None:
    """A stream in pieces must give the same messages as in one piece."""
    whole, pieces = (framing.Frames(1 << 18, 1 << 16) for _ in range(2))
    messages = whole.feed(data)
    found = pieces.feed(data[:cut]) + pieces.feed(data[cut:])
    assert found == messages, "a stream in pieces is read differently"


async def _play(data: bytes) -> None:
    """Feed messages to a house, one by one, each from the caller or from the phone."""
    home = House()
    home.feed(request("INVITE", body=b"x"), CALLER)
    for piece in data.split(b"\xff\xff")[:20]:
        port, sent = CALLER, home.line(CALLER).sent
        if piece[:1] == b"p":
            port, piece = PHONE, piece[1:]
            asked = [one for one in home.line(PHONE).sent if one.method]
            if asked and len(piece) > 2 and piece[0] < 128:
                code = 100 + (piece[0] * 256 + piece[1]) % 600
                home.feed(answer(asked[-1], code), PHONE)
                piece = piece[2:]
        tags = [one.to_tag for one in sent if one.to_tag]
        home.feed(piece.replace(b"TAG", tags[-1] if tags else b"x"), port)
        home.pass_time(500)
    home.pass_time(80_000)
    home.pass_time(80_000)
    if home.errors:
        raise home.errors[0]
    layer = home.endpoint.layer
    left = layer.servers or layer.clients or layer.merged
    assert not left, "state is left"


def one_input(data: bytes) -> None:
    """The function that atheris calls."""
    if not data:
        return
    kind, rest = data[0] % 16, data[1:]
    if kind < 12:  # the fastest one
        _read(rest)
    elif kind < 14:
        _frame(rest, data[0] * len(rest) // 256)
    else:
        loop.run_until_complete(_play(rest))


def seeds(directory: str) -> None:
    """Write the first inputs: RFC 4475, and a call."""
    os.makedirs(directory, exist_ok=True)
    inputs = {**MESSAGES}
    inputs["call"] = b"\xff\xff".join((
        b"p\x00\x50", b"p\x00\x64", request("ACK", tag="TAG"), request("INFO", tag="TAG", cseq=2),
        request("INVITE", tag="TAG", cseq=3, body=b"y"), b"p\x00\x64",
        request("BYE", tag="TAG", cseq=4),
    ))  # fmt: skip
    for name, raw in inputs.items():
        for kind in (b"\0", b"\x0c", b"\x0e"):
            with open(f"{directory}/{name}-{kind[0]}", "wb") as seed:
                seed.write(kind + raw)


loop: Any = QuickLoop()

if __name__ == "__main__":
    asyncio.set_event_loop(loop)
    layer_module._now_ms = lambda: 0
    seeds("/tmp/renvoi-guided" if len(sys.argv) < 2 else sys.argv[1])
    atheris.Setup(sys.argv if len(sys.argv) > 1 else [sys.argv[0], "/tmp/renvoi-guided"], one_input)
    atheris.Fuzz()
