"""Addresses that cannot be phones: URIs of the engine, and of its destinations."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import read
from engine.registration.own_addresses import OwnAddresses, is_by_address
from sip.address import reached_by


def places(listen: list[str], **more: Any) -> OwnAddresses:
    sip = {"listen": listen, **more.pop("sip", {})}
    return OwnAddresses(read({"sip": sip, **more}))


@pytest.mark.parametrize(
    ("uri", "leads_here"),
    [
        ("sip:a@192.0.2.5:5060", True),
        ("sip:a@192.0.2.5", True),  # the default port is 5060
        ("SIP:192.0.2.5", True),
        ("sip:a@192.0.2.5;transport=tcp", True),
        ("sip:a@[::FFFF:192.0.2.5]", True),
        ("sip:a@198.51.100.1;maddr=192.0.2.5", True),
        ("sip:a@198.51.100.1;%6daddr=192.0.2.5", True),
        ("sip:a@192.0.2.5;maddr=198.51.100.1", True),  # a proxy may ignore it
        ("sip:a;b=@192.0.2.5;c=d", True),
        ("sip:a@Engine.Example.:5060", True),
        ("sip:a@192.0.2.5:5061", True),  # the second worker's
        ("sips:a@192.0.2.5", True),  # 5061
        ("sip:a@192.0.2.5;transport=tls", True),
        ("sip:a@192.0.2.5:5062", False),
        ("sip:a@192.0.2.6", False),
        ("sip:192.0.2.5@198.51.100.1", False),
        ("sip:a@127.0.0.1:5060", False),
    ],
)
def test_what_leads_to_the_engine(uri: str, leads_here: bool) -> None:
    here = places(["udp:192.0.2.5:5060"], sip={"advertise": "engine.example"}, workers=2)
    assert here.leads_here(uri) is leads_here


@pytest.mark.parametrize("listen", ["udp:0.0.0.0:5080", "udp:[::]:5080"])
def test_an_engine_that_listens_everywhere_is_at_each_address_known(listen: str) -> None:
    here = places([listen])
    own = reached_by("0.0.0.0")
    for host in ("127.0.0.1", "127.0.0.9", "[::1]", "localhost", "0.0.0.0", "[::]", own):
        assert here.leads_here(f"sip:a@{host}:5080"), host
        assert not here.leads_here(f"sip:a@{host}:5081"), host
    assert not here.leads_here("sip:a@192.0.2.7:5080")


@pytest.mark.parametrize(
    ("uri", "leads_there"),
    [
        ("sip:+33140000001@192.0.2.9", True),
        ("sip:+33140000001@192.0.2.9:5060;transport=tcp", True),
        ("sip:a@gw.example:5070", True),
        ("sip:a@127.0.0.1:5091", True),
        ("sip:a@localhost:5091", True),
        ("sip:a@192.0.2.9:5070", False),
        ("sip:a@gw.example", False),
        ("sip:a@number.example", False),
    ],
)
def test_what_leads_to_a_server_of_the_configuration(uri: str, leads_there: bool) -> None:
    servers = [
        "sip:{number}@192.0.2.9:5060",
        "sip:{number}@GW.example:5070",
        "sip:{national}@127.0.0.1:5091",
        "sip:a@{national}.example",
        "",
    ]
    assert places(["udp:192.0.2.5:5060"]).leads_to(uri, servers) is leads_there


def test_a_server_on_the_loopback_is_met_at_the_machine_s_other_addresses() -> None:
    here = places(["udp:192.0.2.5:5060"])
    assert here.leads_to("sip:a@192.0.2.5:5093", ["sip:{number}@127.0.0.1:5093"])
    assert not here.leads_to("sip:a@192.0.2.6:5093", ["sip:{number}@127.0.0.1:5093"])


@pytest.mark.parametrize(
    ("uri", "by_address"),
    [
        ("sip:a@192.0.2.9", True),
        ("sip:a@[2001:db8::1]:5070", True),
        ("sip:a@phone.example", False),
        ("sip:a@192.0.9", False),
        ("sip:a@phone.example;maddr=192.0.2.9", False),
        ("sip:a@192.0.2.9;maddr=phone.example", False),
    ],
)
def test_whether_a_place_is_an_address(uri: str, by_address: bool) -> None:
    assert is_by_address(uri) is by_address
