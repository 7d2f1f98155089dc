"""Where a URI leads, without a name server: what it says, drawing by weight, the hosts file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sip.address import Address
from sip.names import Choice, Names, Place, _drawn, address_of, place_of, same_place


@pytest.mark.parametrize(
    ("hop", "place"),
    [
        ("sip:a@host.test", Place("host.test")),
        ("sip:host.test:5070", Place("host.test", 5070)),
        ("<sip:a@HOST.test;transport=TCP;lr>", Place("host.test", 0, "tcp")),
        ("sips:a@host.test", Place("host.test", 0, "tls", True)),
        ("sips:a@host.test;transport=tcp", Place("host.test", 0, "tls", True)),
        ("sip:a@[2001:db8::1]:5070", Place("2001:db8::1", 5070)),
        ("sip:a@host.test;maddr=[2001:db8::1]", Place("2001:db8::1")),
        ("sip:a@host.test;%6dAddr=192.0.2.%31;TRANSPOR%54=tcp", Place("192.0.2.1", 0, "tcp")),
        ("sip:a@host.test?Subject=x;transport=tcp", Place("host.test")),
        ("sip:a;b=c@host.test;user=phone", Place("host.test")),
    ],
)
def test_what_a_uri_says(hop: str, place: Place) -> None:
    assert place_of(hop) == place


@pytest.mark.parametrize(
    ("hop", "other", "same"),
    [
        ("<sip:192.0.2.1:5060;lr;received=sip:10.0.0.1>", "sip:192.0.2.1;lr", True),
        ("<sips:192.0.2.1;lr>", "sip:192.0.2.1:5061;transport=tls;lr", True),
        ("<sip:edge@Edge.example;lr>", "sip:edge.example;lr", True),
        ("<sip:edge.example:5060;lr>", "sip:edge.example;lr", False),  # may be two servers
        ("<sip:192.0.2.1;transport=tcp;lr>", "sip:192.0.2.1;lr", False),
        ("<sip:192.0.2.1:5070;lr>", "sip:192.0.2.1;lr", False),
        ("<sip:192.0.2;lr>", "sip:192.0.3;lr", False),
    ],
)
def test_whether_two_hops_are_the_same_place(hop: str, other: str, same: bool) -> None:
    assert same_place(hop, other) is same


@pytest.mark.parametrize(
    ("place", "address"),
    [
        (Place("192.0.2.1"), Address("udp", "192.0.2.1", 5060)),
        (Place("192.0.2.1", 0, "tls"), Address("tls", "192.0.2.1", 5061)),
        (Place("2001:db8::1", 5070), Address("udp", "2001:db8::1", 5070)),
        (Place("host.test"), None),
        (Place("host1"), None),
        (Place(""), None),
    ],
)
def test_an_address_needs_no_asking(place: Place, address: Address | None) -> None:
    assert address_of(place) == address


def test_priority_first_then_by_weight() -> None:
    heavy, light = Choice(1, 90, ()), Choice(1, 10, ())
    backup = Choice(2, 100, ())
    firsts: Counter[int] = Counter()
    for _ in range(4000):
        drawn = _drawn([backup, light, heavy])
        assert drawn[2] is backup
        firsts[drawn[0].weight] += 1
    assert 3400 < firsts[90] < 3800


def test_a_weight_of_zero_is_seldom_first() -> None:
    firsts = Counter(_drawn([Choice(1, 0, ()), Choice(1, 10, ())])[0].weight for _ in range(2000))
    assert firsts[10] > 1900


async def test_the_hosts_file_is_believed(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# a\n192.0.2.9 Box box.lan # b\n::1 box\nnonsense box\n", "utf-8")
    names = Names({("udp", False)}, [("127.0.0.1", 1)], hosts)
    place = place_of("sip:a@box:5070")
    assert names.known(place) is None
    assert await names.ask(place) == [Address("udp", "192.0.2.9", 5070)]
    assert names.known(place) == [Address("udp", "192.0.2.9", 5070)]
    names.close()


async def test_a_failed_server_is_tried_last(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.1 box\n192.0.2.2 box\n", "utf-8")
    names = Names({("udp", False)}, [], hosts)
    first, second = await names.ask(place_of("sip:box"))
    names.failed(first)
    assert names.known(place_of("sip:box")) == [second, first]
    names.works(first)
    assert names.known(place_of("sip:box")) == [first, second]
    names.close()
