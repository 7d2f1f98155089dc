"""The flow of one call, on fakes: what it rings, when it moves on, how it ends."""

from __future__ import annotations

import asyncio

import pytest

from rules.contact import Contact
from tests.unit.calls_on_fakes import LINE, MOBILE, OTHER, PHONE, OneCall, line, phones, settle


def rung(one: OneCall) -> list[str]:
    """Where the call has gone, without the parameters of a mailbox (RFC 4458)."""
    return [leg.uri.partition(";")[0] for leg in one.legs]


VOICEMAIL = f"sip:{LINE}@127.0.0.1:5081"


async def test_a_phone_answers_and_the_caller_hangs_up() -> None:
    one = OneCall(line())
    await settle()
    (phone,) = one.legs
    assert one.counted == [LINE]
    phone.rings()
    phone.answers()
    await settle()
    one.caller.acks()
    assert one.caller.heard == [180, 200]
    one.caller.hangs_up()
    assert await one.end() == ("answered", 200, "bye")
    assert phone.said == ["invite", "ack", "bye"]
    assert one.call.facts.answered is not None


async def test_the_phone_hangs_up() -> None:
    one = OneCall(line())
    await settle()
    one.legs[0].answers()
    await settle()
    one.caller.acks()
    one.legs[0].hangs_up()
    assert await one.end() == ("answered", 200, "bye")
    assert one.caller.heard == [200, "bye"]


async def test_a_busy_phone_sends_the_call_to_voicemail() -> None:
    one = OneCall(line(busy="voicemail"))
    await settle()
    one.legs[0].fails(486)
    await settle()
    assert rung(one) == [PHONE, VOICEMAIL]
    assert one.caller.heard == [181]
    assert one.counted == []  # the line is free for the next call
    assert one.call.facts.condition == "busy"


async def test_without_a_forward_the_caller_hears_the_phones_own_code() -> None:
    one = OneCall(line())
    await settle()
    one.legs[0].fails(486)
    assert await one.end() == ("busy", 486, "busy")
    assert one.caller.heard == [486]


async def test_nobody_answers_in_time() -> None:
    one = OneCall(line(no_answer=(MOBILE, 20)))
    await settle()
    await one.clock.advance(2)
    one.legs[0].rings()
    await one.clock.advance(19.9)
    assert len(one.legs) == 1
    await one.clock.advance(0.2)
    assert one.legs[0].said == ["invite", "cancel"]
    assert one.legs[1].uri == f"sip:{MOBILE}@127.0.0.1:5082"
    assert one.call.facts.condition == "no_answer"


async def test_a_phone_that_was_given_up_may_still_win() -> None:
    one = OneCall(line(no_answer=(MOBILE, 20)))
    await settle()
    one.legs[0].rings()
    await one.clock.advance(21)
    one.legs[0].answers()  # crosses the CANCEL
    await settle()
    assert one.caller.heard == [180, 181, 200]
    assert one.legs[1].said == ["invite", "cancel"]
    assert one.call.facts.forwards == []


@pytest.mark.parametrize("contacts", [(), (Contact(PHONE, None, 1.0),)])
async def test_no_phone_is_registered(contacts: tuple[Contact, ...]) -> None:
    one = OneCall(line(unreachable=MOBILE), contacts=contacts)
    await settle()
    assert rung(one) == [f"sip:{MOBILE}@127.0.0.1:5082"]
    assert one.call.facts.condition == "unreachable"


async def test_a_silent_phone_is_unreachable() -> None:
    one = OneCall(line(unreachable=MOBILE, no_answer="voicemail"))
    await settle()
    await one.clock.advance(one.call._services.config.timers.pre_ringing_s + 0.1)
    assert one.call.facts.condition == "unreachable"


async def test_all_calls_are_forwarded_and_none_counts_on_the_line() -> None:
    one = OneCall(line(unconditional=MOBILE))
    await settle()
    assert rung(one) == [f"sip:{MOBILE}@127.0.0.1:5082"]
    assert one.counted == []


async def test_a_line_of_the_fleet_goes_by_its_own_rules() -> None:
    one = OneCall(line(unconditional=OTHER), line(OTHER, busy="voicemail"))
    await settle()
    assert one.counted == [OTHER]
    one.legs[0].fails(600)
    await settle()
    assert rung(one)[1] == f"sip:{OTHER}@127.0.0.1:5081"
    assert [forward.line for forward in one.call.facts.forwards] == [LINE, OTHER]


