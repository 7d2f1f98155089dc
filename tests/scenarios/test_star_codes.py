"""Star codes: a phone dials one, and the next call follows the change."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from engine.registration.digest import ha1
from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Endpoint, Headers
from tests.scenarios.message import Message
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.setup import OFFER_BYTES, Setup, to_number, to_voicemail

PASSWORD = "s3same"
ELSEWHERE = "sip:desk@192.0.2.7:5062"  # a phone behind a telephony server
BUSY = {"on": True, "to": {"kind": "voicemail"}}
SETTINGS = {"sip": {"trusted_peers": ["127.0.0.1/32", "127.0.0.2/32"]}}


@asynccontextmanager
async def refusing(endpoint: Endpoint) -> AsyncIterator[None]:
    """The endpoint answers every call with busy."""

    async def refuse() -> None:
        while True:
            (await endpoint.incoming(wait_s=60)).respond(486)

    task = asyncio.create_task(refuse())
    yield
    task.cancel()


async def dial(
    setup: Setup,
    phone: Endpoint,
    code: str,
    line: str,
    headers: Headers = (),
    body: bytes = OFFER_BYTES,
) -> tuple[Message, Call]:
    """The phone dials a code from a line; returns the final answer. A confirmed call is ended."""
    called = code.replace("#", "%23")
    call = phone.start(setup.engine.address, called, caller=line, headers=headers, body=body)
    answer = await call.final()
    if answer.code == 200:
        call.ack(answer)
        await call.receive("BYE")
    return answer, call


def stored(setup: Setup, line: str) -> dict[str, Any]:
    text = setup.redis.get(f"line:{line}")
    assert isinstance(text, str)
    forwards: dict[str, Any] = json.loads(text).get("forwards", {})
    return forwards


def phrase(answer: Message) -> str:
    """The text of the answer for users."""
    found = re.fullmatch(r'399 \S+ "(.*)"', answer.one("Warning"))
    assert found is not None
    return found[1]


async def reaches(setup: Setup, line: str) -> str:
    """The target of a call to the line now, with the user part that it gets."""
    places = {name: setup.server(name) for name in ("voicemail", "number")}
    before = {name: len(place.calls) for name, place in places.items()}
    call = await setup.call(line)
    code = (await call.final()).code
    for name, place in places.items():
        if len(place.calls) > before[name]:
            return f"{name} {place.calls[-1].first.user}"
    return f"phone {code}"


async def test_each_code_changes_the_next_call(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(max_calls=1)
    mobile, landline = numbers.mobile_number(), numbers.outside_number()
    national = "0" + mobile[3:]
    async with (
        refusing(phone),
        refusing(setup.server("voicemail")),
        refusing(setup.server("number")),
    ):
        for code, place in (
            (f"*21*{national}#", f"number {mobile}"),
            ("#21#", "phone 486"),
            ("*21#", f"number {mobile}"),
            ("##21#", "phone 486"),
            (f"**21*{line}#", f"voicemail {line}"),
            ("#002#", "phone 486"),
            (f"*69*{landline}#", f"number {landline}"),
            ("#69#", "phone 486"),
            ("*67*888#", f"voicemail {line}"),
            ("##67#", "phone 486"),
            (f"*004*{mobile}#", f"number {mobile}"),
            ("##002#", "phone 486"),
        ):
            answer, call = await dial(setup, phone, code, line)
            assert answer.code == 200, f"{code}: {answer}"
            # No waiting here: a confirmed change is in force.
            assert await reaches(setup, line) == place, code
            by = {"caller": line, "caller_by": "registered"}
            await setup.ended(call.call_id, outcome="answered", code=200, why="star_code", **by)


async def test_no_answer_takes_its_seconds(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    answer, _ = await dial(setup, phone, "*61*888*5#", line)
    assert phrase(answer) == "no answer to voicemail after 5 s: on"
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(180)
    box = await setup.server("voicemail").incoming(line, wait_s=7)
    box.respond(486)
    assert (await call.final()).code == 486
    answer, _ = await dial(setup, phone, "*61**60#", line)
    assert stored(setup, line)["no_answer"]["after_s"] == 60


async def test_unreachable_is_set_from_a_phone_that_then_goes(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    mobile = numbers.mobile_number()
    answer, _ = await dial(setup, phone, f"*62*{mobile}#", line)
    assert answer.code == 200
    setup.redis.delete(f"reg:{line}")
    await setup.settle()
    async with refusing(setup.server("number")):
        assert await reaches(setup, line) == f"number {mobile}"


async def test_a_status_code_answers_by_its_final_response(setup: Setup) -> None:
    target = numbers.outside_number()
    line, phone = await setup.line_with_phone(forwards={"busy": to_number(target)})
    for code, expected, words in (
        ("*#21#", 480, "unconditional: none"),
        ("*#69#", 200, f"busy to number {target}: on"),
        ("*#67#", 200, f"busy to number {target}: on"),
        (f"*#69*{target}#", 200, f"busy to number {target}: on"),
        ("*#69*888#", 480, f"busy to number {target}: on"),
    ):
        answer, call = await dial(setup, phone, code, line)
        assert (answer.code, phrase(answer)) == (expected, words), code
        assert answer.start.endswith(words)  # the reason phrase: what phones show
        await setup.ended(call.call_id, code=expected)
    answer, _ = await dial(setup, phone, "*#002#", line)
    assert answer.code == 200
    assert len(phrase(answer).split("; ")) == 4
    assert stored(setup, line) == {"busy": to_number(target)}


async def test_the_answer_takes_no_media(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    answer, _ = await dial(setup, phone, "#21#", line)
    assert answer.one("Content-Type") == "application/sdp"
    streams = [text for text in answer.body.decode().splitlines() if text.startswith("m=")]
    offered = [text for text in OFFER_BYTES.decode().splitlines() if text.startswith("m=")]
    assert len(streams) == len(offered) == 2
    for mine, theirs in zip(streams, offered, strict=True):
        kind, port, rest = mine.split(" ", 2)
        assert (kind, port) == (theirs.split(" ")[0], "0")
        assert rest == theirs.split(" ", 2)[2]
    late, _ = await dial(setup, phone, "#21#", line, body=b"")
    assert late.body.startswith(b"v=0\r\n")
    assert b"m=" not in late.body


async def test_a_bare_hash_is_understood_too(setup: Setup) -> None:
    """Phones that do not escape it (RFC 3261 25.1 asks them to)."""
    line, phone = await setup.line_with_phone(forwards={"busy": BUSY})
    call = phone.start(setup.engine.address, "#002#", caller=line, body=OFFER_BYTES)
    answer = await call.final()
    assert answer.code == 200
    call.ack(answer)
    assert stored(setup, line) == {"busy": BUSY | {"on": False}}


async def test_every_change_is_in_the_log_of_changes(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(fleet="logged", credentials={"user": "u", "ha1": "x"})
    await dial(setup, phone, "*21*888#", line)
    await dial(setup, phone, "*21*888#", line)  # no change
    await dial(setup, phone, "#21#", line)
    entries = cast("list[tuple[str, dict[str, str]]]", setup.redis.xrange("audit:logged"))
    first, second = (entry for _, entry in entries)
    assert {k: first[k] for k in ("who", "how", "line", "what")} == {
        "who": line, "how": "phone", "line": line, "what": "forwards",
    }  # fmt: skip
    forward = to_voicemail(line)
    assert json.loads(first["from"]) == {}
    assert json.loads(first["to"]) == {"forwards": {"unconditional": forward}}
    assert json.loads(second["from"]) == {"forwards": {"unconditional": forward}}
    assert json.loads(second["to"]) == {"forwards": {"unconditional": forward | {"on": False}}}
    text = setup.redis.get(f"line:{line}")
    assert isinstance(text, str)
    assert json.loads(text)["credentials"] == {"user": "u", "ha1": "x"}


@pytest.mark.parametrize(
    ("code", "expected", "why"),
    [
        ("*99#", 404, "unknown_code"),
        ("*21*", 484, "incomplete"),
        ("*21*061234567#", 484, "incomplete"),
        ("*21#", 404, "no_target"),
        ("*21*0899123456#", 403, "not_allowed"),
        ("*21*112#", 403, "not_allowed"),
        ("*21*004990012345670#", 403, "not_allowed"),  # premium, with a digit too many
        ("*21*00491805123456#", 403, "not_allowed"),
        ("*21*004911833#", 403, "not_allowed"),
        ("*21*0700000001#", 403, "not_allowed"),
        ("*61*0612345678*61#", 403, "not_allowed"),
        ("*61*0612345678*4#", 403, "not_allowed"),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(
    setup: Setup, code: str, expected: int, why: str
) -> None:
    line, phone = await setup.line_with_phone(forwards={"busy": BUSY})
    answer, call = await dial(setup, phone, code, line)
    assert answer.code == expected
    assert phrase(answer)
    assert stored(setup, line) == {"busy": BUSY}
    record = await setup.ended(call.call_id, outcome="rejected", code=expected, why=why)
    assert (record["caller"], record["called"]) == (line, code)


# -- authorisation -----------------------------------------------------------------------------


async def behind(setup: Setup, **fields: Any) -> tuple[str, Endpoint]:
    """A line whose phone is behind a telephony server, and that server."""
    return setup.line(to=[ELSEWHERE], **fields), await setup.endpoint("127.0.0.2")


def asserted(line: str) -> tuple[str, str]:
    return ("P-Asserted-Identity", f"<sip:{line}@office.example>")


async def test_from_alone_does_not_prove_whose_phone_it_is(setup: Setup) -> None:
    line, server = await behind(setup)
    answer, call = await dial(setup, server, "*21*888#", line)
    assert answer.code == 403
    assert stored(setup, line) == {}
    await setup.ended(call.call_id, outcome="rejected", code=403, why="not_this_phone")


async def test_an_asserted_identity_without_the_lines_phone_is_not_enough(setup: Setup) -> None:
    line, server = await behind(setup)
    answer, _ = await dial(setup, server, "*21*888#", line, [asserted(line)])
    assert answer.code == 403


async def test_an_asserted_identity_with_the_lines_contact_is(setup: Setup) -> None:
    line, server = await behind(setup)
    contact = ("Contact", f"<{ELSEWHERE};transport=udp>;expires=60")
    call = server.start(
        setup.engine.address, "*21*888", caller="anonymous", body=OFFER_BYTES, contact=False,
        headers=[asserted(line), contact],
    )  # fmt: skip
    answer = await call.final()
    assert answer.code == 200
    call.ack(answer)
    assert stored(setup, line) == {"unconditional": to_voicemail(line)}


async def test_a_contact_that_is_another_lines_is_not(setup: Setup) -> None:
    line, server = await behind(setup)
    for uri in ("sip:other@192.0.2.7:5062", "sip:desk@192.0.2.7", "sip:desk@192.0.2.8:5062"):
        call = server.start(
            setup.engine.address, "*21*888", caller=line, body=OFFER_BYTES, contact=False,
            headers=[asserted(line), ("Contact", f"<{uri}>")],
        )  # fmt: skip
        assert (await call.final()).code == 403


async def test_the_edge_that_the_phone_registered_through_is_not_enough(setup: Setup) -> None:
    """It may relay calls from outside, with their asserted identities."""
    line = setup.line(to=[f'<{ELSEWHERE}>;path="<sip:127.0.0.2;lr>"'])
    server = await setup.endpoint("127.0.0.2")
    assert (await dial(setup, server, "*21*888#", line))[0].code == 403
    assert (await dial(setup, server, "*21*888#", line, [asserted(line)]))[0].code == 403


async def test_from_is_ignored_where_an_identity_is_asserted(setup: Setup) -> None:
    victim, phone = await setup.line_with_phone()
    answer, _ = await dial(setup, phone, "*21*888#", victim, [asserted("+33140000009")])
    assert answer.code == 403
    assert stored(setup, victim) == {}


async def test_a_registration_that_has_lapsed_counts_no_more(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    setup.redis.delete(f"reg:{line}")
    await setup.settle()
    assert (await dial(setup, phone, "*21*888#", line))[0].code == 403


@pytest.mark.parametrize(
    "header",
    [
        ("Referred-By", "<sip:mallory@outside.example>"),
        ("Diversion", "<sip:+33140000001@office.example>;reason=unconditional"),
        ("History-Info", "<sip:+33140000001@h?Reason=SIP%3Bcause%3D302>;index=1"),
    ],
    ids=lambda header: header[0],
)
async def test_no_other_peer_can_make_a_phone_dial_a_code(
    setup: Setup, header: tuple[str, str]
) -> None:
    line, phone = await setup.line_with_phone()
    assert (await dial(setup, phone, "*21*888#", line, [header]))[0].code == 403
    assert stored(setup, line) == {}


async def test_a_caller_cannot_send_the_phone_to_a_code(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line)
    ring = await phone.incoming()
    ring.respond(200, body=OFFER_BYTES)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    for refer_to, code in (
        ("<sip:*21*0612345678%23@renvoi>", 403),
        ("sip:%2A21%2A0612345678@renvoi", 403),
        ("<sip:%23%23002%23@renvoi>", 403),
        ("<sip:*68%23@renvoi>", 202),  # another system's code
        ("<sip:0612345678@renvoi>", 202),
    ):
        call.request("REFER", headers=[("Refer-To", refer_to)])
        if code == 202:
            refer = await ring.receive("REFER")
            ring.respond(202, to=refer)
        assert (await call.final("REFER")).code == code, refer_to
    await call.hang_up()
    await ring.receive("BYE")


async def test_a_stranger_may_dial_nothing(setup: Setup) -> None:
    line = setup.line(to=["sip:desk@127.0.0.9:5062"])
    stranger = await setup.endpoint("127.0.0.9")
    assert (await dial(setup, stranger, "*21*888#", line))[0].code == 403
    assert stored(setup, line) == {}


async def test_an_unknown_line_and_a_suspended_one_may_not(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(suspended=True)
    assert (await dial(setup, phone, "*21*888#", line))[0].code == 403
    assert (await dial(setup, phone, "*21*888#", numbers.line_number()))[0].code == 403
    assert (await dial(setup, phone, "*21*888#", "anonymous"))[0].code == 403


async def test_a_line_of_a_suspended_fleet_may_not_until_it_is_paid(setup: Setup) -> None:
    setup.redis.set("fleet:late", json.dumps({"name": "late", "suspended": True}))
    await setup.know_fleet("late")
    line, phone = await setup.line_with_phone(fleet="late")
    for code in ("*21*888#", "*#21#"):
        answer, call = await dial(setup, phone, code, line)
        assert answer.code == 403
        assert phrase(answer) == "the line's fleet is suspended"
        await setup.ended(call.call_id, outcome="rejected", why="fleet_suspended")
    assert stored(setup, line) == {}
    setup.redis.set("fleet:late", json.dumps({"name": "late", "suspended": False}))
    await setup.settle(fleets=True)
    assert (await dial(setup, phone, "*21*888#", line))[0].code == 200
    assert stored(setup, line)["unconditional"]["on"]


class Softphone:
    """A phone that has a line's password but is not registered."""

    def __init__(self, setup: Setup, endpoint: Endpoint, line: str, password: str) -> None:
        self.setup, self.endpoint, self.line, self.password = setup, endpoint, line, password

    async def dial(self, code: str, shown_for: str = "", nonce: str = "", nc: int = 1) -> Message:
        """Dial and answer the challenge (for `shown_for` instead of the dialled code)."""
        if not nonce:
            challenge, _ = await dial(self.setup, self.endpoint, code, self.line)
            assert challenge.code == 401
            offers = [o for o in challenge.every("WWW-Authenticate") if "algorithm=MD5" in o]
            nonce = offers[0].partition('nonce="')[2].partition('"')[0]
        self.nonce = nonce
        uri = f"sip:{(shown_for or code).replace('#', '%23')}@renvoi"
        headers = [("Authorization", self._answer(uri, nonce, nc))]
        return (await dial(self.setup, self.endpoint, code, self.line, headers))[0]

    def _answer(self, uri: str, nonce: str, nc: int) -> str:
        cnonce = secrets.token_hex(4)
        a1 = ha1("MD5", "desk", "renvoi", self.password)
        a2 = hashlib.md5(f"INVITE:{uri}".encode()).hexdigest()
        whole = f"{a1}:{nonce}:{nc:08x}:{cnonce}:auth:{a2}"
        return (
            f'Digest username="desk", realm="renvoi", nonce="{nonce}", uri="{uri}", '
            f'response="{hashlib.md5(whole.encode()).hexdigest()}", algorithm=MD5, '
            f'cnonce="{cnonce}", qop=auth, nc={nc:08x}'
        )


