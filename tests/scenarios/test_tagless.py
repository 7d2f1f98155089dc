"""Old phones that put no tag into To: the tag of their side is null, and the dialog exists
nevertheless (RFC 3261 12.1.1, 12.1.2)."""

from __future__ import annotations

import pytest

from tests.scenarios.endpoint import Call
from tests.scenarios.expect import check_one_tag
from tests.scenarios.message import Message, build, parse, untagged
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup


def say(ring: Call, code: int, body: bytes = b"", **more: object) -> Message:
    """Answer like such a phone: with To as received."""
    return ring.respond(code, body=body, **more)  # type: ignore[arg-type]


async def ringing(setup: Setup, **fields: object) -> tuple[Call, Call]:
    """A caller, and a phone without tags that has the INVITE."""
    line, phone = await setup.line_with_phone(**fields)
    call = await setup.call(line)
    ring = await phone.incoming()
    forget_tag(ring)
    return call, ring


def lines_of(message: Message) -> list[tuple[str, str]]:
    """The header fields of a message, except Content-Length."""
    names = {"call-id": "Call-ID"}
    fields = [(n, v) for n, v in message.headers if n != "content-length"]
    return [(names.get(n, n.title()), v) for n, v in fields]


def forget_tag(ring: Call) -> None:
    """From now on the phone sends no tag of its own."""
    ring.tag = ""
    ring.local = ring.first.one("To")


async def exchange(speaker: Call, listener: Call, method: str, body: bytes = b"") -> Message:
    """A request inside the dialog and its 200; returns the request as it arrived."""
    speaker.request(method, body=body)
    request = await listener.receive(method)
    listener.respond(200, to=request, body=body)
    answer = await speaker.receive(200, method)
    assert answer.one("From") == speaker.sent[-1].one("From")
    if method == "INVITE":
        speaker.ack(answer)
        await listener.receive("ACK")
    return request


@pytest.mark.parametrize("early", [(), (180,), (183, 180)], ids=str)
@pytest.mark.parametrize("ends", ["caller", "phone"])
async def test_a_phone_without_tags_is_called_and_talks(
    setup: Setup, early: tuple[int, ...], ends: str
) -> None:
    call, ring = await ringing(setup)
    for code in early:
        say(ring, code)
        await call.receive(code)
    ok = say(ring, 200, ANSWER_BYTES)
    answer = await call.receive(200)
    assert answer.body == ANSWER_BYTES
    call.ack(answer)
    assert (await ring.receive("ACK")).one("To") == ring.first.one("To")
    check_one_tag(call.received)
    ring.repeat(ok)  # its ACK was lost
    assert (await ring.receive("ACK")).one("To") == ring.first.one("To")
    for method, body in (("INFO", b"Signal=1\r\n"), ("INVITE", OFFER_BYTES)):
        assert not (await exchange(call, ring, method, body)).to_tag
        assert (await exchange(ring, call, method, body)).to_tag == call.tag
    speaker, listener = (call, ring) if ends == "caller" else (ring, call)
    await speaker.hang_up()
    bye = await listener.receive("BYE")
    assert bye.to_tag == listener.tag
    await setup.ended(call.call_id, outcome="answered")


@pytest.mark.parametrize("named_in_requests", [True, False])
async def test_a_tag_in_the_180_and_none_in_the_200(setup: Setup, named_in_requests: bool) -> None:
    call, ring = await ringing(setup)
    ring.tag = "early"
    say(ring, 180)
    await call.receive(180)
    ring.tag = ""
    say(ring, 200, ANSWER_BYTES)
    call.ack(await call.receive(200))
    assert not (await ring.receive("ACK")).to_tag
    check_one_tag(call.received)
    assert not (await exchange(call, ring, "INFO")).to_tag
    if named_in_requests:
        ring.local += ";tag=early"
    await exchange(ring, call, "INFO")
    await ring.hang_up()
    await call.receive("BYE")
    await setup.ended(call.call_id, outcome="answered")


