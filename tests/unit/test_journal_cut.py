"""A process may die at every byte that it writes to its journal: each call has its old or its new
state."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.call_entry import EndedCall, Entry, active, encode, id_of
from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over
from engine.processes import journal as journal_module
from engine.processes.journal import SLOT_BYTES, Journal, _read
from tests.unit.test_journal import forward

SLOTS = 24
HEADER = 20  # bytes of a slot's header


class Memory(bytearray):
    """The journal's memory. `stores` are the writes since the last check: the content before, the
    position, and the new bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.stores: list[tuple[bytes, int, bytes]] = []

    def __setitem__(self, place: Any, value: Any) -> None:
        start = place.start if isinstance(place, slice) else place
        self.stores.append((bytes(self), start, bytes(value)))
        super().__setitem__(place, value)

    def close(self) -> None:
        """As a memory map does."""


class Watched:
    """A struct whose packing into memory is recorded as a store."""

    def __init__(self, layout: struct.Struct) -> None:
        self._layout = layout
        self.size = layout.size
        self.pack, self.unpack_from = layout.pack, layout.unpack_from

    def pack_into(self, memory: Memory, at: int, *values: Any) -> None:
        memory[at : at + self.size] = self._layout.pack(*values)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    monkeypatch.setattr(journal_module, "GROW_BYTES", SLOTS * SLOT_BYTES)
    monkeypatch.setattr(journal_module, "_HEADER", Watched(journal_module._HEADER))
    monkeypatch.setattr(journal_module, "_BEAT", Watched(journal_module._BEAT))
    journal = Journal(tmp_path, "0-a")
    journal.open()
    assert journal._map is not None
    journal._map.close()
    journal._map = Memory(SLOTS * SLOT_BYTES)  # type: ignore[assignment]
    yield journal
    journal.close()


def images(before: bytes, at: int, new: bytes, chance: random.Random) -> Iterator[bytes]:
    """What a death during one store may leave: some bytes from its front, from its back, or any
    subset."""
    old = before[at : at + len(new)]
    cuts = {*range(min(len(new), 2 * HEADER) + 1), *range(0, len(new), 97), len(new)}
    for cut in cuts:
        for content in (new[:cut] + old[cut:], old[:cut] + new[cut:]):
            yield before[:at] + content + before[at + len(new) :]
    for _ in range(20):
        mixed = bytes(chance.choice(pair) for pair in zip(old, new, strict=True))
        yield before[:at] + mixed + before[at + len(new) :]


def content(entry: Entry) -> bytes:
    return encode(entry)


def check(journal: Journal, then: dict[str, bytes], now: dict[str, bytes], seed: int) -> int:
    """At every point of the writes since the last check each call has its old or its new state."""
    chance, seen = random.Random(seed), 0
    memory: Any = journal._map
    stores, memory.stores = memory.stores, []
    for before, at, new in stores:
        for image in images(before, at, new, chance):
            entries, lost = _read(image)
            found = {id_of(entry): content(entry) for entry in entries}
            assert lost == 0
            for id_ in then.keys() | now.keys():
                allowed = {then.get(id_), now.get(id_)}
                assert found.pop(id_, None) in allowed, (id_, at, len(new))
            assert not found
            seen += 1
    entries, _ = _read(bytes(memory))
    assert {id_of(entry): content(entry) for entry in entries} == now
    return seen


@pytest.mark.parametrize("seed", range(3))
def test_every_call_is_whole_at_every_instant(written: Journal, seed: int) -> None:
    """Calls of one slot and of several, new, changed, longer, shorter, ended and forgotten."""
    chance, seen = random.Random(seed), 0
    calls: dict[str, CallFacts] = {}
    now: dict[str, bytes] = {}

    def state(facts: CallFacts) -> bytes:
        return content(active(facts))

    for step in range(30):
        then = dict(now)
        what = chance.choice(["new", "change", "change", "grow", "end", "forget"])
        if what == "new" or not calls:
            id_ = f"0-a-{step}"
            calls[id_] = CallFacts(id_, "x" * chance.choice([10, 10, 1500, 4000]), "", "+33972")
            written.write(calls[id_])
            now[id_] = state(calls[id_])
        elif what in ("change", "grow"):
            facts = calls[chance.choice(list(calls))]
            facts.forwards = [forward(float(step))] * (
                chance.randrange(25) if what == "grow" else 1
            )
            written.write(facts)
            now[facts.id] = state(facts)
        elif what == "end":
            facts = calls.pop(chance.choice(list(calls)))
            record = facts.record(Over(Outcome.ANSWERED, 200, "bye"))
            written.over(facts, record)
            now[facts.id] = content(EndedCall(record))
        else:
            over = sorted(now.keys() - calls.keys())
            written._forget(over[:1])
            for id_ in over[:1]:
                del now[id_]
        seen += check(written, then, now, step)
        if len(written._free) < 8:
            then = dict(now)
            for id_ in list(calls):  # one by one, as records become safe
                written._forget([id_])
                del now[id_]
                seen += check(written, then, now, step)
                then = dict(now)
            calls.clear()
    assert seen > 1000


def test_a_beat_that_is_cut_off_loses_no_call(written: Journal) -> None:
    facts = CallFacts("0-a-1", "abc", "", "+33972101001")
    written.write(facts)
    now = {facts.id: content(active(facts))}
    check(written, {}, now, 0)
    written.beat()
    assert check(written, now, now, 0) > 20


def test_what_was_there_before_is_never_taken_for_something_else(written: Journal) -> None:
    """The same content in the same slot again, with another version."""
    one, two = CallFacts("0-a-1", "abc", "", "+33"), CallFacts("0-a-2", "x" * 3000, "", "+33")
    now: dict[str, bytes] = {}
    for turn in range(6):
        for facts in (one, two):
            then = dict(now)
            written.write(facts)
            now[facts.id] = content(active(facts))
            check(written, then, now, turn)
