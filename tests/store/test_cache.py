"""Which cached entries are still current, with a fake clock."""

from __future__ import annotations

import math

import pytest

from rules.contact import Contact
from rules.model import Line, Offer
from store.cache import Cache, Entry, Slot, Span

NUMBER = "+33972101001"


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> Cache:
    return Cache(3, stale_max_s=60, unix=clock, now=clock)


def slot(cache: Cache, number: str = NUMBER, known: bool = True, span: Span | None = None) -> Slot:
    kept = Slot(Entry(Line(number, "acme") if known else None), span or Span())
    cache.keep(number, kept)
    return kept


def test_current_until_its_key_is_named(cache: Cache, clock: Clock) -> None:
    kept, other = slot(cache), slot(cache, "+33972101002")
    assert cache.is_current(kept)
    cache.invalidate(NUMBER)
    assert not cache.is_current(kept)
    assert cache.is_current(other)
    assert cache.last_good(kept) is kept.entry


def test_an_interruption_makes_everything_stale_and_a_new_span_does_not_bring_it_back(
    cache: Cache, clock: Clock
) -> None:
    span = Span()
    kept, other = slot(cache, span=span), slot(cache, "+33972101002", span=span)
    span.end(clock.s)
    assert not cache.is_current(kept)
    assert not cache.is_current(other)
    slot(cache, "+33972101003", span=Span())
    assert not cache.is_current(kept)


def test_the_age_of_a_copy_counts_from_when_it_was_last_known_current(
    cache: Cache, clock: Clock
) -> None:
    kept = slot(cache, span=(span := Span()))
    clock.s += 3600  # current the whole time: no age
    assert cache.last_good(kept) is kept.entry
    span.end(clock.s - 2)
    clock.s += 58
    assert cache.last_good(kept) is kept.entry
    clock.s += 1
    assert cache.last_good(kept) is None


def test_a_copy_that_was_overtaken_does_not_get_younger_by_a_later_interruption(
    cache: Cache, clock: Clock
) -> None:
    kept = slot(cache, span=(span := Span()))
    cache.invalidate(NUMBER)
    clock.s += 50
    cache.invalidate(NUMBER)
    span.end(clock.s)
    clock.s += 11
    assert cache.last_good(kept) is None


def test_what_was_read_from_two_servers_is_current_while_both_streams_go_on(
    cache: Cache, clock: Clock
) -> None:
    first, second, third = Span(), Span(), Span()
    assert first.with_other(first) is first
    joint = first.with_other(second)
    assert joint is second.with_other(first) is first.with_other(second)
    alone, both = slot(cache, "+1", span=first), slot(cache, "+2", span=joint)
    three = slot(cache, "+3", span=joint.with_other(third))
    third.end(clock.s - 5)
    assert [cache.is_current(each) for each in (alone, both, three)] == [True, True, False]
    second.end(clock.s)
    assert [cache.is_current(each) for each in (alone, both, three)] == [True, False, False]
    assert joint.lost_at == clock.s
    assert first.with_other(second) is second  # its span is over: what is read in it is not current
    again = first.with_other(Span())
    assert again.lost_at is None
    assert again is not joint


def test_a_server_that_reconnects_forever_leaves_no_joint_spans_behind() -> None:
    steady = Span()
    for _ in range(100):
        other = Span()
        steady.with_other(other)
        other.end(1.0)
    assert len(steady._joint or ()) <= 2


def test_without_a_stream_nothing_is_current() -> None:
    cache = Cache(3, stale_max_s=60)
    kept = Slot(Entry(Line(NUMBER, "acme")), Span(lost_at=math.inf))
    cache.keep(NUMBER, kept)
    assert not cache.is_current(kept)


def test_the_least_recently_used_line_goes_first(cache: Cache) -> None:
    for n in (1, 2, 3):
        slot(cache, f"+{n}")
    cache.find("+1")
    slot(cache, "+4")
    assert [cache.find(f"+{n}") is not None for n in (1, 2, 3, 4)] == [True, False, True, True]


def test_a_scan_of_unknown_numbers_is_bounded_and_pushes_no_line_out(cache: Cache) -> None:
    slot(cache)
    for n in range(1000):
        slot(cache, f"+{n}", known=False)
    assert cache.find(NUMBER) is not None
    assert len(cache) == 1 + 16


def test_a_number_has_one_slot_when_it_becomes_a_line_and_back(cache: Cache) -> None:
    for known in (False, True, False):
        slot(cache, known=known)
        found = cache.find(NUMBER)
        assert found is not None
        assert (found.entry.line is not None) is known
        assert len(cache) == 1


def test_use_of_a_plan_matters_to_lines_with_hours_only_and_until_the_month_ends(
    cache: Cache, clock: Clock
) -> None:
    plain = slot(cache, "+1")
    planned = Slot(
        Entry(Line(NUMBER, "acme", offer=Offer(mobile="hours", mobile_hours=2))), Span(None)
    )
    planned.use_plan(600, until=clock.s + 10)
    cache.keep(NUMBER, planned)
    assert planned.entry.plan_left_s() == 6600
    cache.invalidate("+1", usage_only=True)
    assert cache.is_current(plain)
    assert cache.is_current(planned)
    clock.s += 10
    assert not cache.is_current(planned)
    last = cache.last_good(planned)
    assert last is not None
    assert last.plan_left_s() == 7200
    clock.s -= 10
    cache.invalidate(NUMBER, usage_only=True)
    assert not cache.is_current(planned)


def test_registrations_expire_by_time_alone() -> None:
    soon, late = Contact("sip:a@h", None, 100.0), Contact("sip:b@h", None, 200.0)
    entry = Entry.of(None, (soon, late), None)
    assert entry.live_contacts(99.9) == (soon, late)
    assert entry.live_contacts(100.0) == (late,)
    assert entry.live_contacts(200.0) == ()
    assert Entry.of(None, (), None).live_contacts(1.0) == ()
