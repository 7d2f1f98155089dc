"""A caller who withholds the number, in any notation, is shown to no phone and no customer. Fields
of the network are accepted only from the network (RFC 3323, 3325, 5806, 7044, 7315, 8224)."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Endpoint, Headers
from tests.scenarios.expect import connect, part, refuse
from tests.scenarios.message import Message, untagged
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup, to_number

ANONYMOUS = '"Anonymous" <sip:anonymous@anonymous.invalid>'
OUTSIDE = "127.0.0.2"  # a phone there is untrusted

MARKS: dict[str, Headers] = {
    "id": [("Privacy", "id")],
    "upper_case": [("PRIVACY", "ID")],
    "in_a_list": [("Privacy", "none"), ("privacy", "history ; id")],
    "user": [("Privacy", "user;critical")],
    "header": [("Privacy", "header")],
    "critical": [("Privacy", "critical")],
    "a_word_unheard_of": [("Privacy", "x-later")],
    "remote_party_full": [("Remote-Party-ID", "<sip:{n}@h>;party=calling;privacy=full")],
    "remote_party_quoted": [("remote-party-id", '"A" <sip:{n}@h>;x=1;Privacy="FULL"')],
    "remote_party_uri": [("Remote-Party-ID", "<sip:0@h>;privacy=off, <sip:{n}@h>;privacy=uri")],
    "remote_party_name": [("Remote-Party-ID", "sip:{n}@h;privacy=name")],
}


def passport(number: str) -> str:
    """An Identity value (RFC 8224) that names the caller."""
    claims = json.dumps({"orig": {"tn": number.lstrip("+")}}).encode()
    return base64.urlsafe_b64encode(claims).decode().rstrip("=") + ";info=<https://cert.example/a>"


def naming(number: str) -> Headers:
    """Every header field that can name the caller, except From."""
    uri, local = f"sip:{number}@trusted.example", "0" + number[3:]
    spaced = " ".join(local[i : i + 2] for i in range(0, len(local), 2))
    return [
        ("P-Asserted-Identity", f'"Secret" <{uri}>, <tel:{number}>'),
        ("P-Preferred-Identity", f"<{uri}>"),
        ("Remote-Party-ID", f"<{uri}>;party=calling"),
        ("Identity", passport(number)),
        ("y", passport(number)),
        ("Identity-Info", f"<https://{number[1:]}.example/cert>"),
        ("Referred-By", f"<{uri}>"),
        ("b", f"<{uri}>"),
        ("Reply-To", f"<{uri}>"),
        ("Call-Info", f"<https://cards.example/{number[1:]}>;purpose=icon"),
        ("Diversion", f"<{uri}>;reason=unknown"),
        ("History-Info", f"<{uri}>;index=1"),
        ("Geolocation", f"<https://where.example/{number[1:]}>"),
        ("P-Charge-Info", f"<{uri}>"),
        ("P-Served-User", f"<{uri}>"),
        ("Warning", f'399 {number[1:]}.example "x"'),
        ("X-Caller-Number", spaced),
    ]


def shows(message: Message, number: str) -> list[str]:
    """The lines of a message that contain a number, in clear or encoded."""
    tail, found = number[-8:], []
    for line in message.raw.decode("utf-8", "replace").split("\r\n"):
        plain = "".join(c for c in line if c.isdigit())
        if tail in plain or passport(number)[:12] in line:
            found.append(line)
    return found


@pytest.mark.parametrize("mark", MARKS)
async def test_no_field_shows_a_phone_a_withheld_number(setup: Setup, mark: str) -> None:
    number = numbers.caller_number()
    marks = [(name, value.format(n=number)) for name, value in MARKS[mark]]
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, caller=number, headers=[*marks, *naming(number), ("X-A", "1")])
    ring = await phone.incoming()
    assert shows(ring.first, number) == []
    assert untagged(ring.first.one("From")) == ANONYMOUS
    assert ring.first.one("X-A") == "1"
    await connect(call, ring)
    await part(call, ring)


async def test_an_anonymous_from_is_enough(setup: Setup) -> None:
    number = numbers.caller_number()
    line, phone = await setup.line_with_phone()
    for from_ in ("<sip:Anonymous@anonymous.invalid>", f"Anonymous <sip:{number}@gw.example>"):
        call = await setup.call(line, from_=from_, headers=naming(number))
        ring = await phone.incoming()
        assert shows(ring.first, number) == []
        await refuse(ring, 486)
        await call.receive(486)


async def test_who_asks_for_no_privacy_is_shown(setup: Setup) -> None:
    number = numbers.caller_number()
    line, phone = await setup.line_with_phone()
    given = [("Privacy", "none"), ("P-Asserted-Identity", f"<sip:{number}@h>"), ("Subject", "x")]
    call = await setup.call(line, caller=number, headers=given)
    ring = await phone.incoming()
    assert [(name, ring.first.one(name)) for name, _ in given] == given
    assert number in ring.first.one("From")
    await connect(call, ring)
    await part(call, ring)


@pytest.mark.parametrize("privacy", ["user", "USER;id"])
async def test_what_the_callers_phone_writes_goes_with_its_user(setup: Setup, privacy: str) -> None:
    written = [
        ("s", "For Mrs Durand"), ("Call-Info", "<https://durand.example>"),
        ("Organization", "Durand"), ("User-Agent", "Durand's phone"),
        ("Reply-To", "<sip:durand@durand.example>"), ("In-Reply-To", "1@durand.example"),
    ]  # fmt: skip
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=[("Privacy", privacy), *written])
    ring = await phone.incoming()
    assert b"urand" not in ring.first.raw
    await connect(call, ring)
    await part(call, ring)


async def test_a_server_gets_everything_with_its_marks(setup: Setup) -> None:
    number, target = numbers.caller_number(), numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    given = [
        ("Privacy", "id;user;history"), *naming(number), ("Subject", "x"),
        ("Diversion", "<sip:+33141990000@x>;privacy=full"),
    ]  # fmt: skip
    call = await setup.call(line, caller=number, headers=given)
    away = await setup.server("number").incoming(target)
    for name, value in given:
        full = {"y": "identity", "b": "referred-by"}.get(name, name)
        assert any(value in each for each in (*away.first.every(full), *away.first.every(name)))
    assert number in away.first.one("From")
    await connect(call, away)
    await part(call, away)


async def test_an_earlier_diverting_user_may_want_privacy(setup: Setup) -> None:
    given = [
        ("Diversion", '<sip:+33141990001@x>;privacy="Full", <sip:+33141990002@x>;privacy=off'),
        ("History-Info", "<sip:+33141990003@x?Privacy=history>;index=1"),
        ("History-Info", "<sip:+33141990004@x?Reason=SIP%3Bcause%3D302&privacy=id%3Bhistory>"
                         ";index=1.1, <sip:+33141990005@x>;index=1.1.1"),
    ]  # fmt: skip
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=given)
    ring = await phone.incoming()
    text = ring.first.raw.decode()
    assert [n for n in range(1, 6) if f"+3314199000{n}" in text] == [2, 5]
    indexes = [v.rpartition("index=")[2] for v in ring.first.values("History-Info")]
    assert indexes == ["1", "1.1", "1.1.1"]
    assert "+33140" in ring.first.one("From")
    await connect(call, ring)
    await part(call, ring)


async def test_no_part_of_a_body_shows_a_withheld_number(setup: Setup) -> None:
    number = numbers.caller_number()
    parts = [
        ("application/sdp", OFFER_BYTES.decode()),
        ("application/pidf+xml", f'<presence entity="pres:{number}@h"/>'),
        ("application/isup;version=itu-t92+", number),
    ]
    body = "".join(f"--x\r\nContent-Type: {kind}\r\n\r\n{text}\r\n" for kind, text in parts)
    headers = [("Privacy", "id"), ("P-Asserted-Identity", f"<sip:{number}@h>"),
               ("Geolocation", "<cid:where@h>")]  # fmt: skip
    kind = "multipart/mixed;boundary=x"
    line, phone = await setup.line_with_phone()
    whole = f"{body}--x--\r\n".encode()
    call = await setup.call(line, caller=number, headers=headers, body=whole, content_type=kind)
    ring = await phone.incoming()
    assert shows(ring.first, number) == []
    assert OFFER_BYTES in ring.first.body
    assert ring.first.one("Content-Type").replace(" ", "") == kind
    await connect(call, ring)
    await part(call, ring)


async def test_no_part_of_the_body_of_an_ack_shows_a_withheld_number(setup: Setup) -> None:
    """Of the INVITE and of a re-INVITE, both without an offer. The network's own ACK has no
    Privacy: what the INVITE asked for holds."""
    number, kind = numbers.caller_number(), "multipart/mixed;boundary=x"
    card = f"--x\r\nContent-Type: text/vcard\r\n\r\nTEL:{number}\r\n".encode()
    body = b"--x\r\nContent-Type: application/sdp\r\n\r\n" + ANSWER_BYTES + b"\r\n" + card
    headers = [("Privacy", "id"), ("P-Asserted-Identity", f"<sip:{number}@h>")]
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, caller=number, headers=headers, body=b"")
    ring = await phone.incoming()
    ring.respond(200, body=OFFER_BYTES)
    call.ack(await call.receive(200), body=body + b"--x--\r\n", content_type=kind)
    first = await ring.receive("ACK")
    call.request("INVITE")
    ring.respond(200, to=await ring.receive("INVITE"), body=OFFER_BYTES)
    call.ack(await call.receive(200), body=body + b"--x--\r\n", content_type=kind)
    for ack in (first, await ring.receive("ACK")):
        assert shows(ack, number) == []
        assert ANSWER_BYTES in ack.body
        assert ack.one("Content-Type").replace(" ", "") == kind
    await part(call, ring)


async def test_a_withheld_number_stays_withheld_in_later_requests(setup: Setup) -> None:
    number = numbers.caller_number()
    line, phone = await setup.line_with_phone()
    headers = [("Privacy", "id"), ("P-Asserted-Identity", f"<sip:{number}@h>")]
    call = await setup.call(line, from_=ANONYMOUS, caller="anonymous", headers=headers)
    ring = await phone.incoming()
    await connect(call, ring)
    for method in ("UPDATE", "INFO", "MESSAGE", "NOTIFY", "X-NEW"):
        call.request(method, headers=naming(number))
        asked = await ring.receive(method)
        assert shows(asked, number) == []
        ring.respond(200, to=asked)
        await call.receive(200, method)
    call.request("INVITE", headers=naming(number), body=OFFER_BYTES)
    asked = await ring.receive("INVITE")
    assert shows(asked, number) == []
    ring.respond(200, to=asked, body=ANSWER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    # and in answers to the phone
    ring.request("INFO")
    call.respond(200, to=await call.receive("INFO"), headers=naming(number))
    assert shows(await ring.receive(200, "INFO"), number) == []
    call.automatic.clear()
    ring.request("BYE")
    call.respond(200, to=await call.receive("BYE"), headers=naming(number))
    assert shows(await ring.receive(200, "BYE"), number) == []


@pytest.mark.parametrize("end", ["BYE", "CANCEL"])
async def test_the_end_of_a_call_shows_no_withheld_number(setup: Setup, end: str) -> None:
    number = numbers.caller_number()
    line, phone = await setup.line_with_phone()
    headers = [("Privacy", "id"), ("P-Asserted-Identity", f"<sip:{number}@h>")]
    call = await setup.call(line, caller=number, headers=headers)
    ring = await phone.incoming()
    said = [*naming(number), ("Subject", "Bye"), ("Reason", "Q.850;cause=16")]
    if end == "BYE":
        await connect(call, ring)
        call.request("BYE", headers=said)
        await call.receive(200, "BYE")
    else:
        ring.respond(180)
        await call.receive(180)
        call.cancel(headers=said)
        await call.receive(487)
    request = await ring.receive(end)
    assert shows(request, number) == []
    assert request.one("Subject") == "Bye"


async def test_privacy_asked_for_later_holds_from_then_on(setup: Setup) -> None:
    number = numbers.caller_number()
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, caller=number)
    ring = await phone.incoming()
    await connect(call, ring)
    for more, hidden in (
        ([], False),
        ([("privacy", "ID")], True),
        ([], True),
        ([("Privacy", "none")], False),
    ):
        call.request("UPDATE", headers=[("P-Asserted-Identity", f"<sip:{number}@h>"), *more])
        asked = await ring.receive("UPDATE")
        assert asked.has("P-Asserted-Identity") != hidden
        ring.respond(200, to=asked)
        await call.receive(200, "UPDATE")
    await part(call, ring)


async def phone_calls(setup: Setup) -> tuple[Call, Call, str]:
    """A call that a registered phone of a line makes to another line."""
    own, caller = await setup.line_with_phone(max_calls=5)
    line, phone = await setup.line_with_phone()
    first = await setup.call(own, caller=line)  # so that the calling line is in memory
    await refuse(await caller.incoming(), 486)
    await first.receive(486)
    call = caller.start(setup.engine.address, line, caller=own, body=OFFER_BYTES)
    return call, await phone.incoming(), own


async def test_who_is_called_may_withhold_the_number_too(setup: Setup) -> None:
    """Towards a calling phone; a calling server gets the number with its privacy mark."""
    number = numbers.caller_number()
    for calling in (phone_calls, None):
        if calling is not None:
            call, ring, _ = await calling(setup)
        else:
            line, phone = await setup.line_with_phone()
            call = await setup.call(line)
            ring = await phone.incoming()
        ring.respond(180, headers=[("Privacy", "id"), ("X-A", "1")])
        assert (await call.receive(180)).one("X-A") == "1"
        ring.respond(200, headers=[("P-Asserted-Identity", f"<sip:{number}@h>")],
                     body=ANSWER_BYTES)  # fmt: skip
        answer = await call.receive(200)
        assert answer.has("P-Asserted-Identity") == (calling is None)
        call.ack(answer)
        await ring.receive("ACK")
        await part(call, ring)


@pytest.mark.parametrize("asked", ["critical;session", "id, critical, x-later"])
async def test_critical_privacy_that_is_impossible_rings_no_phone(setup: Setup, asked: str) -> None:
    """A server may still be able to do it: servers get the call unchanged."""
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=[("Privacy", asked)])
    await call.receive(500)
    await setup.ended(call.call_id, outcome="rejected", why="privacy")
    assert phone.invited() == []
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = await setup.call(line, headers=[("Privacy", asked)])
    away = await setup.server("number").incoming(target)
    assert away.first.one("Privacy") == asked
    await connect(call, away)
    await part(call, away)


# -- trust -----------------------------------------------------------------------------------------

CLAIMS = [
    ("P-Asserted-Identity", "<sip:+33899000001@h>"), ("P-Preferred-Identity", "<sip:+331@h>"),
    ("Remote-Party-ID", "<sip:+33899000001@h>;party=called"), ("Identity", "eyJ;info=<x>"),
    ("Diversion", "<sip:+33899000001@h>"), ("History-Info", "<sip:+33899000001@h>;index=1"),
    ("P-Charging-Vector", "icid-value=1"), ("P-Charge-Info", "<sip:+33899000001@h>"),
    ("P-Charging-Function-Addresses", "ccf=1.2.3.4"), ("P-Served-User", "<sip:+33899000001@h>"),
    ("p-dcs-billing-info", "x"), ("P-Early-Media", "sendrecv"), ("y", "eyJ"),
]  # fmt: skip
SAID = [*CLAIMS, ("X-A", "1")]


def believed(message: Message) -> int:
    """How many of the restricted fields were relayed; unrestricted ones must be."""
    assert message.one("X-A") == "1"
    return sum(message.has(name) for name, _ in CLAIMS)


async def everything_said(setup: Setup, line: str, phone: Endpoint) -> list[int]:
    """How many of a phone's restricted fields reach the caller, message by message."""
    counts: list[int] = []
    call = await setup.call(line)
    ring = await phone.incoming()
    for code in (183, 180):
        ring.respond(code, headers=SAID)
        counts.append(believed(await call.receive(code)))
    ring.respond(200, headers=SAID, body=ANSWER_BYTES)
    answer = await call.receive(200)
    counts.append(believed(answer))
    call.ack(answer)
    await ring.receive("ACK")
    for method in ("UPDATE", "INFO", "MESSAGE", "INVITE"):
        body = OFFER_BYTES if method == "INVITE" else b""
        ring.request(method, headers=SAID, body=body)
        asked = await call.receive(method)
        counts.append(believed(asked))
        call.respond(200, to=asked, body=ANSWER_BYTES if body else b"")
        got = await ring.receive(200, method)
        if method == "INVITE":
            ring.ack(got)
            await call.receive("ACK")
    call.request("INFO")
    ring.respond(200, to=await ring.receive("INFO"), headers=SAID)
    counts.append(believed(await call.receive(200, "INFO")))
    ring.request("BYE", headers=SAID)
    counts.append(believed(await call.receive("BYE")))
    await ring.receive(200, "BYE")
    refused = await setup.call(line)
    await refuse(await phone.incoming(), 488, headers=SAID)
    counts.append(believed(await refused.receive(488)))
    return counts


