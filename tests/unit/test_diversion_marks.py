"""Marks in Diversion: which are valid, for which line, and for how long."""

from __future__ import annotations

import pytest

from engine.diversion_marks import LIFE_S, MOST, Marks
from rules.numbers import Numbering
from sip import privacy, relayed_fields
from sip.message import Message

LINE, OTHER, NOW = "+33972101001", "+33972101002", 1_790_000_000.0
FRANCE = Numbering("FR")
MARKS = Marks(b"secret")
MARK = MARKS.make(LINE, NOW)


def invite(*diversions: str) -> Message:
    fields = "".join(f"Diversion: {value}\r\n" for value in diversions)
    head = (
        "INVITE sip:x@h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=1\r\n"
        f"To: <sip:x@h>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n{fields}\r\n"
    )
    return Message(head.encode())


def known(*diversions: str, at: float = NOW) -> tuple[str, ...]:
    return MARKS.forwarded(invite(*diversions), FRANCE, at)


@pytest.mark.parametrize(
    "entry",
    [
        f'"{MARK}" <sip:{LINE}@192.0.2.20:5080>;reason=busy;counter=1;privacy=off',
        f"{MARK} <sip:{LINE}@192.0.2.30>",
        f'"{MARK}"<sip:{LINE}@carrier.example;user=phone>;reason="no-answer"',
        f'"{MARK}" <sip:0972101001@carrier.example>',
        f'"{MARK}" <tel:{LINE}>',
    ],
)
def test_a_mark_is_recognised_in_every_form_in_which_servers_return_it(entry: str) -> None:
    assert known(entry) == (LINE,)


def test_all_marks_of_a_call_are_known_however_they_are_listed() -> None:
    second = f'"{MARKS.make(OTHER, NOW)}" <sip:{OTHER}@h>'
    assert known(f'"{MARK}" <sip:{LINE}@h>, {second}') == (LINE, OTHER)
    assert known("<sip:+33140000001@h>", second, f'"{MARK}" <sip:{LINE}@h>') == (OTHER, LINE)


@pytest.mark.parametrize(
    "entry",
    [
        f"<sip:{LINE}@h>;reason=busy",
        f'"{MARK}" <sip:{OTHER}@h>',
        f'"{Marks(b"another").make(LINE, NOW)}" <sip:{LINE}@h>',
        f'"{MARK[:-1]}" <sip:{LINE}@h>',
        f'"{MARK.lower()}" <sip:{LINE}@h>',
        f'"x{MARK}" <sip:{LINE}@h>',
        f'"{MARK}" <sip:anonymous@h>',
        f'"{MARK}"',
        "",
    ],
)
def test_nothing_else_is_a_mark(entry: str) -> None:
    assert known(entry) == ()


def test_a_mark_counts_for_an_hour_and_not_for_three() -> None:
    entry = f'"{MARK}" <sip:{LINE}@h>'
    assert known(entry, at=NOW + LIFE_S) == (LINE,)
    assert known(entry, at=NOW + 3 * LIFE_S) == ()


def test_a_request_with_a_thousand_entries_costs_as_much_as_one_with_twenty() -> None:
    entries = ["<sip:+33140000001@h>"] * MOST + [f'"{MARK}" <sip:{LINE}@h>']
    assert known(", ".join(entries)) == ()
    assert known(", ".join(entries[1:])) == (LINE,)


def test_a_message_without_diversion_has_none() -> None:
    assert known() == ()


@pytest.mark.parametrize("display", [f'"{MARK}" ', f"{MARK} ", f' "{MARK}"'])
def test_a_mark_that_comes_back_is_sent_to_servers_and_to_no_phone(display: str) -> None:
    message = invite(f"{display}<sip:{LINE}@h>;reason=busy", '"Anne" <sip:+33140000001@h>')
    sent = [
        b"\r\n".join(
            [
                *privacy.history_entries(message, b"diversion", to_trusted=trusted),
                relayed_fields.relayed(message, to_trusted=trusted),
            ]
        )
        for trusted in (True, False)
    ]
    assert sent[0].count(MARK.encode()) == 2
    assert sent[1].count(b"Renvoi-") == 0
    assert sent[1].count(f"<sip:{LINE}@h>;reason=busy".encode()) == 2
    assert sent[1].count(b'"Anne" <sip:+33140000001@h>') == 2
