"""A call's entry in the journal: read by this version, by older and by newer ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.call_entry import ActiveCall, EndedCall, active, decode, encode
from engine.call_facts import CallFacts, EndedLeg
from engine.call_outcome import Outcome, Over
from engine.processes.journal import Journal, Left
from engine.records.record import LegRecord
from sip.leg_state import Asked, Asking, LegState, wish_of
from sip.privacy import NO_WISH, Wish
from tests.unit.test_journal import forward

LEG = LegState(
    5, b"call", b"<sip:a@h>;tag=1", b"<sip:b@h>;tag=2", b"1", b"2", b"sip:b@192.0.2.1",
    b"sip:renvoi@127.0.0.1:5080", (b"<sip:edge;lr>",), 7, 9, True, False, "192.0.2.1", None,
)  # fmt: skip


def entry(**fields: Any) -> ActiveCall:
    facts = CallFacts("0-a-1", "abc", "+33612345678", "+33972101001", caller_by="asserted")
    facts.forwards.append(forward(facts.received))
    facts.identity, facts.expires, facts.takeovers = "+33612345678", facts.received + 90, 2
    facts.talks()
    found = active(facts)
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def leg(**fields: Any) -> LegState:
    kept = msgspec.structs.replace(LEG)
    for name, value in fields.items():
        setattr(kept, name, value)
    return kept


LEGS = [
    leg(),
    leg(wish=Wish(number=True, digits=frozenset({b"12345678"})), phone="sip:a@192.0.2.7"),
    leg(invite=b"INVITE sip:x SIP/2.0\r\n\r\n\xff\x00", answer=b"SIP/2.0 200 OK\r\n\r\n", state=4),
    leg(uri="sip:b@192.0.2.1", routed=("<sip:edge;lr>",), ack=(b"v=0", b"application/sdp")),
    leg(branch=b"z9hG4bK1", parts=(b"a", b"b", b"", b"c", b"d", b"e"), invite_cseq=1, alone=True),
    leg(asked=Asked(b"INVITE", "tcp", "::1", 5060, 0), asking=Asking(3, b"z9", (b"a",))),
    leg(asking=Asking(3, ack=(b"v=0", b"application/sdp")), referred=True),
]


@pytest.mark.parametrize("kept", LEGS)
def test_a_leg_is_the_same_after_it_was_written_and_read(kept: LegState) -> None:
    whole = entry(signalling=[kept, None, kept])
    found = decode(encode(whole))
    assert isinstance(found, ActiveCall)
    assert found == whole
    assert found.signalling == [kept, None, kept]


def test_the_facts_of_a_call_are_the_same_after_it_was_written_and_read() -> None:
    found = decode(encode(entry()))
    assert isinstance(found, ActiveCall)
    facts = found.restored()
    assert encode(active(facts)) == encode(found)
    assert facts.record(Over(Outcome.ANSWERED, 200, "bye")).takeovers == 2


def test_an_empty_wish_is_the_object_that_legs_compare_with() -> None:
    assert wish_of(LEG) is NO_WISH
    assert wish_of(leg(wish=Wish(user=True))) == Wish(user=True)


def test_fields_that_a_newer_version_adds_are_ignored() -> None:
    whole = entry(signalling=[LEGS[4]])
    parts = msgspec.msgpack.decode(encode(whole))
    place = ActiveCall.__struct_fields__.index("signalling") + 1  # the tag comes first
    parts[place][0].append({"anything": 1})
    parts += ["more", 17]
    assert decode(msgspec.msgpack.encode(parts)) == whole


def test_fields_that_an_older_version_did_not_write_have_their_defaults() -> None:
    """Entries from before they had signalling: such a call can be recorded, not continued."""
    parts = msgspec.msgpack.decode(encode(entry()))
    found = decode(msgspec.msgpack.encode(parts[:12]))
    assert isinstance(found, ActiveCall)
    assert (found.signalling, found.takeovers, found.withheld) == ([], 0, False)
    assert found.failed(found.received + 5, None).why == "worker_died"
    legs = msgspec.msgpack.decode(msgspec.msgpack.encode(LEGS[3]))
    older = msgspec.convert(legs[:15], LegState)  # the fields that every version of a leg has
    assert (older.call_id, older.uri, older.asked) == (b"call", "", None)


def left_by(directory: Path, name: str, *entries: bytes) -> Path:
    """A journal of a dead process with these entries."""
    journal = Journal(directory, name)
    journal.open()
    for place, whole in enumerate(entries):
        journal._write(f"{name}-{place}", whole)
    journal.close()
    return journal.path


@pytest.mark.parametrize(
    "unreadable",
    [
        b"\xc1 no msgpack",
        msgspec.msgpack.encode(["unheard_of", 1, 2]),
        msgspec.msgpack.encode(["standing", "id", 17]),
        msgspec.msgpack.encode({"id": 1}),
    ],
)
def test_entries_that_this_version_cannot_read_are_counted(
    tmp_path: Path, unreadable: bytes
) -> None:
    left_by(tmp_path, "0-a", encode(entry()), unreadable)
    after = Journal(tmp_path, "0-b")
    after.open()
    (left,) = after.take_over()
    assert [call.id for call in left.active] == ["0-a-1"]
    assert left.lost == 1
    after.continued(["0-a-1"])
    assert len(list(tmp_path.iterdir())) == 1  # only its own
    after.close()


def test_a_journal_of_which_nothing_can_be_read_is_reported_and_deleted(tmp_path: Path) -> None:
    left_by(tmp_path, "0-a", b"\xc1", b"\xc1")
    after = Journal(tmp_path, "0-b")
    after.open()
    (left,) = after.take_over()
    assert (left.active, left.over, left.lost) == ([], [], 2)
    after.continued([])
    assert len(list(tmp_path.iterdir())) == 1
    after.close()


def over(**fields: Any) -> EndedCall:
    return EndedCall(entry(**fields).restored().record(Over(Outcome.ANSWERED, 200, "bye")))


@pytest.mark.parametrize(
    ("older", "newer", "counts"),
    [
        (entry(takeovers=0), entry(takeovers=1, answered=5.0), "active"),
        (entry(takeovers=3), over(takeovers=4), "over"),
    ],
)
@pytest.mark.parametrize("names", [("0-a", "0-b"), ("0-b", "0-a")])
def test_of_two_generations_the_newer_counts(
    tmp_path: Path, names: tuple[str, str], older: ActiveCall, newer: Any, counts: str
) -> None:
    """The second process died before the first one's journal was deleted."""
    left_by(tmp_path, names[0], encode(older), encode(entry(id="another")))
    left_by(tmp_path, names[1], encode(newer))
    after = Journal(tmp_path, "0-c")
    after.open()
    found = after.take_over()
    if counts == "active":
        calls = [call for left in found for call in left.active if call.id == "0-a-1"]
        assert calls == [newer]
    else:
        assert not [call for left in found for call in left.active if call.id == "0-a-1"]
        assert [r.takeovers for left in found for r in left.over] == [4]
    assert "another" in [call.id for left in found for call in left.active]
    # both files are deleted when the call is safe
    after.safe(["0-a-1", "another"])
    assert len(list(tmp_path.iterdir())) == 1
    after.close()


