"""Phones that register with Asterisk: calls from the engine, and star codes."""

from __future__ import annotations

import json

import pytest

from tests.scenarios import numbers
from tests.scenarios.setup import to_number
from tests.servers import followed
from tests.servers.places import PHONES_PORT, SERVER
from tests.servers.site import Site

ATELIER = "+33972101003"  # the phone of docs/integration.md
CONTACT = f"sip:ph{ATELIER}@{SERVER}:{PHONES_PORT}"


def line_of_the_phone(site: Site, **fields: object) -> None:
    site.line(number=ATELIER, to=[CONTACT], **fields)


async def test_a_phone_of_asterisks_rings_and_talks(site: Site) -> None:
    site.line(number=ATELIER)
    site.does(*followed.blocks("Asterisk", "sh-engine"))
    phone = await site.phone(ATELIER)
    await site.settle()
    call = await site.outside_call(ATELIER)
    await phone.rings()
    await call.receive(180)
    await phone.command("accept")
    voice = site.voice_of(call)
    await site.answered(call, voice)
    await phone.talks()
    await site.heard(voice)
    await phone.command("hangup")
    await call.receive("BYE")


async def test_a_phone_that_is_not_registered_is_unreachable(site: Site) -> None:
    target = numbers.outside_number()
    line_of_the_phone(site, forwards={"unreachable": to_number(target)})
    await site.settle()
    call = await site.outside_call(ATELIER)
    out = await site.goes_out(target)
    out.respond(486)
    await call.receive(486)
    assert (await site.record_of(ATELIER))["condition"] == "unreachable"


async def test_a_star_code_is_confirmed_by_a_voice_and_changes_the_line(site: Site) -> None:
    """Its 200 had no media, for which Asterisk sends the phone 488: success sounded like
    failure."""
    line_of_the_phone(site)
    phone = await site.phone(ATELIER)
    await site.settle()
    number = numbers.mobile_number()
    await phone.dial(f"*21*{number}#")
    await phone.talks()
    await phone.closed()
    assert site.asterisk.played() == ["auth-thankyou"]
    stored = json.loads(str(site.redis.get(f"line:{ATELIER}")))
    assert stored["forwards"]["unconditional"]["to"] == {"kind": "number", "number": number}
    await site.settle()
    call = await site.outside_call(ATELIER)
    out = await site.goes_out(number)
    out.respond(486)
    await call.receive(486)


@pytest.mark.parametrize(("code", "final"), [("*99#", "404"), ("*21*12#", "403"), ("*#21#", "480")])
async def test_a_failed_star_code_has_its_own_status(site: Site, code: str, final: str) -> None:
    line_of_the_phone(site)
    phone = await site.phone(ATELIER)
    await site.settle()
    await phone.dial(code)
    assert (await phone.closed()).startswith(final)
    assert site.asterisk.played() == []


async def test_a_phone_calls_lines_by_the_engine_and_others_outside(site: Site) -> None:
    line_of_the_phone(site)
    line, other = await site.line_with_phone()
    phone = await site.phone(ATELIER)
    await site.settle()
    await phone.dial(f"0{line[3:]}")
    ring = await other.incoming()
    assert ATELIER in ring.first.one("P-Asserted-Identity")
    ring.respond(486)
    assert (await phone.closed()).startswith("486")
    number = numbers.outside_number()
    await phone.dial(f"0{number[3:]}")
    out = await site.goes_out(number)
    assert ATELIER in out.first.one("P-Asserted-Identity")
    out.respond(486)
    await phone.closed()
