"""The flow of one call, on fakes: what it rings, when it goes on, how it ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from engine.call_facts import CallFacts
from engine.config import read
from rules.contact import Contact
from rules.model import DocumentError, Line
from sip.address import Address
from sip.events import Failed
from sip.flow import Flow
from sip.message import Message
from sip.state import ENDED
from store.cache import Entry
from store.lines import Unavailable
from tests.unit.calls_on_fakes import (
    CALLER,
    LINE,
    MOBILE,
    OTHER,
    PHONE,
    OneCall,
    line,
    phones,
    response,
    settle,
)


def rung(one: OneCall) -> list[str]:
    """The URIs that were dialled, without the parameters of a mailbox (RFC 4458)."""
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


async def test_the_cause_of_an_answered_call_is_that_of_its_end() -> None:
    """And not why the line's phone had failed before."""
    one = OneCall(line(busy="voicemail"))
    await settle()
    phone = one.legs[0]
    phone.state = ENDED
    refusal = response(486).data.replace(b"\r\n\r\n", b"\r\nReason: Q.850;cause=17\r\n\r\n")
    phone.tell(Failed(phone, 486, Message(refusal)))
    await settle()
    one.legs[1].answers()
    await settle()
    one.caller.acks()
    one.caller.hangs_up()
    assert await one.end() == ("answered", 200, "bye")
    record = one.call.facts.record(one.ended[0])
    assert [leg.q850 for leg in record.legs] == [17, None]
    assert record.q850 is None


async def test_without_a_forward_the_caller_gets_the_phones_own_code() -> None:
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


BAD = DocumentError("document", None, "is no JSON")


@pytest.mark.parametrize(
    ("now", "rings", "ended"),
    [
        (Entry.of(line(no_answer="voicemail"), phones(PHONE), None), VOICEMAIL, None),
        (Entry.of(line(), phones(PHONE), None), None, ("no_answer", 480, "no_answer")),
        (
            Entry.of(replace(line(no_answer=MOBILE), suspended=True), (), None),
            None,
            ("rejected", 403, "suspended"),
        ),
        (Entry(), None, ("rejected", 404, "unknown_line")),
        (Entry.of(None, (), BAD), f"sip:{MOBILE}@127.0.0.1:5082", None),
        (None, f"sip:{MOBILE}@127.0.0.1:5082", None),
    ],
    ids=["another target", "off", "suspended", "deleted", "unreadable", "Redis away"],
)
async def test_a_line_that_changes_while_it_rings(
    now: Entry | None, rings: str | None, ended: tuple[str, int, str] | None
) -> None:
    """A change is in force within one second, also for the calls that ring."""
    one = OneCall(line(no_answer=(MOBILE, 20)))
    await settle()
    one.legs[0].rings()
    await one.clock.advance(10)

    async def look_up(number: str) -> Entry:
        raise Unavailable(number)

    store: Any = one.call._services.store
    store.peek, store.look_up = lambda _: now, look_up
    await one.clock.advance(10.1)
    assert one.legs[0].said == ["invite", "cancel"]
    assert rung(one)[1:] == ([rings] if rings else [])
    if ended:
        assert await one.end() == ended


@pytest.mark.parametrize(
    ("now", "ended"),
    [
        (line(), ("unreachable", 480, "unreachable")),
        (replace(line(unreachable=MOBILE), suspended=True), ("rejected", 403, "suspended")),
    ],
    ids=["off", "suspended"],
)
async def test_a_line_that_changes_while_its_phone_is_silent(
    now: Line, ended: tuple[str, int, str]
) -> None:
    """Also if it has no forward for busy or no answer."""
    one = OneCall(line(unreachable=MOBILE))
    await settle()
    store: Any = one.call._services.store
    store.peek = lambda _: Entry.of(now, phones(PHONE), None)
    await one.clock.advance(one.call._services.config.timers.pre_ringing_s + 0.1)
    assert rung(one) == [PHONE]
    assert await one.end() == ended


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


