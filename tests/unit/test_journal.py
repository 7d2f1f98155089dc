"""The journal stays complete, at whatever moment its process dies."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from engine.call_ends import CallEnds
from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over
from engine.processes import journal as journals
from engine.processes.journal import GROW_BYTES, SLOT_BYTES, Journal, active_in
from engine.records.record import ForwardRecord
from tests.patience import within

BUSY_PROCESS = """
import os, signal, sys, threading, time
from pathlib import Path
from engine.processes.journal import Journal
from engine.call_outcome import Outcome, Over
from engine.call_facts import CallFacts
from tests.unit.test_journal import forward

journal = Journal(Path(sys.argv[1]), "0-busy")
journal.open()
calls = []
for n in range(40):
    calls.append(CallFacts(f"0-busy-{n}", "x" * (60 * n), "+33612345678", "+33972101001"))
    journal.write(calls[-1])
for n in range(10):
    journal.over(calls[n], calls[n].record(Over(Outcome.BUSY, 486, "phone")))
print("ready", flush=True)
threading.Timer(float(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
while True:
    for facts in calls[10:]:
        facts.forwards = [forward(time.time())] * (1 + len(facts.forwards) % 30)
        journal.write(facts)
        journal.beat()
"""


def forward(at: float) -> ForwardRecord:
    return ForwardRecord(
        "+33972101001", "busy", "number", "+33612345678", "deducted", 0, "acme", 7200, at
    )


@pytest.mark.parametrize("after_s", ["0.0", "0.023", "0.117"])
def test_what_a_killed_process_wrote_is_whole(tmp_path: Path, after_s: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", BUSY_PROCESS, str(tmp_path), after_s],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    path = tmp_path / "calls-0-busy.journal"
    assert set(active_in(path.open("rb"))) == {f"0-busy-{n}" for n in range(10, 40)}
    journal = Journal(tmp_path, "0-next")
    journal.open()
    (left,) = journal.take_over()
    assert [record.id for record in left.over] == [f"0-busy-{n}" for n in range(10)]
    assert {record.outcome for record in left.over} == {"busy"}
    assert {call.id for call in left.active} == {f"0-busy-{n}" for n in range(10, 40)}
    for record in map(left.failed, left.active):
        number = int(record.id.rpartition("-")[2])
        assert record.call_id == "x" * (60 * number)
        assert (record.outcome, record.why) == ("failed", "worker_died")
        assert record.ended + 1e-3 >= left.died > 0  # they come from two clocks
    # it is kept until all of it is safe
    ids = sorted(left.pending)
    journal.safe(ids[:-1])
    assert path.exists()
    journal.safe(ids[-1:])
    assert not path.exists()
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_an_answered_call_is_paid_for_until_the_last_heartbeat(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "0-one")
    journal.open()
    facts = CallFacts("0-one-1", "abc", "+33612345678", "+33972101001")
    facts.forwards.append(forward(facts.received))
    facts.talks()
    assert facts.answered is not None
    facts.answered -= 100
    journal.write(facts)
    journal.beat()
    journal.close()  # with a call in it: as if killed
    after = Journal(tmp_path, "0-two")
    after.open()
    (left,) = after.take_over()
    (record,) = map(left.failed, left.active)
    assert record.seconds == record.forwards[0].seconds == 100
    assert (record.payer, record.billing, record.condition) == ("+33972101001", "deducted", "busy")


def test_a_withheld_number_stays_withheld_over_the_death_of_its_worker(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "0-one")
    journal.open()
    journal.write(CallFacts("0-one-1", "abc", "+33612345678", "+33972101001", withheld=True))
    journal.close()
    after = Journal(tmp_path, "0-two")
    after.open()
    (left,) = after.take_over()
    (record,) = map(left.failed, left.active)
    assert (record.caller, record.caller_withheld) == ("", "+33612345678")
    assert "33612345678" not in repr(record)  # an error would log the repr
    after.close()


def test_a_journal_whose_owner_lives_is_left_alone(tmp_path: Path) -> None:
    first, second = Journal(tmp_path, "0-a"), Journal(tmp_path, "1-b")
    first.open()
    first.write(CallFacts("0-a-1", "abc", "", "+33972101001"))
    second.open()
    assert second.take_over() == []
    first.close()
    assert len(second.take_over()) == 1
    second.close()


def test_changes_are_gathered_and_ended_calls_stay_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "0-a")
    journal.open()
    facts = CallFacts("0-a-1", "abc", "", "+33972101001", journal.changed)
    journal.write(facts)
    facts.talks()
    assert journal.changed == {facts}
    journal.flush()
    assert not journal.changed
    journal.over(facts, facts.record(Over(Outcome.ANSWERED, 200, "bye")))
    facts.caller_rang()
    assert active_in(journal.path.open("rb")) == []
    journal.safe(["0-a-1"])
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_call_that_another_host_has_does_not_come_back(tmp_path: Path) -> None:
    """Some change of it was not written yet."""
    journal = Journal(tmp_path, "0-a")
    journal.open()
    journal.standby = {}
    parts: Any = MagicMock()
    ends = CallEnds(parts, parts, parts, journal, parts, None)
    facts = CallFacts("0-a-1", "abc", "", "+33972101001", journal.changed)
    facts.talks()
    journal.write(facts)
    facts.touch()
    ends.leave(facts)
    journal.flush()
    assert active_in(journal.path.open("rb")) == []
    assert journal.standby == {}
    journal.close()


def test_a_call_is_remembered_until_its_lease_is_given_back(tmp_path: Path) -> None:
    """A lease is returned just after the record is safe: a successor must have it until then."""
    journal = Journal(tmp_path, "0-a")
    journal.open()
    facts = CallFacts("0-a-1", "abc", "", "+33972101001")
    journal.write(facts)
    journal.over(facts, facts.record(Over(Outcome.ANSWERED, 200, "bye")))
    journal.safe([facts.id])
    journal.beat()
    assert b"+33972101001" in journal.path.read_bytes()
    assert journal._slots
    journal.beat()
    assert not journal._slots
    journal.close()


def test_slots_are_used_again_and_more_are_made_when_needed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "0-a")
    journal.open()
    size = journal.path.stat().st_size
    for n in range(3 * size // SLOT_BYTES):
        facts = CallFacts(f"0-a-{n}", "abc", "", "+33972101001")
        journal.write(facts)
        journal.safe([facts.id])
        journal.beat()
    assert journal.path.stat().st_size == size
    journal.beat()
    for n in range(2 * size // SLOT_BYTES):
        journal.write(CallFacts(f"0-a-{n}", "abc", "", "+33972101001"))
    assert journal.full == 0
    assert len(active_in(journal.path.open("rb"))) == 2 * size // SLOT_BYTES
    journal.close()


def test_a_file_that_is_no_journal_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "calls-0-x.journal").write_bytes(b"\x01\0\0\0\0\0\0\0" * 2000)
    (tmp_path / "calls-0-y.journal").write_bytes(b"")
    journal = Journal(tmp_path, "0-a")
    journal.open()
    assert journal.take_over() == []
    journal.close()


async def test_a_call_that_cannot_be_written_keeps_no_other_from_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "0-a")
    journal.open()
    broken = CallFacts("0-a-1", "\udce9", "", "+33972101001", journal.changed)  # no valid text
    ids = [f"0-a-{n}" for n in range(2, 9)]
    others = [CallFacts(id_, "abc", "", "+33972101001", journal.changed) for id_ in ids]
    for facts in (broken, *others):
        facts.touch()
    journal.start()
    async with asyncio.timeout(within(5)):
        while journal.changed:
            await asyncio.sleep(0.01)
    assert set(active_in(journal.path.open("rb"))) == set(ids)
    broken.touch()
    others[0].touch()
    journal.hand_over()
    journal.close()


def test_calls_without_room_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.processes.journal.MOST_BYTES", GROW_BYTES)
    journal = Journal(tmp_path, "0-small")
    assert not journal.has_all()
    journal.open()
    calls = [
        CallFacts(f"0-small-{n}", "a", "+33612345678", "+33972101001")
        for n in range(GROW_BYTES // SLOT_BYTES)  # one more than its slots
    ]
    for facts in calls[:-1]:
        assert journal.has_all()
        journal.write(facts)
    journal.write(calls[-1])
    journal.write(calls[0])  # its new state: no second slot is free
    assert not journal.has_all()
    journal.safe([calls[1].id, calls[2].id])
    journal.beat()
    journal.beat()
    journal.write(calls[-1])
    assert not journal.has_all()  # one has an old state
    journal.write(calls[0])
    assert journal.has_all()
    journal.close()


def test_a_call_without_room_that_another_host_has_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise no rolling restart could hand over any more."""
    monkeypatch.setattr("engine.processes.journal.MOST_BYTES", GROW_BYTES)
    journal = Journal(tmp_path, "0-small")
    journal.open()
    for n in range(GROW_BYTES // SLOT_BYTES):
        facts = CallFacts(f"0-small-{n}", "a", "+33612345678", "+33972101001")
        journal.write(facts)
    assert not journal.has_all()
    journal.elsewhere(facts.id)
    assert journal.has_all()
    journal.close()


def test_a_clock_that_is_set_gives_no_calls_to_another_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = Journal(tmp_path, "1-dead")
    dead.open()
    dead.write(CallFacts("1-dead-1", "a", "+33612345678", "+33972101001"))
    dead.close()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    assert Journal(tmp_path, "0-other").take_over(0, 2, 30.0) == []
    (left,) = Journal(tmp_path, "1-next").take_over(1, 2, 30.0)
    assert left.age_s < 30
    left.forget()


@pytest.mark.parametrize("is_shared", [True, False])
def test_calls_keep_their_clocks_where_the_name_of_the_boot_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    """By systemd (ProcSubset=pid). Without them, a step of the machine's clock before the death of
    a worker would be billed."""
    monkeypatch.setattr(journals, "_boot", lambda: b"")
    monkeypatch.setattr(journals, "SHARED_MEMORY", tmp_path if is_shared else tmp_path / "other")
    directory = tmp_path / "renvoi"
    directory.mkdir()
    journal = Journal(directory, "0-one")
    journal.open()
    facts = CallFacts("0-one-1", "abc", "+33612345678", "+33972101001")
    facts.offset -= 3600  # the clock was set by an hour since
    journal.write(facts)
    journal.close()  # with a call in it: as if killed
    after = Journal(directory, "0-two")
    after.open()
    (left,) = after.take_over()
    (call,) = left.active
    assert (left.died_at is not None, call.offset == facts.offset) == (is_shared, is_shared)
    after.close()
