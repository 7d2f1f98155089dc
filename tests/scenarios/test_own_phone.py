"""A star code must come from the line's own phone: known by its address and port or its flow, not
by its IP address alone.

All phones here have one IP address, as behind a NAT; only ports and connections differ.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from engine.registration.digest import ha1
from tests.scenarios import numbers
from tests.scenarios.endpoint import Endpoint, Headers
from tests.scenarios.setup import OFFER_BYTES, Setup
from tests.scenarios.sipp import HOST, free_port
from tests.scenarios.stream import StreamEndpoint
from tests.scenarios.test_registrar import PASSWORD, Phone

PORT = free_port()
SETTINGS = {"sip": {"listen": [f"udp:{HOST}:{PORT}", f"tcp:{HOST}:{PORT}"]}}
CODE = "*21*888%23"
PRIVATE = "sip:desk@10.1.2.3:5060"  # the Contact of a phone behind a NAT


async def dial(
    setup: Setup, phone: Endpoint, line: str, headers: Headers = (), *, contact: bool = True
) -> int:
    """The phone dials a code that forwards the line; returns the final answer."""
    call = phone.start(
        setup.engine.address, CODE, caller=line, headers=headers, body=OFFER_BYTES, contact=contact
    )
    answer = await call.final()
    if answer.code == 200:
        call.ack(answer)
        await call.receive("BYE")
    return answer.code


def forwards(setup: Setup, line: str) -> bool:
    text = setup.redis.get(f"line:{line}")
    assert text is not None
    return bool(json.loads(text).get("forwards"))


def asserted(line: str) -> tuple[str, str]:
    return ("P-Asserted-Identity", f"<sip:{line}@office.example>")


async def registered(setup: Setup, phone: Endpoint, uri: str = PRIVATE) -> str:
    """A line whose phone has registered directly, with that Contact."""
    credentials = {"user": "accueil", "ha1": ha1("MD5", "accueil", "renvoi", PASSWORD)}
    line = setup.line(credentials=credentials)
    answer = await Phone(setup, phone, line).register(("Contact", f"<{uri}>"))
    assert answer.code == 200
    return line


async def phone_over(setup: Setup, transport: str) -> Endpoint:
    if transport == "udp":
        return await setup.endpoint()
    phone = await StreamEndpoint.listen()
    setup._stack.push_async_callback(phone.finish)
    return phone


async def test_a_phone_of_another_fleet_at_the_same_address_changes_nothing(setup: Setup) -> None:
    line, phone = await setup.line_with_phone(fleet="victim")
    _, stranger = await setup.line_with_phone(fleet="thief")
    own = ("Contact", f"<{phone.uri()}>")
    for headers in ((), (asserted(line),)):
        assert await dial(setup, stranger, line, headers) == 403
    assert await dial(setup, stranger, line, (asserted(line), own), contact=False) == 403
    assert not forwards(setup, line)
    assert await dial(setup, phone, line) == 200
    assert forwards(setup, line)


async def test_the_same_port_by_another_transport_is_another_phone(setup: Setup) -> None:
    stranger = await phone_over(setup, "tcp")
    line = setup.line(to=[f"sip:desk@{HOST}:{stranger.port}"])
    assert await dial(setup, stranger, line) == 403
    assert not forwards(setup, line)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_behind_a_nat_a_phone_is_known_by_the_way_it_registered(
    setup: Setup, transport: str
) -> None:
    phone = await phone_over(setup, transport)
    line = await registered(setup, phone)
    stranger = await phone_over(setup, transport)
    other = await registered(setup, stranger)
    for headers in ((), (asserted(line),)):
        # The engine challenges for its own line's password, which is not that of the other line.
        assert await dial(setup, stranger, line, headers) == 401
    assert not forwards(setup, line)
    assert await dial(setup, phone, line) == 200
    assert forwards(setup, line)
    assert await dial(setup, stranger, other) == 200


async def test_a_new_connection_from_the_same_address_is_not_the_old_one(setup: Setup) -> None:
    phone = await phone_over(setup, "tcp")
    line = await registered(setup, phone)
    assert isinstance(phone, StreamEndpoint)
    phone.drop()
    await asyncio.sleep(0)
    assert await dial(setup, phone, line) == 401
    assert not forwards(setup, line)


@pytest.mark.parametrize("how", ["removes", "removes_all"])
async def test_a_phone_that_is_no_longer_registered_has_no_line(setup: Setup, how: str) -> None:
    phone = await phone_over(setup, "udp")
    line = await registered(setup, phone)
    setup.register(line, "sip:another@192.0.2.9:5060")
    uri = f"<{PRIVATE}>;expires=0" if how == "removes" else "*"
    again = Phone(setup, phone, line)
    assert (await again.register(("Contact", uri), ("Expires", "0"))).code == 200
    setup.register(line, "sip:another@192.0.2.9:5060")
    assert await dial(setup, phone, line) == 401


async def test_a_proxy_that_registers_phones_proves_none_by_its_own_way(setup: Setup) -> None:
    """All messages of its phones come by the same way."""
    proxy = await setup.endpoint()
    credentials = {"user": "accueil", "ha1": ha1("MD5", "accueil", "renvoi", PASSWORD)}
    line = setup.line(credentials=credentials)
    behind = ("Via", "SIP/2.0/UDP 10.1.2.3:5060;branch=z9hG4bKphone")
    answer = await Phone(setup, proxy, line).register(("Contact", f"<{PRIVATE}>"), behind)
    assert answer.code == 200
    assert await dial(setup, proxy, line) == 401
    assert not forwards(setup, line)


async def test_a_server_that_is_the_contact_acts_for_its_lines(setup: Setup) -> None:
    server = await setup.endpoint()
    lines = [numbers.line_number() for _ in range(2)]
    for line in lines:
        setup.line(number=line, to=[server.uri(line)])
        assert await dial(setup, server, line, (asserted(line),)) == 200
        assert forwards(setup, line)
