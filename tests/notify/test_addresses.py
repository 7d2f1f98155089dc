"""Which addresses webhooks may reach."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from notify.addresses import Forbidden, NotFound, may_reach, resolve

PUBLIC = ("8.8.8.8", "93.184.216.34", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1")
INSIDE = (
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.1.2.3", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "100::1",
    # IPv4 inside IPv6: mapped, compatible, NAT64, 6to4.
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1", "64:ff9b:1:7f00:0:100:808:808", "2002:7f00:1::1", "2002:a00:1::1",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert may_reach(ip_address(address), [])


@pytest.mark.parametrize("address", INSIDE)
def test_all_others(address: str) -> None:
    assert not may_reach(ip_address(address), [])


def test_networks_that_the_operator_allows() -> None:
    allowed = [ip_network("10.20.0.0/16"), ip_network("fd00:1::/32")]
    assert may_reach(ip_address("10.20.3.4"), allowed)
    assert may_reach(ip_address("::ffff:10.20.3.4"), allowed)
    assert may_reach(ip_address("fd00:1::5"), allowed)
    assert not may_reach(ip_address("10.21.3.4"), allowed)
    assert not may_reach(ip_address("fd00:2::5"), allowed)


async def test_addresses_in_urls_are_not_looked_up() -> None:
    assert await resolve("8.8.8.8", [], 1) == ["8.8.8.8"]
    assert await resolve("127.0.0.1", [ip_network("127.0.0.0/8")], 1) == ["127.0.0.1"]
    with pytest.raises(Forbidden, match=r"127\.0\.0\.1, .* notify\.allow_networks"):
        await resolve("127.0.0.1", [], 1)


async def test_a_name_that_nobody_has() -> None:
    with pytest.raises(NotFound):
        await resolve("no-such-name.invalid", [], 0.5)