async def test_a_silent_server_of_the_voicemail_may_still_answer() -> None:
    """Its mailbox has the number of the line, but the line's phone has not answered."""
    one = OneCall(line(busy="voicemail"))
    services: Any = one.call._services
    services.config = read({"destinations": {"voicemail": "sip:{number}@voicemail.test"}})
    servers = [Address("udp", f"192.0.2.{last}", 5060) for last in (1, 2)]
    services.endpoint.names = SimpleNamespace(known=lambda _: servers, failed=lambda _: None)
    await settle()
    one.legs[0].fails(486)
    await settle()
    await one.clock.advance(services.config.timers.next_server_s + 0.1)
    _, first, second = one.legs
    first.answers()
    await settle()
    assert second.said == ["invite", "cancel"]
    assert one.call.facts.condition == "busy"
    assert [forward.kind for forward in one.call.facts.forwards] == ["voicemail"]
    assert not one.counted
    one.caller.acks()
    one.caller.hangs_up()
    assert await one.end() == ("answered", 200, "bye")


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


async def test_a_forward_that_does_not_happen_counts_once_in_a_call() -> None:
    """The rules are asked twice if the line turns out to have `max_calls` calls."""
    one = OneCall(replace(line(unconditional=LINE, busy="voicemail"), max_calls=1))
    one.full.add(LINE)
    await settle()
    assert rung(one) == [VOICEMAIL]
    assert one.metrics._prevented.counts["self"] == 1


async def test_what_a_busy_line_does_not_come_to_was_not_prevented() -> None:
    """Busy comes before unreachable: without a phone, whose forward was not due."""
    busy = replace(line(busy="voicemail", unreachable=LINE), max_calls=1)
    one = OneCall(busy, contacts=())
    one.full.add(LINE)
    await settle()
    assert rung(one) == [VOICEMAIL]
    assert one.call.facts.prevented == []
    assert one.metrics._prevented.counts["self"] == 0


async def test_a_forward_of_a_line_that_is_not_busy_but_without_a_phone_was_prevented() -> None:
    one = OneCall(replace(line(unreachable=LINE), max_calls=1), contacts=())
    assert await one.end() == ("unreachable", 480, "unreachable")
    assert [each.reason for each in one.call.facts.prevented] == ["self"]
    assert one.metrics._prevented.counts["self"] == 1


async def test_the_first_of_two_phones_wins() -> None:
    one = OneCall(line(), contacts=phones(PHONE, "sip:other@127.0.0.1:5091"))
    await settle()
    first, second = one.legs
    first.rings()
    second.rings()
    second.answers()
    await settle()
    assert first.said == ["invite", "cancel"]
    first.answers()  # too late: its 200 crosses the CANCEL
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


async def test_a_cancel_comes_before_the_forward_that_is_queued_behind_it() -> None:
    one = OneCall(line(busy="voicemail"))
    await settle()
    one.legs[0].fails(486)
    one.caller.cancels()
    assert (await one.end())[0] == "cancelled"
    assert len(one.legs) == 1


@pytest.mark.parametrize(
    ("code", "final", "outcome"),
    [(486, 486, "busy"), (404, 480, "unreachable"), (408, 480, "unreachable"), (603, 603, "busy")],
)
async def test_a_target_that_fails_ends_the_call(code: int, final: int, outcome: str) -> None:
    one = OneCall(line(unconditional=MOBILE, busy="voicemail"))
    await settle()
    one.legs[0].fails(code)
    assert await one.end() == (outcome, final, "target_failed")
    assert one.caller.heard == [181, final]


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


async def test_a_leg_that_cannot_be_ended_keeps_no_other_leg_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hangup(*_: object) -> None:
        raise OverflowError("port must be 0-65535.")

    one = OneCall(line())
    await settle()
    one.legs[0].answers()
    await settle()
    one.caller.acks()
    monkeypatch.setattr(one.caller, "hangup", hangup)
    one.call.stop(503, "shutdown")
    assert await one.end() == ("failed", 500, "internal")
    assert [type(error) for error in one.crashes] == [OverflowError]
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
    assert one.caller.refusal_field == b"Retry-After: 0"