async def test_restricted_fields_of_a_phone_are_not_relayed(setup: Setup) -> None:
    phone = await setup.endpoint(OUTSIDE)
    line = setup.line(to=[phone.uri()])
    assert await everything_said(setup, line, phone) == [0] * 10


async def test_a_contact_that_is_a_trusted_server_is_trusted(setup: Setup) -> None:
    line, server = await setup.line_with_phone()
    assert await everything_said(setup, line, server) == [len(CLAIMS)] * 10


async def test_a_phone_behind_a_trusted_edge_is_not_the_edge(setup: Setup) -> None:
    phone, edge = await setup.endpoint(OUTSIDE), await setup.endpoint()
    line = setup.line()
    setup.register(line, f'<{phone.uri()}>;path="<{edge.uri("edge")};lr>"')
    call = await setup.call(line)
    ring = await edge.incoming()
    ring.respond(180, headers=SAID)
    assert believed(await call.receive(180)) == 0
    await connect(call, ring)
    await part(call, ring)


async def test_a_destination_is_trusted_at_any_address(setup: Setup) -> None:
    target = numbers.outside_number()
    line = setup.line(forwards={"unconditional": to_number(target)})
    call = await setup.call(line)
    away = await setup.server("number").incoming(target)
    away.respond(180, headers=SAID)
    assert believed(await call.receive(180)) == len(CLAIMS)
    await connect(call, away)
    await part(call, away)


