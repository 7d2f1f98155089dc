"""Header values in the forms of phones and servers: quotes, brackets, passwords, numbers in
URIs."""

from __future__ import annotations

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.expect import connect, part
from tests.scenarios.setup import Setup, to_number


async def rings(setup: Setup, line: str, called: str = "", **more: object) -> tuple[Call, Call]:
    """Both sides of a call that the phone answers and ends."""
    phone = await setup.endpoint()
    setup.register(line, phone.uri())
    caller = await setup.endpoint()
    call = caller.start(setup.engine.address, called or line, **more)  # type: ignore[arg-type]
    ring = await phone.incoming()
    await connect(call, ring)
    await part(ring, call)
    return call, ring


@pytest.mark.parametrize(
    "from_",
    [
        '<sip:{}@a.example>;x="<y>"',
        '"A; <b>, \\"c\\" tag=9" <sip:{}@a.example;x=y> ; Y = ">;tag=8"',
        'sip:{}@a.example;x="<y>"',
        "<SIP:{}:secret@a.example;user=phone>",
        "<tel:{};phone-context=a.example>",
        "Alice Example <sip:{};npdi@a.example>",
    ],
)
@pytest.mark.parametrize("forwarded", [False, True])
async def test_the_caller_is_known_in_every_form_of_from(
    setup: Setup, from_: str, forwarded: bool
) -> None:
    caller, line = numbers.caller_number(), setup.line()
    first = setup.line(forwards={"unconditional": to_number(line)}) if forwarded else line
    call, ring = await rings(setup, line, called=first, from_=from_.format(caller))
    assert caller in ring.first.one("From")
    assert ring.first.one("From").replace('tag=9"', "").count("tag=") == 1
    await setup.ended(call.call_id, outcome="answered", caller=caller)


async def test_parameters_of_to_are_no_hindrance(setup: Setup) -> None:
    line = setup.line()
    call, ring = await rings(setup, line, to=f'"x>, y" <sip:{line}@h>;y="<z>, a";w')
    await setup.ended(call.call_id, outcome="answered")
    assert ring.first.one("To") == f'"x>, y" <sip:{line}@h>'


@pytest.mark.parametrize(
    "uri",
    [
        "sip:{}:password@127.0.0.1",
        "sip:{};npdi;rn=+33100000000:secret@127.0.0.1;user=phone",
        "SIP:{};phone-context=+33@127.0.0.1:5060",
        "sip:%2B{0[1]}{0[2]}{rest}@127.0.0.1",
        "tel:{}",
        "TEL:{dashed};phone-context=example.com",
        "sip:{dashed}@127.0.0.1",
    ],
)
async def test_the_number_in_a_request_uri(setup: Setup, uri: str) -> None:
    line = setup.line()
    dashed = f"{line[:3]}-{line[3:6]}.{line[6:]}"
    written = uri.format(line, rest=line[3:], dashed=dashed)
    call, _ = await rings(setup, line, uri=written)
    await setup.ended(call.call_id, outcome="answered", called=line)
    assert "secret" not in setup.engine.log


@pytest.mark.parametrize(
    "value",
    [
        '"x <sip:+33140999999@h>" <sip:{}:pw@h;user=phone>',
        "<sip:anonymous@anonymous.invalid>, <tel:{};phone-context=h>",
        '<sip:%2B{bare};npdi@h>;x="<sip:+33140999999@h>"',
    ],
)
async def test_the_number_in_an_asserted_identity(setup: Setup, value: str) -> None:
    caller, line = numbers.caller_number(), setup.line()
    asserted = value.format(caller, bare=caller[1:])
    call, _ = await rings(setup, line, headers=[("P-Asserted-Identity", asserted)])
    await setup.ended(call.call_id, outcome="answered", caller=caller)


async def test_diversions_in_a_display_name_do_not_count(setup: Setup) -> None:
    line = setup.line(forwards={"unconditional": to_number(target := numbers.outside_number())})
    fields = [
        ("Diversion", f'"x;counter=9, y" <sip:{numbers.line_number()}@h;counter=9>;z=";counter=9"'),
        ("History-Info", '"a;cause=302, b;cause=302" <sip:a@h>;index=1'),
    ]
    call = await setup.call(line, headers=fields)
    ring = await setup.server("number").incoming(target)
    await connect(call, ring)
    await part(call, ring)
    counted = setup.line(forwards={"unconditional": to_number(numbers.outside_number())})
    fields = [("Diversion", f'"x" <sip:{numbers.line_number()}@h> ; x="<y>" ; Counter = "5"')]
    call = await setup.call(counted, headers=fields)
    await call.receive(480)


async def test_a_cause_inside_quotes_is_no_cause(setup: Setup) -> None:
    busy = numbers.outside_number()
    for reason, forwarded in (
        ('SIP;cause=200;text="Q.850;cause=17"', False),
        ('SIP;text="a, b";cause=488, q.850 ; text="x;cause=3" ; Cause = 17', True),
    ):
        line, phone = await setup.line_with_phone(forwards={"busy": to_number(busy)})
        call = await setup.call(line)
        ring = await phone.incoming()
        ring.respond(488, headers=[("Reason", reason)])
        if forwarded:
            target = await setup.server("number").incoming(busy)
            await connect(call, target)
            await part(call, target)
        else:
            await call.receive(488)