async def test_the_worker_ends_a_call_whose_answer_waits() -> None:
    """The caller has not acknowledged a reliable response yet, so it has not got its 200."""
    one = OneCall(line())
    one.caller.answer = lambda *_: True  # type: ignore[method-assign]
    await settle()
    one.legs[0].answers()
    await settle()
    one.call.stop(503, "shutdown")
    assert await one.end() == ("failed", 503, "shutdown")
    assert one.caller.heard == [503]
    assert one.legs[0].said == ["invite", "ack", "bye"]


async def test_the_news_of_a_transfer_count_no_call_that_ends_meanwhile() -> None:
    """The caller's line is read from Redis. Whoever is known then counts until the call ends."""
    one = OneCall(line())
    await settle()
    asked: list[object] = []

    async def look_up(_number: str) -> Entry:
        one.caller.cancels()
        await one.end()
        one.call.facts.ended = one.call.facts.clock()
        return Entry()

    call: Any = one.call
    call._services.store.look_up = look_up
    call._transfers = SimpleNamespace(expect=lambda *_: True)
    call.is_known_by = asked.append
    await call.owe()
    assert asked == []


async def test_the_report_of_a_transfer_takes_nothing_from_the_call_that_asks_for_it() -> None:
    """Redis returns what is owed once: for the report of the transfer, or for the call itself."""

    class Transfers:
        stored: object = "owed"

        def expect(self, *_: str) -> bool:
            return False

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


def phone_calls(one: OneCall) -> None:
    """The caller is a phone of its line, at the address of its contact; that line is not in memory
    before it is read."""
    one.caller.flow = Flow("udp", "127.0.0.1", 5070)  # type: ignore[assignment]
    services: Any = one.call._services
    services.registrar = SimpleNamespace(flows=SimpleNamespace(lead_to=lambda *_: False))
    store, is_read = services.store, asyncio.Event()
    peek, recall, targets = store.peek, store.recall, store.targets

    async def look_up(number: str) -> Entry:
        is_read.set()
        found: Entry = peek(number)
        return found

    async def load_targets(*given: Any) -> Any:
        is_read.set()
        return targets(*given)

    store.look_up, store.load_targets = look_up, load_targets
    store.targets = lambda *given: targets(*given) if is_read.is_set() else None
    store.recall = lambda number: recall(number) if is_read.is_set() else (None, False)


OWN_PHONE = {CALLER: phones("sip:own@127.0.0.1:5070")}


async def test_the_target_of_a_forward_reaches_its_line_with_the_first_call_too() -> None:
    """The secretary calls the boss; her line comes into memory as the target of his forward."""
    one = OneCall(line(unconditional=CALLER), line(CALLER), registered=OWN_PHONE)
    phone_calls(one)
    await settle()
    assert rung(one) == [PHONE]
    assert [each.reason for each in one.call.facts.prevented] == ["caller_is_target"]
    assert one.call.facts.identity == CALLER


async def test_a_phone_that_follows_a_transfer_is_known_though_its_line_is_not_in_memory() -> None:
    """Otherwise nobody pays."""

    class Pending:
        known_as = ""

        def expect(self, caller: str, called: str) -> bool:
            return (caller, called) == (CALLER, LINE)

        async def carry(self, facts: CallFacts, *_: object, ask: bool = False) -> None:
            self.known_as = facts.identity

    one = OneCall(line(), line(CALLER), registered=OWN_PHONE)
    phone_calls(one)
    transfers: Any = Pending()
    one.call._transfers = transfers
    await settle()
    assert transfers.known_as == CALLER
    assert rung(one) == [PHONE]


@pytest.mark.parametrize(
    ("configured", "ended"),
    [
        ("reject", ("failed", 503, "rules_unavailable")),
        ("ring", ("unreachable", 480, "unreachable")),
    ],
)
async def test_a_line_whose_rules_are_not_available(
    configured: str, ended: tuple[str, int, str]
) -> None:
    """Its phones are in Redis too: nothing rings."""
    one = OneCall(line())

    async def look_up(number: str) -> Entry:
        raise Unavailable(number)

    services: Any = one.call._services
    services.config = read({"rules": {"when_unavailable": configured}})
    services.store.peek, services.store.look_up = lambda _: None, look_up
    assert await one.end() == ended
    assert one.legs == []
    assert one.caller.refusal_field == (b"Retry-After: 0" if ended[1] == 503 else b"")
