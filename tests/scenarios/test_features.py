"""The features in a Contact (RFC 3840) cross, to the engine's own Contact."""

from __future__ import annotations

from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import part
from tests.scenarios.message import Message
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup

CALLER = (
    ';audio;Video;isfocus;methods="INVITE,BYE";+sip.instance="<urn:uuid:0C67446E>"'
    ';description="<a, \\"b\\">";+g.3gpp.icsi-ref="urn%3Aurn-7"'
)
PHONE = ';isfocus;automata;+sip.rendering="no"'
STAYS = ";expires=60;reg-id=1;q=0.5;ob"


def features(message: Message) -> str:
    """The parameters of a Contact."""
    return message.one("Contact").partition(">")[2]


async def ringing(setup: Setup, **more: object) -> tuple[Call, Call, Endpoint, Endpoint]:
    caller, phone = await setup.endpoint(), await setup.endpoint()
    caller.features, phone.features = STAYS + CALLER, PHONE + STAYS
    line = setup.line(to=[phone.uri()])
    call = caller.start(setup.engine.address, line, **more)  # type: ignore[arg-type]
    return call, await phone.incoming(), caller, phone


async def test_features_cross_in_both_directions(setup: Setup) -> None:
    call, ring, caller, phone = await ringing(setup)
    assert features(ring.first) == CALLER
    ring.respond(180)
    assert features(await call.receive(180)) == PHONE
    ring.respond(200, body=ANSWER_BYTES)
    answer = await call.receive(200)
    assert features(answer) == PHONE
    call.ack(answer)
    await ring.receive("ACK")
    caller.features, phone.features = ";audio", ";video;isfocus"
    for asker, asked, there, here in (
        (call, ring, ";audio", ";video;isfocus"),
        (ring, call, ";video;isfocus", ";audio"),
    ):
        for method in ("INVITE", "UPDATE"):
            asker.request(method, body=OFFER_BYTES)
            request = await asked.receive(method)
            assert features(request) == there
            asked.respond(200, to=request, body=ANSWER_BYTES)
            final = await asker.receive(200, method)
            assert features(final) == here
            if method == "INVITE":
                asker.ack(final)
                await asked.receive("ACK")
    await part(call, ring)


async def test_without_features_a_contact_stays_bare(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    assert features(ring.first) == ""
    ring.respond(200, body=ANSWER_BYTES)
    answer = await call.receive(200)
    assert features(answer) == ""
    call.ack(answer)
    await ring.receive("ACK")
    await part(call, ring)


async def test_no_feature_names_a_withheld_caller(setup: Setup) -> None:
    call, ring, _, _ = await ringing(setup, headers=[("Privacy", "id")])
    assert features(ring.first) == ';audio;Video;isfocus;methods="INVITE,BYE"'
    ring.respond(200, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    await part(call, ring)
