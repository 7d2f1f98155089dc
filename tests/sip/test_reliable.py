"""Reliable provisional responses over time: what is repeated, what waits, what times out."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sip.incoming import Incoming
from sip.message import Message
from sip.outgoing import Outgoing
from sip.reliable import Earlies, Reliable

VIA = b"Via: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1\r\n"
INVITE = Message(b"INVITE sip:x@y SIP/2.0\r\n" + VIA + b"CSeq: 7 INVITE\r\nRequire: 100rel\r\n\r\n")
RINGING = Message(b"SIP/2.0 180 Ringing\r\nTo: <sip:x@y>;tag=a\r\n\r\n")
EARLY_MEDIA = Message(b"SIP/2.0 183 Progress\r\nContent-Length: 3\r\n\r\nsdp")


def reliable_183(rseq: int, tag: str = "a") -> Message:
    text = f"SIP/2.0 183 P\r\nTo: <sip:x@y>;tag={tag}\r\nRequire: 100rel\r\nRSeq: {rseq}\r\n\r\n"
    return Message(text.encode())


def prack(rseq: int, cseq: int = 7) -> Message:
    return Message(f"PRACK sip:x@y SIP/2.0\r\nRAck: {rseq} {cseq} INVITE\r\n\r\n".encode())


class Clock:
    """The loop's timers, advanced by the test. `now` in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[Timer] = []

    def call_later(self, delay_s: float, function: Any, *arguments: Any) -> Timer:
        timer = Timer(self.now + delay_s, lambda: function(*arguments))
        self.due.append(timer)
        return timer

    def run_until(self, end: float) -> None:
        while live := [t for t in self.due if not t.cancelled and t.at <= end]:
            timer = min(live, key=lambda t: t.at)
            self.due.remove(timer)
            self.now = timer.at
            timer.function()
        self.now = end


class Timer:
    def __init__(self, at: float, function: Any) -> None:
        self.at, self.function, self.cancelled = at, function, False

    def cancel(self) -> None:
        self.cancelled = True


class CallersLeg:
    """Stores what it has to send: (time, code, RSeq)."""

    def __init__(self) -> None:
        self.endpoint = self
        self.loop = Clock()
        self.sent: list[tuple[float, int, int]] = []
        self.answers: list[int] = []
        self.given_up: list[float] = []
        self.fits = True

    def respond_reliably(self, code: int, message: Message | None, extra: bytes) -> bool:
        if self.fits:
            self.sent.append((self.loop.now, code, int(extra.rpartition(b" ")[2])))
        return self.fits

    def answer_held(self, code: int, message: Message, extra: bytes) -> None:
        self.answers.append(code)

    def on_prack_missing(self) -> None:
        self.given_up.append(self.loop.now)


@pytest.fixture
def leg() -> CallersLeg:
    return CallersLeg()


@pytest.fixture
def reliable(leg: CallersLeg) -> Reliable:
    return Reliable(cast("Incoming", leg), INVITE)


def test_it_is_repeated_at_doubling_intervals_and_given_up_after_64_t1(
    leg: CallersLeg, reliable: Reliable
) -> None:
    reliable.send(180, RINGING, None, alone=True)
    leg.loop.run_until(100)
    assert [at for at, _, _ in leg.sent] == [0, 0.5, 1.5, 3.5, 7.5, 15.5]
    assert {rseq for _, _, rseq in leg.sent} == {1}
    assert leg.given_up == [31.5]
    assert not any(not timer.cancelled for timer in leg.loop.due)


def test_a_prack_ends_the_repetition_and_lets_the_next_one_go(
    leg: CallersLeg, reliable: Reliable
) -> None:
    reliable.send(180, RINGING, None, alone=True)
    reliable.send(181, None, None, alone=False)
    assert leg.sent == [(0, 180, 1)]
    assert reliable.on_prack(prack(2)) is False
    assert reliable.on_prack(prack(1, cseq=8)) is False
    assert reliable.on_prack(prack(1)) is True
    reliable.after_prack()
    assert leg.sent == [(0, 180, 1), (0, 181, 2)]
    assert reliable.on_prack(prack(2)) is True
    reliable.after_prack()
    leg.loop.run_until(100)
    assert leg.given_up == []
    assert len(leg.sent) == 2


def test_an_answer_waits_for_session_descriptions_only(leg: CallersLeg, reliable: Reliable) -> None:
    reliable.send(180, RINGING, None, alone=True)
    assert not reliable.holds(200, EARLY_MEDIA)
    reliable.send(183, EARLY_MEDIA, None, alone=True)
    assert reliable.holds(200, EARLY_MEDIA)
    reliable.on_prack(prack(1))
    reliable.after_prack()
    assert leg.answers == []
    reliable.on_prack(prack(2))
    reliable.after_prack()
    assert leg.answers == [200]


def test_another_target_may_follow_so_nothing_is_promised(
    leg: CallersLeg, reliable: Reliable
) -> None:
    reliable.send(183, EARLY_MEDIA, None, alone=False)
    assert not reliable.holds(200, EARLY_MEDIA)


def test_what_does_not_fit_a_packet_blocks_nothing(leg: CallersLeg, reliable: Reliable) -> None:
    leg.fits = False
    reliable.send(183, EARLY_MEDIA, None, alone=True)
    leg.fits = True
    reliable.send(180, RINGING, None, alone=True)
    assert [code for _, code, _ in leg.sent] == [180]


def test_only_so_many_wait_for_the_callers_prack(leg: CallersLeg, reliable: Reliable) -> None:
    """A phone may send as many as it likes meanwhile."""
    for _ in range(1000):
        assert reliable.send(183, EARLY_MEDIA, None, alone=True)
    while reliable.on_prack(prack(leg.sent[-1][2])):
        reliable.after_prack()
    assert [rseq for _, _, rseq in leg.sent] == list(range(1, 22))


def test_only_so_many_early_dialogs_are_heard() -> None:
    earlies = Earlies()
    leg = cast("Outgoing", None)
    heard = [earlies.hear(leg, 1, reliable_183(1, f"t{n}")) is not None for n in range(60)]
    assert heard == [True] * 50 + [False] * 10
    assert earlies.hear(leg, 2, reliable_183(2, "t0")) is not None


def test_after_the_final_response_nothing_is_repeated_but_the_last_prack_is_known(
    leg: CallersLeg, reliable: Reliable
) -> None:
    reliable.send(180, RINGING, None, alone=True)
    reliable.send(181, None, None, alone=False)
    reliable.close()
    leg.loop.run_until(100)
    assert len(leg.sent) == 1
    assert leg.given_up == []
    assert reliable.on_prack(prack(1)) is True


def test_a_callers_support_alone_makes_no_own_response_of_the_engine_reliable(
    leg: CallersLeg,
) -> None:
    invite = Message(b"INVITE sip:x@y SIP/2.0\r\nCSeq: 7 INVITE\r\nk: 100rel\r\n\r\n")
    reliable = Reliable(cast("Incoming", leg), invite)
    assert not reliable.send(181, None, None, alone=False)
    early = Earlies().hear(cast("Outgoing", leg), 1, reliable_183(1))
    assert reliable.send(183, reliable_183(1), early, alone=True)


def test_each_early_dialog_counts_for_itself() -> None:
    earlies, leg = Earlies(), cast("Outgoing", None)
    heard = [
        earlies.hear(leg, rseq, reliable_183(rseq, tag)) is not None
        for rseq, tag in [(5, "a"), (5, "a"), (7, "a"), (6, "a"), (1, "b"), (2, "b"), (7, "a")]
    ]
    assert heard == [True, False, False, True, True, True, True]
