"""Which peers may open connections, and how many."""

import pytest

from sip.connection_limits import ConnectionLimits, PeerKind, Source, source_of

PHONE, PEER, OURS, STRANGER = PeerKind.PHONE, PeerKind.PEER, PeerKind.OURS, PeerKind.STRANGER


def room_of(most: int = 100, per_source: int = 25) -> ConnectionLimits:
    return ConnectionLimits(most, per_source)


def fill(room: ConnectionLimits, host: str, standing: PeerKind) -> tuple[int, str]:
    """The number of connections that it may open, and the limit that it meets."""
    for count in range(1000):
        place = room.take(host, standing)
        if isinstance(place, str):
            return count, place
    return 1000, ""


@pytest.mark.parametrize(
    ("standing", "held", "why"),
    [
        (PHONE, 25, "source_connections"),
        (PEER, 90, "connections"),
        (OURS, 25, "source_connections"),
        (STRANGER, 100, "stranger"),
    ],
)
def test_the_places_of_one_source(standing: PeerKind, held: int, why: str) -> None:
    assert fill(room_of(), "192.0.2.1", standing) == (held, why)


def test_phones_of_many_sources_leave_a_tenth_and_peers_a_twentieth() -> None:
    room = room_of()
    got = sum(fill(room, f"192.0.2.{n}", PHONE)[0] for n in range(1, 10))
    assert got == 90
    assert fill(room, "198.51.100.1", PEER) == (5, "connections")
    assert fill(room, "198.51.100.2", OURS) == (5, "connections")
    assert (fill(room, "198.51.100.3", OURS), len(room.made)) == ((0, "connections"), 1)
    assert fill(room, "203.0.113.1", STRANGER) == (100, "stranger")


def test_the_engine_makes_a_quarter_to_one_source_and_all_to_a_trusted_peer() -> None:
    """A phone names its Contacts, as many as it likes, and keeps the connections open."""
    room = room_of()
    assert fill(room, "2001:db8::1", OURS) == (25, "source_connections")
    assert room.take("2001:db8::2", OURS) == "source_connections"  # of the same /64
    places = [room.take("192.0.2.1", OURS, trusted=True) for _ in range(75)]
    assert all(isinstance(place, Source) for place in places)
    assert room.take("192.0.2.1", OURS, trusted=True) == "connections"
    for place in places:
        assert isinstance(place, Source)
        room.leave("192.0.2.1", OURS, place)
    assert (room.held, len(room.made), room.sources) == (25, 1, {})


def test_a_trusted_peer_that_has_called_has_no_share() -> None:
    room = room_of()
    first = room.take("192.0.2.1", PEER)
    assert isinstance(first, Source)
    first.proven = True
    assert fill(room, "192.0.2.1", PEER) == (94, "connections")


def test_places_are_free_again_and_a_source_is_forgotten_with_its_last() -> None:
    room = room_of()
    places = [room.take("2001:db8::1", PHONE) for _ in range(3)]
    strange = room.take("203.0.113.1", STRANGER)
    assert len(room.sources) == 1
    for place in places:
        assert isinstance(place, Source)
        room.leave("2001:db8::1", PHONE, place)
    assert isinstance(strange, Source)
    room.leave("203.0.113.1", STRANGER, strange)
    assert (room.held, room.strangers_held, room.sources) == (0, 0, {})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_what_is_one_source(one: str, other: str, same: bool) -> None:
    assert (source_of(one) == source_of(other)) is same