async def test_a_forward_back_to_a_line_of_the_call_is_passed_over() -> None:
    one = OneCall(line(unconditional=OTHER), line(OTHER, unconditional=LINE))
    await settle()
    assert rung(one) == [PHONE]
    assert one.counted == [OTHER]
    assert [forward.line for forward in one.call.facts.forwards] == [LINE]


async def test_the_first_of_two_phones_wins() -> None:
    one = OneCall(line(), contacts=phones(PHONE, "sip:other@127.0.0.1:5091"))
    await settle()
    first, second = one.legs
    first.rings()
    second.rings()
    second.answers()
    await settle()
    assert first.said == ["invite", "cancel"]
    first.answers()  # too late: the 200 crossed the CANCEL
    await settle()
    assert first.said == ["invite", "cancel", "ack", "bye"]
    assert one.caller.heard == [180, 180, 200]


async def test_the_caller_gives_up() -> None:
    one = OneCall(line(busy="voicemail"))
    await settle()
    one.legs[0].rings()
    one.caller.cancels()
    assert await one.end() == ("cancelled", 487, "caller")
    assert one.legs[0].said == ["invite", "cancel"]


async def test_a_cancel_beats_the_forward_that_waits_behind_it() -> None:
    one = OneCall(line(busy="voicemail"))
    await settle()
    one.legs[0].fails(486)
    one.caller.cancels()
    assert (await one.end())[0] == "cancelled"
    assert len(one.legs) == 1


@pytest.mark.parametrize(
    ("code", "heard", "outcome"),
    [(486, 486, "busy"), (404, 480, "unreachable"), (408, 480, "unreachable"), (603, 603, "busy")],
)
async def test_a_target_that_fails_ends_the_call(code: int, heard: int, outcome: str) -> None:
    one = OneCall(line(unconditional=MOBILE, busy="voicemail"))
    await settle()
    one.legs[0].fails(code)
    assert await one.end() == (outcome, heard, "target_failed")
    assert one.caller.heard == [181, heard]


async def test_a_number_that_is_no_line() -> None:
    one = OneCall()
    assert await one.end() == ("rejected", 404, "unknown_line")


async def test_a_contact_that_cannot_be_dialled_counts_as_none() -> None:
    one = OneCall(line(unreachable="voicemail"))
    one.undialled.add(PHONE)
    await settle()
    assert rung(one) == [VOICEMAIL]


async def test_an_error_of_ours_ends_this_call_with_its_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = OneCall(line())
    await settle()
    monkeypatch.setattr(one.call, "_converse", None)
    one.legs[0].answers()
    assert await one.end() == ("failed", 500, "internal")
    assert [type(error) for error in one.crashes] == [TypeError]
    assert one.legs[0].said[-1] == "bye"


async def test_the_longest_call_ends() -> None:
    one = OneCall(line())
    await settle()
    one.legs[0].answers()
    await settle()
    one.caller.acks()
    await one.clock.advance(one.call._services.config.timers.max_call_s + 1)
    assert await one.end() == ("answered", 200, "max_call")
    assert one.caller.heard[-1] == one.legs[0].said[-1] == "bye"


async def test_the_worker_ends_the_call() -> None:
    one = OneCall(line())
    await settle()
    one.call.stop(503, "shutdown")
    assert await one.end() == ("failed", 503, "shutdown")
    assert one.caller.heard == [503]


async def test_the_news_of_a_transfer_take_nothing_from_the_call_that_asks_for_it() -> None:
    """Redis gives what is owed once: to the news of the transfer, or to the call itself."""

    class Transfers:
        stored: object = "owed"

        async def carry(self, *_: object, ask: bool = False) -> object:
            await asyncio.sleep(0)
            taken, self.stored = self.stored, None
            return taken

    one = OneCall(line())
    one.call._transfers = Transfers()  # type: ignore[assignment]
    owed: list[object] = list(await asyncio.gather(one.call._carry(), one.call._carry(ask=True)))
    assert owed == ["owed", "owed"]
    one.caller.cancels()
    await one.end()