def test_a_corrupt_journal_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    """Sizes and slots that are invalid or refer to each other."""
    path = left_by(tmp_path, "0-a", encode(entry()))
    content = bytearray(path.read_bytes())
    for place, (size, following) in enumerate(
        [(0xFFFFFFFF, 3), (0xFFFFFFFF, 4), (5000, 0xFFFFFFF0), (1 << 30, 6)], 3
    ):
        at = place * 2048
        content[at : at + 8] = size.to_bytes(4, "little") + following.to_bytes(4, "little")
    path.write_bytes(content)
    left = Left(path, os.open(path, os.O_RDWR))
    assert ([call.id for call in left.active], left.lost) == (["0-a-1"], 0)
    left.forget()


def test_a_number_that_is_hidden_stays_so_in_another_process() -> None:
    """It still counts for the rights to the call."""
    number = "+33972101002"
    facts = CallFacts("0-a-1", "abc", "+33612345678", "+33972101001")
    started = facts.received
    facts.legs[EndedLeg()] = LegRecord(
        "line", number, "sip:x@192.0.2.1", 200, None, started, None, started, None, "none"
    )
    facts.hide(number)
    found = decode(encode(active(facts)))
    assert isinstance(found, ActiveCall)
    after = found.restored()
    assert [leg.number for leg in after.legs.values()] == [number]
    assert after.now()["target"] == after.now()["legs"][0]["number"] == ""
    record = after.record(Over(Outcome.ANSWERED, 200, "bye"))
    assert (record.destination, record.target) == ("line", "")
    assert record.legs[0].number == record.legs[0].uri == ""
