"""The registrar's writes: many at once, as after a power cut, and beside what others wrote."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from engine.registration.bindings import AT_ONCE, MOST_CONTACTS, Bindings
from engine.registration.registrar import contact_field
from rules.contact import Contact
from store.client import close, connect
from tests.patience import within
from tests.redis.servers import running_server

PHONES = 300


async def test_a_storm_leaves_connections_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is shown is the number of connections; a busy machine may be slow.
    monkeypatch.setattr("engine.registration.bindings.TURN_S", within(10))
    with running_server() as server:
        client = connect(server.url)
        bindings = Bindings(client)
        now = time.time()

        async def register(place: int) -> int:
            assert await bindings.use_nonce(f"nonce-{place}", 1, 60)
            contact = Contact(f"sip:phone@192.0.2.1:{5000 + place}", None, now + 60)
            number = f"+3397210{place:04d}"
            found = await bindings.bind(number, [contact], now=now, most=MOST_CONTACTS)
            return len(found)

        assert await asyncio.gather(*map(register, range(PHONES))) == [1] * PHONES
        with server.client() as other:
            assert len(other.client_list()) <= AT_ONCE + 1
        await close(client)


async def test_a_redis_that_hangs_keeps_nobody_waiting_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.registration.bindings.TURN_S", 0.1)
    with running_server() as server:
        client = connect(server.url, socket_timeout=within(0.5))
        bindings = Bindings(client)
        assert await bindings.use_nonce("before", 1, 60)
        server.pause()
        try:
            asked = [bindings.use_nonce(f"nonce-{n}", 1, 60) for n in range(AT_ONCE + 20)]
            ends = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            server.resume()
        assert not [end for end in ends if not isinstance(end, Exception)]
        assert await bindings.use_nonce("after", 1, 60)  # every turn was given back
        await close(client)


async def test_a_phone_registers_beside_a_contact_without_an_end() -> None:
    number, now = "+33972101001", time.time()
    fixed, phone = (Contact(f"sip:{user}@192.0.2.1", None, now + 60) for user in ("fixed", "phone"))
    with running_server() as server, server.client() as other:
        other.zadd(f"reg:{number}", {fixed.uri: math.inf})
        client = connect(server.url)
        found = await Bindings(client).bind(number, [phone], now=now, most=MOST_CONTACTS)
        assert [member.decode() for member, _ in found] == [phone.uri, fixed.uri]
        assert other.ttl(f"reg:{number}") > 10**9
        endless = Contact(fixed.uri, None, found[1][1])
        assert contact_field(endless, now) == f"Contact: <{fixed.uri}>;expires=4294967295"
        await close(client)
