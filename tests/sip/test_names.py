"""The target of a URI without a name server: its own parts, choice by weight, the hosts file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dns.resolver
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
        ("<sips:host.test:5070;lr>;x=y", Place("host.test", 5070, "tls", True)),
        (
            '"a: b@c>, <d" <sips:host.test:5070;transport=tcp;lr>',
            Place("host.test", 5070, "tls", True),
        ),
        ("Edge <sip:192.0.2.1;lr>", Place("192.0.2.1")),
    ],
)
def test_the_parts_of_a_uri(hop: str, place: Place) -> None:
    assert place_of(hop) == place


@pytest.mark.parametrize(
    ("hop", "other", "same"),
    [
        ("<sip:192.0.2.1:5060;lr;received=sip:10.0.0.1>", "sip:192.0.2.1;lr", True),
        ("<sips:192.0.2.1;lr>", "sip:192.0.2.1:5061;transport=tls;lr", True),
        ("<sip:edge@Edge.example;lr>", "sip:edge.example;lr", True),
        ("<sip:edge.example:5060;lr>", "sip:edge.example;lr", False),  # these may be two servers
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
def test_an_address_needs_no_look_up(place: Place, address: Address | None) -> None:
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


async def test_the_hosts_file_is_used(tmp_path: Path) -> None:
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


class FewAnswers:
    """A name server that has these records, and fails for names and kinds that are not there."""

    def __init__(self, **records: Any) -> None:
        self.records = {tuple(name.rsplit("_", 1)): found for name, found in records.items()}

    async def resolve(self, name: str, kind: str, *, search: bool) -> Any:
        if kind == "NAPTR":
            raise dns.resolver.NoAnswer
        found = self.records.get((name.split(".")[0], kind))
        if found is None:
            raise dns.resolver.NoNameservers

        class Answer(list[Any]):
            rrset = SimpleNamespace(ttl=300)

        return Answer(found)


def few(**records: Any) -> Any:
    names = Names({("udp", False), ("udp", True)}, [], Path("/nonexistent"))
    names._dns = FewAnswers(**records)  # type: ignore[assignment]
    return names


def to(target: str, priority: int) -> Any:
    return SimpleNamespace(target=f"{target}.test.", port=5070, priority=priority, weight=0)


ONE, TWO = SimpleNamespace(address="192.0.2.1"), SimpleNamespace(address="192.0.2.2")


async def test_a_name_server_that_fails_for_aaaa_leaves_the_ipv4_address() -> None:
    """RFC 4074."""
    names = few(box_A=[ONE])
    assert await names.ask(place_of("sip:box.test:5070")) == [Address("udp", "192.0.2.1", 5070)]
    names.close()


async def test_a_server_without_an_answer_leaves_the_others_of_the_name() -> None:
    records = {"_sip_SRV": [to("one", 1), to("two", 2)], "two_A": [TWO], "two_AAAA": []}
    names = few(**records)
    place = place_of("sip:box.test;transport=udp")
    assert await names.ask(place) == [Address("udp", "192.0.2.2", 5070)]
    names._dns.records |= {("one", "A"): [ONE], ("one", "AAAA"): []}
    both = [Address("udp", host, 5070) for host in ("192.0.2.1", "192.0.2.2")]
    await names._start(place)
    assert names.known(place) == both
    del names._dns.records["one", "A"], names._dns.records["one", "AAAA"]
    await names._start(place)
    assert names.known(place) == both  # the last whole answer is better
    names.close()


async def test_a_name_of_which_nothing_is_answered_is_asked_for_again_soon() -> None:
    names = few(box_AAAA=[])
    place = place_of("sip:box.test:5070")
    assert await names.ask(place) == []
    assert not names.is_answered(place)
    names.close()