async def test_no_tag_in_the_180_and_one_in_the_200(setup: Setup) -> None:
    call, ring = await ringing(setup)
    say(ring, 180)
    await call.receive(180)
    ring.tag = "late"
    ring.local += ";tag=late"
    say(ring, 200, ANSWER_BYTES)
    call.ack(await call.receive(200))
    assert (await ring.receive("ACK")).to_tag == "late"
    assert (await exchange(call, ring, "INFO")).to_tag == "late"
    await exchange(ring, call, "INFO")
    await ring.hang_up()
    await call.receive("BYE")


async def test_a_caller_gives_up_on_a_phone_without_tags(setup: Setup) -> None:
    call, ring = await ringing(setup)
    say(ring, 180)
    await call.receive(180)
    call.cancel()
    await call.receive(487)
    assert not (await ring.receive("CANCEL")).to_tag
    await setup.ended(call.call_id, outcome="cancelled")


async def test_a_phone_without_tags_answers_in_spite_of_the_cancel(setup: Setup) -> None:
    call, ring = await ringing(setup)
    ring.automatic.discard("CANCEL")
    say(ring, 180)
    await call.receive(180)
    call.cancel()
    await call.receive(487)
    await ring.receive("CANCEL")
    say(ring, 200, ANSWER_BYTES)
    assert not (await ring.receive("ACK")).to_tag
    assert not (await ring.receive("BYE")).to_tag


async def test_it_is_refused_without_a_tag(setup: Setup) -> None:
    call, ring = await ringing(setup)
    say(ring, 180)
    say(ring, 486)
    await call.receive(486)
    assert not (await ring.receive("ACK")).to_tag
    check_one_tag(call.received)


async def test_an_answer_without_a_tag_to_a_reinvite(setup: Setup) -> None:
    """A phone that omits its tag only there, and repeats that answer."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    call.request("INVITE", body=OFFER_BYTES)
    request = await ring.receive("INVITE")
    tagged = ring.respond(100, to=request)
    lines = [(n, untagged(v) if n == "To" else v) for n, v in lines_of(tagged)]
    raw = build("SIP/2.0 200 OK", lines, ANSWER_BYTES)
    ring.endpoint.send(raw, ring.peer)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    for _ in range(2):
        ring.endpoint.send(raw, ring.peer)
    assert (await exchange(call, ring, "INFO")).to_tag == ring.tag
    await exchange(ring, call, "INFO")
    await call.hang_up()
    await ring.receive("BYE")


async def test_a_second_phone_of_a_fork_that_has_no_tag_harms_nobody(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    ok = next(m for m in ring.sent if m.code == 200)
    tagless = ok.raw.replace(f";tag={ring.tag}".encode(), b"")
    assert not parse(tagless).to_tag
    for _ in range(3):
        ring.endpoint.send(tagless, ring.peer)
    assert (await exchange(call, ring, "INFO")).to_tag == ring.tag
    await call.hang_up()
    await ring.receive("BYE")


@pytest.mark.parametrize("answered", [False, True])
async def test_requests_of_others_are_refused_even_without_a_tag(
    setup: Setup, answered: bool
) -> None:
    """Any tag finds a far end without a tag; its address must still be the right one."""
    call, ring = await ringing(setup)
    if answered:
        say(ring, 200, ANSWER_BYTES)
        call.ack(await call.receive(200))
        await ring.receive("ACK")
    stranger = await setup.endpoint("127.0.0.9")
    ours, theirs = ring.first.one("From"), ring.first.one("To")
    for call_id, code in ((ring.call_id, 403), ("another", 481)):
        for tag in ("", ";tag=guess"):
            said = stranger.start(setup.engine.address, "x", method="BYE", to=ours, send=False)
            lines = [(n, theirs + tag if n == "From" else v) for n, v in lines_of(said.first)]
            lines = [(n, call_id if n == "Call-ID" else v) for n, v in lines]
            stranger.send(build(said.first.start, lines), setup.engine.address)
            said.call_id = call_id
            assert (await said.final("BYE")).code == code
            stranger.calls.remove(said)
    if not answered:
        say(ring, 200, ANSWER_BYTES)
        call.ack(await call.receive(200))
        await ring.receive("ACK")
    await exchange(call, ring, "INFO")
    await ring.hang_up()
    await call.receive("BYE")
