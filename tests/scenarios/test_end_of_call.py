"""The end of a call is relayed: every field and the body of BYE and CANCEL, and the answer to
BYE."""

from __future__ import annotations

import socket
import time

import pytest

from tests.patience import Stalls
from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect
from tests.scenarios.message import Message
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup, to_number
from tests.scenarios.sipp import free_port
from tests.scenarios.stream import StreamEndpoint

SETTINGS = {
    "sip": {
        "listen": [
            f"udp:127.0.0.1:{free_port()}",
            f"tcp:127.0.0.1:{free_port(socket.SOCK_STREAM)}",
        ]
    }
}
WAYS = pytest.mark.parametrize("way", ["from_the_caller", "from_the_callee"])
ISUP = b"\x0c\x02\x00\x02\x83\x90\x00\r\n\xff\x00"
SAID = [
    ("Reason", 'Q.850;cause=16;text="done, thanks"'),
    ("Reason", 'SIP;cause=200;text="a second"'),
    ("User-to-User", "56a390f3d2b7310023a2;encoding=hex"),
    ("X-Unheard-Of", "kept  as it  is"),
    ("Warning", '399 x "y"'),
]
ANSWERED = [("User-to-User", "04ff;encoding=hex"), ("X-Answer", "a  b"), ("Warning", "399 a b")]


