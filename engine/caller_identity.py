"""The caller's identity, and how it is known. Pure.

A trusted peer may place calls. A call counts as a line's own if a trusted peer asserts the number,
or if it comes from one of the line's registered phones. To change where a line's calls go, the
caller must be such a phone, or have the line's password.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from rules.contact import Contact
from rules.numbers import Numbering
from sip import grammar, headers
from sip.flow import Flow
from sip.message import Message
from sip.names import place_of
from sip.text_cache import remembered


class Caller(NamedTuple):
    """The number a caller goes by (E.164), None without one; `asserted`: by P-Asserted-Identity,
    for which the peer is responsible (RFC 3325), not by a From that anybody can write."""

    number: str | None
    asserted: bool


ASSERTED, REGISTERED, FROM = "asserted", "registered", "from"
"""How a caller's number is known: by P-Asserted-Identity; by From, in a call from a registered
phone of that line; by From alone, which does not count unless `numbering.identity` is `from`."""


def identify_caller(invite: Message, numbering: Numbering) -> Caller:
    """The caller. If an identity is asserted, From is ignored."""
    asserted = invite.first(b"p-asserted-identity") is not None
    number = _number_in(invite, b"p-asserted-identity" if asserted else b"from", numbering)
    return Caller(number, asserted)


def shown_caller(invite: Message, numbering: Numbering) -> tuple[str, str]:
    """The number that a call shows (E.164) and how it is known; empty without one. If the asserted
    identity is not a number, From is used, otherwise Remote-Party-ID, because a withheld number may
    be only there."""
    caller = identify_caller(invite, numbering)
    if caller.number is not None:
        return caller.number, ASSERTED if caller.asserted else FROM
    for name in (b"from", b"remote-party-id"):
        number = _number_in(invite, name, numbering)
        if number is not None:
            return number, FROM
    return "", ""


def _number_in(invite: Message, name: bytes, numbering: Numbering) -> str | None:
    for value in headers.entries(invite, name):
        number = numbering.quick(headers.user_of(value))
        if number is not None:
            return number
    return None


def is_second_hand(invite: Message) -> bool:
    """Whether another party caused this call: it was diverted (RFC 5806, RFC 7044) or follows a
    transfer (RFC 3892, RFC 3891)."""
    given = (b"referred-by", b"replaces", b"diversion")
    return any(invite.first(n) is not None for n in given) or headers.diversions(invite) > 0


def is_phone_at(flow: Flow, contacts: Iterable[Contact]) -> bool:
    """Whether a packet came from one of a line's phones: its address, port and transport. The
    address alone proves nothing, because many phones share one behind a NAT."""
    return any(_is_at(flow, contact) for contact in contacts)


def _is_at(flow: Flow, contact: Contact) -> bool:
    place = place_of(contact.uri)
    transport = place.transport or "udp"
    port = place.port or (5061 if transport == "tls" else 5060)
    same = port == flow.port and transport == flow.transport
    return same and _is_host(place.host, flow.host)


def phone_of(invite: Message, flow: Flow | None, contacts: Sequence[Contact]) -> str:
    """The URI of the phone among these that is at the far end of a call, also if a server passed
    the call on; "" if none is."""
    given = headers.entries(invite, b"contact")
    uri = headers.uri_of(given[0]).decode("latin-1") if len(given) == 1 else ""
    for contact in contacts:
        if _at_same_place(uri, contact.uri) or (flow is not None and _is_at(flow, contact)):
            return contact.uri
    return ""


def is_registered_phone(
    invite: Message, flow: Flow, contacts: Sequence[Contact], asserted: bool
) -> bool:
    """Whether the call comes from one of the line's phones.

    It does if the packet came from the address and port of a contact. If the identity is asserted,
    also if the INVITE's Contact is one of the line's and an edge may have passed it on; a packet
    from another port of that address is from another phone. An edge's assertion is not enough,
    because the same edge may pass on calls from outside, with what they assert.

    Args:
        flow: the way that the INVITE came by.
        contacts: the unexpired contacts.
    """
    if is_phone_at(flow, contacts):
        return True
    if not asserted:
        return False
    given = headers.entries(invite, b"contact")
    if len(given) != 1:
        return False
    uri = headers.uri_of(given[0]).decode("latin-1")
    return any(_same(uri, contact.uri) and _by_edge(flow, contact) for contact in contacts)


def _by_edge(flow: Flow, contact: Contact) -> bool:
    """Whether a call may have come through an edge: that of the contact's Path, or from any address
    other than the phone's."""
    if contact.path is not None:
        edge = place_of(contact.first_hop)
        if (edge.port or 5060) == flow.port and _is_host(edge.host, flow.host):
            return True
    return not _is_host(place_of(contact.uri).host, flow.host)


def _is_host(host: str, source: str) -> bool:
    """Whether a URI's host is the IP address of a packet's source, in any spelling."""
    return host == source or (":" in source and _plain(host) == _plain(source))


@remembered
def _plain(host: str) -> str:
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def _same(one: str, other: str) -> bool:
    """Whether two URIs name the same phone: user, host and port; parameters do not matter."""
    same = grammar.user_of(one.encode()) == grammar.user_of(other.encode())
    return same and _at_same_place(one, other)


def _at_same_place(one: str, other: str) -> bool:
    mine, theirs = place_of(one), place_of(other)
    here, there = (mine.host, mine.port or 5060), (theirs.host, theirs.port or 5060)
    return bool(mine.host) and here == there
