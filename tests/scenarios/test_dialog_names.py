"""The identifiers of a dialog give access to it: only its own far end may learn them."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.message import Message
from tests.scenarios.setup import Setup
from tests.scenarios.test_transfer import calls, own, seen_by, talk


def spelt(name: str, header: str) -> str:
    """A Replaces value in the notation of another header."""
    if header.lower() == "target-dialog":
        return name.replace("to-tag", "local-tag").replace("from-tag", "remote-tag")
    return name


def fields(name: str) -> list[list[tuple[str, str]]]:
    """Ways to name a dialog in a message."""
    inside = quote(name, safe="")
    twice = "".join(f"%{ord(char):02X}" for char in name)
    return [
        [("Join", name)],
        [("JOIN ", name.upper().replace(name.upper().split(";")[0], name.split(";")[0]))],
        [("Target-Dialog", spelt(name, "Target-Dialog"))],
        [("Target-Dialog", "x@y;local-tag=a;remote-tag=b, " + spelt(name, "Target-Dialog"))],
        [("Join", name.replace(";", "\r\n ; "))],
        [("Call-Info", f"<sip:x@h?Replaces={inside}>;purpose=info")],
        [("Call-Info", f'"?<a>" <sip:x@h?Subject=a&Join={inside}>;purpose=info')],
        [("Alert-Info", f"<sip:x@h?%52eplaces={twice}>")],
        [("Reply-To", f"sip:x@h?target-dialog={inside}")],
        [("Refer-To", f"<sip:x@h?Replaces={inside}>")],
    ]


def secret_of(side: Call) -> tuple[str, str]:
    """The identifiers that only this side and the engine have: the Call-ID and the engine's tag."""
    return side.call_id, side.remote.rpartition("tag=")[2]


def tells(message: Message, side: Call) -> bool:
    text = message.raw.decode("latin-1")
    return any(secret in text for secret in secret_of(side))


async def test_a_new_call_s_phone_gets_no_other_dialog_s_name(setup: Setup) -> None:
    """The attacker calls its own line with the victim's identifiers, and reads what arrives
    there."""
    _, call, ring = await talk(setup)
    thief = numbers.caller_number()
    line, phone = await setup.line_with_phone(fleet="globex")
    for name in (seen_by(call), own(ring), seen_by(ring), own(call)):
        for naming in fields(name):
            attempt = await calls(setup, line, thief, *naming)
            got = await phone.incoming()
            assert not tells(got.first, ring), naming
            for header in ("Join", "Target-Dialog", "Replaces"):
                assert not any(call.call_id in value for value in got.first.every(header)), naming
            got.respond(486)
            await attempt.receive(486)
    await part(call, ring)


@pytest.mark.parametrize("method", ["INFO", "MESSAGE", "NOTIFY", "UPDATE", "OPTIONS"])
async def test_requests_in_another_call_do_not_show_it_either(setup: Setup, method: str) -> None:
    _, call, ring = await talk(setup)
    _, own_call, own_phone = await talk(setup, fleet="globex")
    for name in (seen_by(call), own(ring)):
        for naming in fields(name):
            own_call.request(method, headers=naming)
            request = await own_phone.receive(method)
            assert not tells(request, ring), naming
            own_phone.respond(200, to=request, headers=fields(seen_by(ring))[0])
            answer = await own_call.receive(200, method)
            assert not tells(answer, call), naming
    await part(own_call, own_phone)
    await part(call, ring)


async def test_a_refer_of_another_call_does_not_show_it_either(setup: Setup) -> None:
    _, call, ring = await talk(setup)
    _, own_call, own_phone = await talk(setup, fleet="globex")
    target = numbers.outside_number()
    for name in (seen_by(call), own(ring)):
        for parameter in (
            f"Replaces={quote(name, safe='')}",
            "%72eplaces=" + "".join(f"%{ord(char):02x}" for char in name),
            f"Subject=x&REPLACES={quote(name, safe='')}",
        ):
            refer_to = f"<sip:{target}@h?{parameter}>"
            own_call.request("REFER", headers=[("Refer-To", refer_to)])
            request = await own_phone.receive("REFER")
            assert not tells(request, ring)
            assert "eplaces" not in request.one("Refer-To").lower()
            own_phone.respond(603, to=request)
            await own_call.receive(603, "REFER")
    await part(own_call, own_phone)
    await part(call, ring)


async def test_the_far_end_itself_gets_the_name(setup: Setup) -> None:
    """Another call to the same phone, by a side of the first one."""
    caller = numbers.caller_number()
    line, call, ring = await talk(setup, caller)
    for header in ("Join", "Target-Dialog"):
        other = await calls(setup, line, caller, (header, spelt(seen_by(call), header)))
        again = await ring.endpoint.incoming()
        assert again.first.one(header) == spelt(own(ring), header)
        await connect(other, again)
        await part(other, again)
    await part(call, ring)


async def test_a_stranger_joins_nobody(setup: Setup) -> None:
    """A peer that has overheard a call reaches its phone, but not the call."""
    line, call, ring = await talk(setup)
    for name in (seen_by(call), own(ring)):
        other = await calls(setup, line, numbers.caller_number(), ("Join", name))
        again = await ring.endpoint.incoming()
        assert not again.first.has("Join")
        again.respond(486)
        await other.receive(486)
    await part(call, ring)
