"""Resolves SIP URIs (RFC 3263): NAPTR, SRV and address records, cached for their TTL.

Nothing here blocks the event loop: if there is no answer in memory, the caller asks and gets the
answer later.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

import dns.asyncresolver
import dns.exception
import dns.inet
import dns.nameserver
import dns.resolver

from sip.address import Address
from sip.grammar import uri_in
from sip.text_cache import remembered

LIFETIME_S = 3.0  # of one question, all name servers and repetitions included
SHORTEST_S, LONGEST_S = 1.0, 3600.0  # how long an answer is kept, whatever its TTL says
NOTHING_S = 10.0  # how long "there is no such name" is kept
UNANSWERED_S = 2.0  # pause before asking again after name servers did not answer
DEAD_S = 30.0  # how long a server that failed is tried last
MOST = 10_000  # names in memory
LONGEST_HOST, LONGEST_TRANSPORT = 255, 16  # characters (RFC 1035 2.3.4)

_PORTS = {"udp": 5060, "tcp": 5060, "tls": 5061}
_SERVICES = {"udp": "_sip._udp", "tcp": "_sip._tcp", "tls": "_sips._tcp"}
_NAPTR = {"SIP+D2U": "udp", "SIP+D2T": "tcp", "SIPS+D2T": "tls"}
_NOTHING = (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer)
_UNANSWERED = (dns.exception.DNSException, OSError, UnicodeError)

T = TypeVar("T")


class Place(NamedTuple):
    """The part of a URI that determines the server; `port` 0 and `transport` "" if it does not name
    them."""

    host: str
    port: int = 0
    transport: str = ""
    secure: bool = False

    @property
    def is_short(self) -> bool:
        """Whether there can be such a server. Of others nothing is kept."""
        return len(self.host) <= LONGEST_HOST and len(self.transport) <= LONGEST_TRANSPORT


class Choice(NamedTuple):
    """The addresses of one SRV target (RFC 2782): the lowest priority first, weights by chance."""

    priority: int
    weight: int
    servers: tuple[Address, ...]


class _Known(NamedTuple):
    until: float  # loop time
    choices: Sequence[Choice]
    answered: bool = True  # answered by a name server, now or before


@remembered  # the same phones and gateways, call after call
def place_of(hop: str) -> Place:
    """The place that a URI, or a Route value, leads to."""
    bare = hop.strip()
    if bare.find("<") > 0:  # behind a display name, which may contain anything
        bare = uri_in(bare.encode()).decode()
    bare = bare.lstrip("<").partition(">")[0]
    scheme, _, rest = bare.partition(":")
    where, *parameters = rest.rpartition("@")[2].partition("?")[0].split(";")
    host, port = where.lower(), ""
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port[1:]
    else:
        host, _, port = host.partition(":")
    transport = ""
    for parameter in parameters:
        # Escapes are undone: ";%6daddr=" is a maddr, which determines where to send (RFC 3261
        # 19.1.2).
        name, _, value = unquote(parameter).partition("=")
        if name.strip().lower() == "transport":
            transport = value.strip().lower()
        elif name.strip().lower() == "maddr":
            host = value.strip().strip("[]").lower()
    secure = scheme.lower() == "sips"
    if secure and transport in ("", "tcp"):
        transport = "tls"
    # Not `isdigit`: it accepts "²", which `int` rejects.
    return Place(host, int(port) if port.isdecimal() and len(port) < 6 else 0, transport, secure)


def same_place(hop: str, other: str) -> bool:
    """Whether two URIs, or Route values, lead to the same place, port given or not."""
    place, second = place_of(hop), place_of(other)
    address = address_of(place)
    return place == second or (address is not None and address == address_of(second))


def is_address(place: Place) -> bool:
    """Whether a place is named by an IP address: no name ends in a label of digits (RFC 3696 2)."""
    return ":" in place.host or place.host.rpartition(".")[2].isdigit()


def address_of(place: Place) -> Address | None:
    """The server of a place that is named by its IP address; None for a name."""
    return _address_of(place) if place.is_short else None


@lru_cache(maxsize=4096)
def _address_of(place: Place) -> Address | None:
    if not is_address(place):
        return None
    try:
        host = str(ip_address(place.host))
    except ValueError:
        return None
    transport = place.transport or "udp"
    return Address(transport, host, place.port or _PORTS.get(transport, 5060))


class Names:
    """Servers by place. `supported` are the transports and families that can be sent from, as
    (transport, IPv6?); `nameservers` None = those of this machine."""

    def __init__(
        self,
        supported: Collection[tuple[str, bool]],
        nameservers: Sequence[tuple[str, int]] | None,
        hosts: Path = Path("/etc/hosts"),
    ) -> None:
        self._supported = supported
        self._known: dict[Place, _Known] = {}
        self._asking: dict[Place, asyncio.Task[Sequence[Choice]]] = {}
        self._dead: dict[Address, float] = {}
        self._hosts = _read_hosts(hosts)
        self._loop = asyncio.get_running_loop()
        self._dns = _resolver(nameservers)

    # -- cached answers ---------------------------------------------------------------------------

    def known(self, place: Place) -> list[Address] | None:
        """The servers in the order to try them, empty if there are none; None = ask."""
        if not place.is_short:
            return []
        known = self._known.get(place)
        if known is None:
            return None
        if known.until <= self._loop.time():
            if not known.choices:
                return None
            # A name in frequent use never causes waiting: the old answer is used once more while
            # the new one is fetched (RFC 8767).
            self._start(place)
        return self._ordered(known.choices)

    def is_answered(self, place: Place) -> bool:
        """Whether the cached answer for a place is from a name server, even if it is "no such
        name"."""
        known = self._known.get(place)
        return known is not None and known.answered

    async def ask(self, place: Place) -> list[Address]:
        """Resolve a place to the servers in the order to try them, empty if there are none."""
        servers = self.known(place)
        if servers is None:
            return self._ordered(await asyncio.shield(self._start(place)))
        return servers

    def tell(self, place: Place, listener: Callable[[list[Address]], None]) -> None:
        """Resolve; `listener` gets the servers."""
        self._start(place).add_done_callback(
            lambda task: None if task.cancelled() else listener(self._ordered(task.result()))
        )

    def failed(self, server: Address) -> None:
        """This server does not respond: others are tried before it for a while."""
        self._dead[server] = self._loop.time() + DEAD_S
        if len(self._dead) > MOST:
            self._dead.clear()

    def works(self, server: Address) -> None:
        self._dead.pop(server, None)

    def close(self) -> None:
        for task in self._asking.values():
            task.cancel()

    def _ordered(self, choices: Sequence[Choice]) -> list[Address]:
        servers = [server for choice in _drawn(choices) for server in choice.servers]
        if self._dead:
            now = self._loop.time()
            servers.sort(key=lambda server: self._dead.get(server, 0) > now)
        return servers

    def _start(self, place: Place) -> asyncio.Task[Sequence[Choice]]:
        task = self._asking.get(place)
        if task is None:
            task = self._asking[place] = self._loop.create_task(self._learn(place))
            task.add_done_callback(lambda _: self._asking.pop(place, None))
        return task

    # -- asking -----------------------------------------------------------------------------------

    async def _learn(self, place: Place) -> Sequence[Choice]:
        """Never raises: without an answer the cached one remains, or nothing."""
        asked = _Question(self._dns, self._hosts, self._supported)
        answered, old = True, self._known.get(place)
        try:
            choices = await asked.servers(place)
            kept_s = min(max(asked.ttl_s, SHORTEST_S), LONGEST_S) if choices else NOTHING_S
            if asked.is_partial:
                kept_s = min(kept_s, NOTHING_S)
                if old is not None and _count(old.choices) > _count(choices):
                    choices = old.choices
        except _UNANSWERED:
            choices, kept_s = old.choices if old is not None else (), UNANSWERED_S
            answered = old is not None and old.answered
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[place] = _Known(self._loop.time() + kept_s, choices, answered)
        return choices


