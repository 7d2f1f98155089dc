"""What the trunk receives for refusals, and when engines drain or are down."""

from __future__ import annotations

import signal

import pytest

from tests.scenarios.expect import part
from tests.scenarios.processes import Engine
from tests.servers.site import Site, line_of_the_second


@pytest.mark.parametrize(
    ("phone_says", "trunk_hears"),
    [(486, 486), (603, 603), (484, 484), (488, 488), (403, 403), (410, 480), (500, 480)],
)
async def test_the_trunk_receives_the_engine_s_answer(
    site: Site, phone_says: int, trunk_hears: int
) -> None:
    line, phone = await site.line_with_phone()
    await site.settle()
    call = await site.outside_call(line)
    ring = await phone.incoming()
    ring.respond(phone_says)
    assert (await call.final()).code == trunk_hears


async def test_a_number_that_is_no_line_is_not_found(site: Site) -> None:
    call = await site.outside_call("0972999999")
    assert (await call.final()).code == 404


async def test_an_engine_that_drains_gets_no_new_call_and_keeps_its_own(site: Site) -> None:
    phone = await site.endpoint()
    line = line_of_the_second()
    site.line(number=line, to=[phone.uri()])
    await site.settle()
    standing = await site.outside_call(line)
    first = await phone.incoming()
    assert first.peer[0] == site.second.address[0]
    await site.talk(standing, first)
    site.second.signal(signal.SIGTERM)
    try:
        await site.asterisk.until(
            lambda: not site.asterisk.reachable("renvoi-2"), "the second seen draining"
        )
        call = await site.outside_call(line)
        ring = await phone.incoming()
        assert ring.peer[0] == site.engine.address[0]
        ring.respond(486)
        await call.receive(486)
        await part(first, standing)
        assert await site.second.exited(20) == 0
    finally:
        restarted(site.second)


async def test_a_killed_engine_is_passed_over(site: Site) -> None:
    """A call to it before it is known to be down waits for timer B: 6.4 s in pjsip.conf, 32 s by
    default in Asterisk."""
    phone = await site.endpoint()
    line = line_of_the_second()
    site.line(number=line, to=[phone.uri()])
    await site.settle()
    site.second.signal(signal.SIGKILL)
    try:
        call = await site.outside_call(line)
        ring = await phone.incoming(wait_s=25)
        ring.respond(486)
        await call.receive(486)
        await site.asterisk.until(
            lambda: not site.asterisk.reachable("renvoi-2"), "the second missed"
        )
        site.asterisk.mark()
        again = await site.outside_call(line)
        ring = await phone.incoming()
        ring.respond(486)
        await again.receive(486)
        assert f"PJSIP/{line}@renvoi-2" not in site.asterisk.log
    finally:
        restarted(site.second)


async def test_without_any_engine_the_trunk_receives_503(site: Site) -> None:
    line, _ = await site.line_with_phone()
    await site.settle()
    both = (site.engine, site.second)
    for engine in both:
        engine.signal(signal.SIGSTOP)
    try:
        for name in ("renvoi-1", "renvoi-2"):
            await site.asterisk.until(
                lambda: not site.asterisk.reachable(name),  # noqa: B023 - asked at once
                f"{name} missed",
            )
        call = await site.outside_call(line)
        assert (await call.final()).code == 503
    finally:
        for engine in both:
            engine.signal(signal.SIGCONT)


def restarted(engine: Engine) -> None:
    """Start the engine again for the next test."""
    if engine.status() is None:
        engine.stop()
    engine.start()