async def with_password(setup: Setup, password: str = PASSWORD) -> Softphone:
    credentials = {"user": "desk", "ha1": ha1("MD5", "desk", "renvoi", PASSWORD)}
    line, server = await behind(setup, credentials=credentials)
    return Softphone(setup, server, line, password)


async def test_the_lines_password_proves_it(setup: Setup) -> None:
    phone = await with_password(setup)
    assert (await phone.dial("*21*888#")).code == 200
    assert stored(setup, phone.line) == {"unconditional": to_voicemail(phone.line)}


async def test_a_wrong_password_changes_nothing(setup: Setup) -> None:
    phone = await with_password(setup, "guess")
    assert (await phone.dial("*21*888#")).code == 403
    assert stored(setup, phone.line) == {}


async def test_an_answer_is_for_one_code_and_one_time(setup: Setup) -> None:
    phone = await with_password(setup)
    assert (await phone.dial("*21*888#", shown_for="#21#")).code == 403
    assert (await phone.dial("#21#")).code == 200
    again = await phone.dial("##21#", nonce=phone.nonce)
    assert again.code == 401
    assert "stale=true" in again.one("WWW-Authenticate")


# -- failures ----------------------------------------------------------------------------------


async def test_a_caller_that_gives_up_before_the_answer_ends_the_call(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = phone.start(setup.engine.address, "*21*888", caller=line, body=OFFER_BYTES)
    call.cancel()
    answer = await call.final()
    assert answer.code in (200, 487)  # the answer may cross the CANCEL
    if answer.code == 200:
        call.ack(answer)
        await call.receive("BYE")
    record = await setup.record(call.call_id)
    assert record["outcome"] == ("answered" if answer.code == 200 else "cancelled")


async def test_an_answer_that_nobody_acknowledges_ends_by_itself(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = phone.start(setup.engine.address, "*21*888", caller=line, body=OFFER_BYTES)
    await call.final()
    call.request("BYE")  # instead of the ACK
    assert (await call.final("BYE")).code == 200
    await setup.ended(call.call_id, outcome="answered")


async def test_two_phones_of_a_line_do_not_lose_one_anothers_change(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    codes = [f"*{service}*888#" for service in ("21", "61", "62", "67")] * 3
    answers = await asyncio.gather(*(dial(setup, phone, code, line) for code in codes))
    assert {answer.code for answer, _ in answers} == {200}
    assert set(stored(setup, line)) == {"unconditional", "no_answer", "unreachable", "busy"}


async def test_codes_can_be_turned_off(
    setup: Setup, shared_redis: RedisServer, tmp_path: Path
) -> None:
    engine = Engine(tmp_path, shared_redis.url, {"numbering": {"star_codes": False}})
    engine.start()
    try:
        line, phone = await setup.line_with_phone()
        call = phone.start(engine.address, "*21*888", caller=line, body=OFFER_BYTES)
        assert (await call.final()).code == 404
        assert engine.metric("renvoi_rejected_total", reason="bad_number") == 1
        assert stored(setup, line) == {}
    finally:
        assert engine.stop() == 0


# -- do not disturb, and profiles --------------------------------------------------------------


ON, OFF = '{"do_not_disturb":true}', '{"do_not_disturb":false}'


def whole(setup: Setup, line: str) -> dict[str, Any]:
    text = setup.redis.get(f"line:{line}")
    assert isinstance(text, str)
    document: dict[str, Any] = json.loads(text)
    return document


async def test_do_not_disturb_is_switched_and_asked_for_by_a_code(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(fleet="quiet", forwards={"no_answer": BUSY})
    async with refusing(phone):
        assert await reaches(setup, line) == "phone 486"
        for code, expected, words in (
            ("*#26#", 480, "do not disturb: off"),
            ("*26#", 200, "do not disturb: on"),
            ("*26#", 200, "do not disturb: on"),
            ("*#26#", 200, "do not disturb: on"),
            ("**26#", 200, "do not disturb: off"),
            ("**26#", 200, "do not disturb: on"),
        ):
            answer, call = await dial(setup, phone, code, line)
            assert (answer.code, phrase(answer)) == (expected, words), code
            await setup.ended(call.call_id, code=expected)
        call = await setup.call(line)
        assert (await call.final()).code == 486  # no waiting: a confirmed change is in force
        await setup.ended(call.call_id, outcome="busy", code=486, why="do_not_disturb")
        answer, _ = await dial(setup, phone, "#26#", line)
        assert (answer.code, phrase(answer)) == (200, "do not disturb: off")
        call = await setup.call(line)
        assert (await call.final()).code == 486
        await setup.ended(call.call_id, outcome="busy", code=486, why="busy")
    entries = cast("list[tuple[str, dict[str, str]]]", setup.redis.xrange("audit:quiet"))
    assert [(e["who"], e["how"], e["from"], e["to"]) for _, e in entries] == [
        (line, "phone", "{}", ON),
        (line, "phone", ON, OFF),
        (line, "phone", OFF, ON),
        (line, "phone", ON, OFF),
    ]


async def test_a_code_that_the_profile_would_make_one_without_effect_is_refused(
    setup: Setup,
) -> None:
    line, phone = await setup.line_with_phone()
    bureau = {"forwards": {"busy": to_voicemail(line)}}
    profiles = {"bureau": bureau, "calme": {"do_not_disturb": True}}
    document = whole(setup, line) | {"profiles": profiles, "profile": "bureau"}
    setup.redis.set(f"line:{line}", json.dumps(document))
    await setup.settle()
    async with refusing(phone), refusing(setup.server("voicemail")):
        assert await reaches(setup, line) == f"voicemail {line}"
        answer, call = await dial(setup, phone, "*21*0612345678#", line)
        words = "profile bureau is used, change it or leave it first"
        assert (answer.code, phrase(answer)) == (403, words)
        await setup.ended(call.call_id, outcome="rejected", code=403, why="in_profile")
        answer, _ = await dial(setup, phone, "*#67#", line)
        assert (answer.code, phrase(answer)) == (200, "busy to voicemail: on")
        answer, _ = await dial(setup, phone, "*26#", line)
        assert answer.code == 200
        assert await reaches(setup, line) == f"voicemail {line}"
        document = whole(setup, line) | {"profile": [{"use": "calme"}], "do_not_disturb": False}
        setup.redis.set(f"line:{line}", json.dumps(document))
        await setup.settle()
        answer, _ = await dial(setup, phone, "#26#", line)
        assert answer.code == 403
        answer, _ = await dial(setup, phone, "*#26#", line)
        assert (answer.code, phrase(answer)) == (200, "do not disturb: on")
    assert whole(setup, line) == document