class _Question:
    """The look-ups for one place; `ttl_s` is the shortest TTL found, `is_partial` whether some of
    its servers could not be looked up."""

    def __init__(
        self,
        resolver: dns.asyncresolver.Resolver,
        hosts: dict[str, list[str]],
        supported: Collection[tuple[str, bool]],
    ) -> None:
        self._dns = resolver
        self._hosts = hosts
        self._supported = supported
        self._transports = [
            name for name in _PORTS if (name, False) in supported or (name, True) in supported
        ]
        self.ttl_s = LONGEST_S
        self.is_partial = False

    async def servers(self, place: Place) -> Sequence[Choice]:
        """RFC 3263 4.1 and 4.2. Raises DNSException when the name servers do not answer."""
        transport = place.transport
        if not place.port and "." in place.host:
            if transport:
                found = await self._services(place.host, [transport])
            else:
                found = await self._naptr(place) or await self._services(
                    place.host, [n for n in self._transports if n == "tls" or not place.secure]
                )
            if found:
                return found
        transport = transport or ("tls" if place.secure else "udp")
        port = place.port or _PORTS.get(transport, 5060)
        servers = await self._addresses(place.host, transport, port)
        return [Choice(0, 0, servers)] if servers else []

    async def _naptr(self, place: Place) -> Sequence[Choice]:
        records = await self._records(place.host, "NAPTR")
        for record in sorted(records, key=lambda item: (item.order, item.preference)):
            transport = _NAPTR.get(record.service.decode("latin-1").upper(), "")
            known = transport in self._transports and (transport == "tls" or not place.secure)
            if known and record.flags.lower() == b"s":
                found = await self._srv(str(record.replacement), transport)
                if found:
                    return found
        return ()

    async def _services(self, host: str, transports: Iterable[str]) -> Sequence[Choice]:
        for transport in transports:
            if transport in _SERVICES:
                found = await self._srv(f"{_SERVICES[transport]}.{host}", transport)
                if found:
                    return found
        return ()

    async def _srv(self, name: str, transport: str) -> Sequence[Choice]:
        records = [item for item in await self._records(name, "SRV") if str(item.target) != "."]
        addresses = await self._each(
            self._addresses(str(item.target), transport, item.port) for item in records
        )
        return [
            Choice(item.priority, item.weight, tuple(servers))
            for item, servers in zip(records, addresses, strict=True)
            if servers
        ]

    async def _addresses(self, name: str, transport: str, port: int) -> tuple[Address, ...]:
        ipv4, ipv6 = (transport, False) in self._supported, (transport, True) in self._supported
        local = self._hosts.get(name.rstrip("."))
        if local is not None:
            fitting = [host for host in local if (ipv6 if ":" in host else ipv4)]
            return tuple(Address(transport, host, port) for host in fitting)
        kinds = [kind for kind, wanted in (("A", ipv4), ("AAAA", ipv6)) if wanted]
        found = await self._each(self._records(name, kind) for kind in kinds)
        return tuple(Address(transport, item.address, port) for items in found for item in items)

    async def _each(
        self, questions: Iterable[Coroutine[Any, Any, Sequence[T]]]
    ) -> list[Sequence[T]]:
        """The answers to several questions. One that nobody answers leaves the others: a server
        that is down may be named by a zone that is down too, and some name servers do not answer
        AAAA (RFC 4074). Raises DNSException if there is nothing else."""
        failures: list[Exception] = []

        async def tried(question: Coroutine[Any, Any, Sequence[T]]) -> Sequence[T]:
            try:
                return await question
            except _UNANSWERED as error:
                failures.append(error)
                return ()

        found = await asyncio.gather(*(tried(question) for question in questions))
        if failures and not any(found):
            raise failures[0]
        self.is_partial |= bool(failures)
        return found

    async def _records(self, name: str, kind: str) -> list[Any]:
        # A name with a dot is complete; one without may need the machine's search list.
        whole = name.rstrip(".") + "." if "." in name.rstrip(".") else name
        try:
            answer = await self._dns.resolve(whole, kind, search=whole is name)
        except _NOTHING:
            return []
        if answer.rrset is not None:
            self.ttl_s = min(self.ttl_s, answer.rrset.ttl)
        return list(answer)


def _drawn(choices: Sequence[Choice]) -> Sequence[Choice]:
    """In the order to try: by priority, and among equals drawn by weight (RFC 2782)."""
    if len(choices) < 2:
        return choices
    return sorted(
        choices, key=lambda item: (item.priority, -(random.random() ** (1 / (item.weight or 0.01))))
    )


def _count(choices: Sequence[Choice]) -> int:
    return sum(len(choice.servers) for choice in choices)


def _resolver(nameservers: Sequence[tuple[str, int]] | None) -> dns.asyncresolver.Resolver:
    try:
        resolver = dns.asyncresolver.Resolver(configure=nameservers is None)
    except dns.resolver.NoResolverConfiguration:
        resolver, nameservers = dns.asyncresolver.Resolver(configure=False), ()
    if nameservers is not None:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*item) for item in nameservers]
    resolver.lifetime = LIFETIME_S
    resolver.timeout = LIFETIME_S / 3
    return resolver


def _read_hosts(path: Path) -> dict[str, list[str]]:
    """Addresses by name from a hosts file; empty if the file is missing."""
    found: dict[str, list[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        if dns.inet.is_address(address):
            for name in names:
                found.setdefault(name.lower(), []).append(address)
    return found