async def talk(setup: Setup, way: str = "from_the_caller") -> tuple[Call, Call]:
    """A call in progress: the side that hangs up, and the other."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    return (call, ring) if way == "from_the_caller" else (ring, call)


def check_said(message: Message, said: list[tuple[str, str]]) -> None:
    got = [(n, v) for n, v in message.headers if n in {name.lower() for name, _ in said}]
    assert got == [(name.lower(), value) for name, value in said]


@WAYS
async def test_all_of_a_bye_and_of_its_answer_crosses(setup: Setup, way: str) -> None:
    speaker, listener = await talk(setup, way)
    listener.automatic.discard("BYE")
    kind = "application/isup;version=itu-t92+"
    sent = speaker.request("BYE", headers=SAID, body=ISUP, content_type=kind)
    bye = await listener.receive("BYE")
    check_said(bye, SAID)
    assert bye.body == ISUP
    assert bye.one("Content-Type") == kind
    assert bye.call_id != sent.call_id
    assert not [m for m in speaker.received if m.method == "BYE"]
    listener.respond(200, to=bye, headers=ANSWERED, body=ISUP, content_type=kind)
    answer = await speaker.receive(200, "BYE")
    check_said(answer, ANSWERED)
    assert answer.body == ISUP
    caller = speaker if way == "from_the_caller" else listener
    await setup.ended(caller.call_id, outcome="answered", why="bye")


@WAYS
@pytest.mark.parametrize(
    ("code", "relayed"), [(202, 202), (403, 403), (481, 481), (500, 500), (401, 200), (407, 200)]
)
async def test_the_final_code_of_the_far_side_is_relayed(
    setup: Setup, way: str, code: int, relayed: int
) -> None:
    """But a challenge is never relayed (RFC 3261 22.3)."""
    speaker, listener = await talk(setup, way)
    listener.automatic.discard("BYE")
    speaker.request("BYE")
    bye = await listener.receive("BYE")
    listener.respond(code, to=bye, headers=[("X-Answer", "no")])
    assert (await speaker.final("BYE")).code == relayed


@WAYS
async def test_a_far_side_that_does_not_answer_delays_nobody(
    setup: Setup, way: str, stalls: Stalls
) -> None:
    stalls.watch(setup.engine.pid)
    speaker, listener = await talk(setup, way)
    listener.automatic.discard("BYE")
    start_s = time.monotonic()
    speaker.request("BYE")
    await listener.receive("BYE")
    speaker.repeat(speaker.sent[-1])
    assert (await speaker.final("BYE")).code == 200
    assert time.monotonic() - start_s < 8 + stalls.total_s
    assert len(speaker.requests("BYE")) == 0
    speaker.repeat(speaker.sent[-1])
    assert setup.engine.metric("renvoi_active_calls") == 0
    listener.respond(200, to=listener.requests("BYE")[0])


async def test_a_far_side_that_hangs_up_as_well_ends_the_waiting(
    setup: Setup, stalls: Stalls
) -> None:
    stalls.watch(setup.engine.pid)
    call, ring = await talk(setup)
    for side in (call, ring):
        side.automatic.discard("BYE")
    start_s = time.monotonic()
    call.request("BYE")
    await ring.receive("BYE")
    ring.request("BYE")
    assert (await ring.final("BYE")).code == 200
    assert (await call.final("BYE")).code == 200
    assert time.monotonic() - start_s < 2.5 + stalls.total_s
    await setup.ended(call.call_id, outcome="answered")


async def test_a_far_side_whose_connection_is_refused_ends_the_waiting(
    setup: Setup, stalls: Stalls
) -> None:
    phone = await StreamEndpoint.listen()
    line = setup.line(to=[phone.uri()])
    call = await setup.call(line)
    ring = await phone.incoming()
    await connect(call, ring)
    ring.state = "ended"
    await phone.finish()
    stalls.watch(setup.engine.pid)
    start_s = time.monotonic()
    call.request("BYE")
    assert (await call.final("BYE")).code == 200
    assert time.monotonic() - start_s < 8 + stalls.total_s
    await setup.ended(call.call_id, outcome="answered")


async def test_a_bye_before_the_ack_is_relayed_with_all_its_fields(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    await call.receive(200)
    call.request("BYE", headers=SAID)
    await call.receive(200, "BYE")
    check_said(await ring.receive("BYE"), SAID)


async def test_a_phone_that_hangs_up_before_the_ack_gets_its_answer_after_it(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    answer = await call.receive(200)
    ring.request("BYE", headers=SAID)
    await ring.receive(200, "BYE")
    assert not call.requests("BYE")
    call.ack(answer)
    check_said(await call.receive("BYE"), SAID)


async def test_all_of_a_cancel_reaches_every_phone_that_rings(setup: Setup) -> None:
    phones = [await setup.endpoint() for _ in range(3)]
    line = setup.line(to=[phone.uri() for phone in phones])
    call = await setup.call(line)
    rings = [await phone.incoming() for phone in phones]
    for ring in rings[:2]:
        ring.respond(180)
    await call.receive(180)
    call.cancel(headers=[*SAID, ("Require", "x-never")])
    await call.receive(487)
    rings[2].respond(180)  # from now on it may be cancelled (RFC 3261 9.1)
    for ring in rings:
        cancel = await ring.receive("CANCEL")
        check_said(cancel, SAID)
        assert not cancel.has("Require")
        assert cancel.cseq[0] == ring.first.cseq[0]
        assert cancel.branch == ring.first.branch
    await setup.ended(call.call_id, outcome="cancelled")


async def test_a_cancel_reaches_the_target_of_a_forward(setup: Setup) -> None:
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = await setup.call(line)
    away = await setup.server("number").incoming(target)
    away.respond(180)
    await call.receive(180)
    call.cancel(headers=SAID)
    check_said(await away.receive("CANCEL"), SAID)


async def test_the_engine_sends_its_own_reason_when_it_cancels(setup: Setup) -> None:
    phones = [await setup.endpoint() for _ in range(2)]
    line = setup.line(to=[phone.uri() for phone in phones])
    call = await setup.call(line)
    first, second = [await phone.incoming() for phone in phones]
    for ring in (first, second):
        ring.respond(180)
    await call.receive(180)
    first.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    cancel = await second.receive("CANCEL")
    assert cancel.every("Reason") == ['SIP;cause=200;text="Call completed elsewhere"']
    await call.hang_up()


async def test_the_cancel_of_a_reinvite_crosses(setup: Setup) -> None:
    call, ring = await talk(setup)
    ring.automatic.discard("CANCEL")
    sent = call.request("INVITE", body=OFFER_BYTES)
    request = await ring.receive("INVITE")
    ring.respond(180, to=request)
    await call.receive(180)
    first, call.first = call.first, sent
    call.cancel(headers=SAID)
    call.first, call.state = first, "answered"
    cancel = await ring.receive("CANCEL")
    check_said(cancel, SAID)
    ring.respond(200, to=cancel)
    ring.respond(487, to=request)
    await call.receive(487)
    await call.hang_up()


async def test_a_withheld_number_stays_withheld_at_the_end(setup: Setup) -> None:
    """Fields that a phone may not get in INFO are not in BYE either."""
    line, phone = await setup.line_with_phone()
    asserted = [("P-Asserted-Identity", "<sip:+33140000077@office.example>"), ("Privacy", "id")]
    call = await setup.call(line, headers=asserted)
    ring = await phone.incoming()
    await connect(call, ring)
    call.request("BYE", headers=[*asserted, *SAID[:4]])
    bye = await ring.receive("BYE")
    assert not bye.has("P-Asserted-Identity")
    check_said(bye, SAID[:4])


async def test_what_does_not_fit_leaves_the_reasons(setup: Setup) -> None:
    call, ring = await talk(setup)
    ring.automatic.discard("BYE")
    call.request("BYE", headers=[*SAID[:2], ("X-Long", "x" * 200)], body=b"y" * 3100)
    bye = await ring.receive("BYE")
    assert bye.every("Reason") == [value for _, value in SAID[:2]]
    assert bye.body in (b"", b"y" * 3100)
    ring.respond(200, to=bye, headers=[("X-Long", "z" * 3000)], body=b"y" * 800)
    assert (await call.final("BYE")).code == 200
