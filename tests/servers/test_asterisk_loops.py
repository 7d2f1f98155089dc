"""A forward that leads back to its line through Asterisk.

Asterisk resets Max-Forwards and keeps neither `counter` nor History-Info.
"""

from __future__ import annotations

import asyncio

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Headers
from tests.scenarios.message import parameters, user_of
from tests.scenarios.setup import to_number
from tests.servers.site import Site

FORWARDS_PER_LINE = 50  # the default


async def comes_back(site: Site, out: Call, line: str, headers: Headers) -> Call:
    """The carrier forwards it to the line again."""
    out.respond(180)
    return await site.outside_call(line, headers=headers)


async def test_a_line_forwards_a_call_once_though_it_comes_back_through_asterisk(
    site: Site,
) -> None:
    number = numbers.outside_number()
    line, phone = await site.line_with_phone(forwards={"unconditional": to_number(number)})
    await site.settle()
    call = await site.outside_call(line)
    out = await site.goes_out(number)
    (diversion,) = out.first.values("Diversion")
    assert user_of(diversion) == line
    assert "counter" not in parameters(diversion)
    assert not out.first.has("History-Info")
    assert out.first.one("Max-Forwards") == "70"
    again = await comes_back(site, out, line, [("Diversion", diversion)])
    ring = await phone.incoming()
    ring.respond(486)
    await again.receive(486)
    out.respond(486)
    await call.receive(486)
    assert len(site.trunk.invited(number)) == 1


async def test_where_diversion_is_lost_too_the_forwards_of_a_line_end_it(site: Site) -> None:
    number = numbers.outside_number()
    line = site.line(forwards={"unconditional": to_number(number)})
    await site.settle()
    calls = [await site.outside_call(line)]
    while True:
        ended = asyncio.ensure_future(calls[-1].final(wait_s=30))
        out = asyncio.ensure_future(site.trunk.incoming(number, wait_s=30))
        await asyncio.wait((ended, out), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            break
        ended.cancel()
        calls.append(await comes_back(site, await out, line, []))
    out.cancel()
    assert ended.result().code == 480
    forwards = site.trunk.invited(number)
    assert len(calls) - 1 == len(forwards)
    assert 1 < len(forwards) <= FORWARDS_PER_LINE
    for call, forward in zip(reversed(calls[:-1]), reversed(forwards), strict=True):
        forward.respond(486)
        assert (await call.final(wait_s=30)).code == 486