# -- readers of the records ------------------------------------------------------------------------


async def test_a_record_keeps_a_withheld_number_for_operators_alone(setup: Setup) -> None:
    number, own = numbers.caller_number(), setup.line(max_calls=1)
    for caller, headers, withheld in (
        (number, [("Privacy", "id"), ("P-Asserted-Identity", f"<sip:{number}@h>")], True),
        (number, [("Remote-Party-ID", f"<sip:{number}@h>;privacy=full")], True),
        ("", [("Remote-Party-ID", f"<sip:{number}@h>;privacy=full")], True),
        (own, [("Privacy", "user"), ("P-Asserted-Identity", f"<tel:{own}>")], True),
        (number, [("Privacy", "history")], False),
        (number, [("Privacy", "none")], False),
    ):
        line, phone = await setup.line_with_phone()
        from_ = "" if caller else ANONYMOUS
        call = await setup.call(line, caller=caller, from_=from_, headers=headers)
        caller = caller or number
        ring = await phone.incoming()
        entry = next(c for c in json.loads(setup.engine.get("/calls")[1]) if c["called"] == line)
        assert (entry["caller"], entry["withheld"]) == ("" if withheld else caller, withheld)
        assert (caller[1:] in json.dumps(entry)) != withheld
        if caller == own:  # the calling line still counts
            await (await setup.call(own)).receive(486)
        await connect(call, ring)
        await part(call, ring)
        shown, kept = ("", caller) if withheld else (caller, "")
        await setup.ended(call.call_id, caller=shown, caller_withheld=kept)
        ends: list[dict[str, object]] = []
        deadline = time.monotonic() + within(5)
        while not ends and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            ends = [e for e in setup.engine.events() if e.get("call_id") == call.call_id]
        assert [caller[1:] in json.dumps(end) for end in ends] == [not withheld]


async def test_a_caller_who_withholds_the_number_is_still_no_target_of_its_own_call(
    setup: Setup,
) -> None:
    boss = numbers.outside_number()
    line, phone = await setup.line_with_phone(forwards={"unconditional": to_number(boss)})
    headers = [("Privacy", "id"), ("P-Asserted-Identity", f"<sip:{boss}@h>")]
    call = await setup.call(line, from_=ANONYMOUS, headers=headers)
    ring = await phone.incoming()
    assert shows(ring.first, boss) == []
    await connect(call, ring)
    await part(call, ring)
