"""A worker dies and its calls go on in the next: requests inside them, limits, payers, their end,
their record."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.continued import (
    EXPIRES,
    back,
    die,
    ended,
    events,
    is_up,
    kept,
    killed,
    noted,
    stand,
    talk,
    until,
)
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect, part
from tests.scenarios.processes import ROOT
from tests.scenarios.setup import ANSWER_BYTES, OFFER_BYTES, Setup
from tests.scenarios.test_transfer import calls, own
from tests.scenarios.test_transfer_payer import UNLIMITED, forwarded, paid, refer, used
from tests.scenarios.test_withheld import naming, shows

HOLD = OFFER_BYTES.replace(b"\r\nm=", b"\r\na=sendonly\r\nm=", 1)
HOURS = {"mobile": "hours", "mobile_hours": 1}


async def reinvite(one: Call, other: Call, body: bytes = HOLD) -> None:
    """One side changes the session; bodies and ACK pass in both directions."""
    one.request("INVITE", body=body)
    request = await other.receive("INVITE")
    assert request.body == body
    other.respond(200, to=request, body=ANSWER_BYTES)
    answer = await one.receive(200)
    assert answer.body == ANSWER_BYTES
    one.ack(answer)
    await other.receive("ACK")


@pytest.mark.parametrize("who", ["caller", "callee"])
async def test_an_answered_call_goes_on_and_ends_by_its_own_bye(setup: Setup, who: str) -> None:
    _, call, ring = await stand(setup)
    (before,) = setup.engine.calls()
    await killed(setup)
    assert setup.engine.metric("renvoi_calls_taken_over_total", result="continued") == 1
    assert setup.engine.calls() == [before]
    assert before["state"] == "answered"
    assert all(e["failed"] or e["recorded"] for e in events(setup, "journal.completed"))
    await talk(call, ring)
    await part(*((call, ring) if who == "caller" else (ring, call)))
    record = await ended(setup, call)
    assert record["legs"][0]["code"] == 200
    assert setup.engine.calls() == []


async def test_a_call_may_change_its_process_twice(setup: Setup) -> None:
    line, call, ring = await stand(setup, max_calls=1)
    first = kept(setup, call.call_id)
    await killed(setup)
    await killed(setup)
    second = kept(setup, call.call_id)
    assert first is not None
    assert second is not None
    assert (second.takeovers, second.counted, second.leased) == (2, (line,), (line,))
    assert second.visited == first.visited == (line,)
    await talk(call, ring)
    await part(ring, call)
    await ended(setup, call, takeovers=2)
    await until(lambda: not setup.redis.exists(f"live:{line}"), "the lease")


async def test_the_command_line_shows_such_a_call(setup: Setup) -> None:
    _, call, ring = await stand(setup)
    await killed(setup)
    await part(call, ring)
    await ended(setup, call)

    def renvoi(*words: str) -> str:
        command = [sys.executable, "-m", "engine.cli", *words, "--config", str(setup.engine.config)]
        return subprocess.run(
            command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=within(20)
        ).stdout

    lines = [json.loads(line) for line in renvoi("cdr", "--json").splitlines()]
    (record,) = [each for each in lines if each["call_id"] == call.call_id]
    assert int(record["takeovers"]) == 1
    rows = list(csv.DictReader(io.StringIO(renvoi("cdr", "--csv"))))
    (row,) = [each for each in rows if each["call_id"] == call.call_id]
    assert row["takeovers"] == "1"


# -- payers and counts -----------------------------------------------------------------------------


async def test_a_forwarded_call_is_paid_by_its_line_for_the_whole_time(setup: Setup) -> None:
    began = time.monotonic()
    line, mobile, call, away = await forwarded(setup, offer=HOURS)
    answered = time.monotonic()
    await noted(setup, call, is_up)
    await asyncio.sleep(1.1)
    await killed(setup)
    (shown,) = setup.engine.calls()
    assert (shown["payer"], shown["target"]) == (line, mobile)
    await talk(call, away)
    least_s = time.monotonic() - answered
    await part(call, away)
    most_s = time.monotonic() - began
    record = await ended(
        setup, call, payer=line, billing="deducted", condition="unconditional",
        destination="number", target=mobile,
    )  # fmt: skip
    assert paid(record) == [(line, "unconditional", "number", mobile, "deducted")]
    assert least_s - 1 <= int(record["seconds"]) <= most_s + 1
    assert used(setup, line) == {"deducted": int(record["seconds"])}
    await until(lambda: not setup.redis.keys(f"forwards:{line}"), "the forward is released")


@pytest.mark.parametrize("how", ["list", "also_ring"])
async def test_the_target_that_answered_pays_after_the_death_too(setup: Setup, how: str) -> None:
    targets = [{"kind": "number", "number": numbers.mobile_number()} for _ in range(3)]
    forwards = {"unconditional": {"on": True, "ring": "together", "to": targets}}
    fields: dict[str, Any] = {"forwards": forwards} if how == "list" else {"also_ring": targets}
    line = setup.line(**fields)
    call = await setup.call(line)
    number = targets[1]["number"]
    away = await setup.server("number").incoming(number)
    await connect(call, away)
    await noted(setup, call, is_up)
    await killed(setup)
    await talk(call, away)
    await part(call, away)
    destination, condition = ("number", "unconditional") if how == "list" else ("line", "none")
    record = await ended(
        setup, call, payer=line, billing="out_of_plan", condition=condition,
        destination=destination, target=number if how == "list" else line,
    )  # fmt: skip
    (payment,) = record["forwards"]
    assert (payment["number"], payment["seconds"]) == (number, int(record["seconds"]))
    assert len(record["legs"]) == 3


async def test_a_cap_counts_from_the_answer_and_ends_the_call(setup: Setup) -> None:
    cap_s = 6
    setup.redis.set("fleet:thrifty", json.dumps({"name": "thrifty", "cap_seconds": cap_s}))
    await setup.settle(fleets=True)
    began = time.monotonic()
    line, _, call, away = await forwarded(setup, offer=None, fleet="thrifty")
    await noted(setup, call, is_up)
    await asyncio.sleep(1.0)
    await killed(setup)
    bye = await away.receive("BYE", wait_s=2 * cap_s)
    assert "SIP;cause=402" in bye.one("Reason")
    assert time.monotonic() - began > cap_s
    await call.receive("BYE")
    record = await ended(setup, call, why="fleet_cap", payer=line, billing="out_of_plan")
    # counted from the death, the call would have its full second again
    assert cap_s <= int(record["out_of_plan_s"]) == int(record["seconds"])
    assert int(record["seconds"]) <= time.monotonic() - began + 1
    await until(lambda: not setup.redis.keys("standing:*thrifty*"), "the notes of the cap")


async def test_a_line_with_a_limit_stays_busy_and_is_free_after_the_end(setup: Setup) -> None:
    line, call, ring = await stand(setup, max_calls=1)
    await until(lambda: setup.redis.zcard(f"live:{line}") == 1, "the lease")
    await killed(setup)
    assert setup.redis.zcard(f"live:{line}") == 1
    second = await setup.call(line)
    assert (await second.final()).code == 486
    await part(call, ring)
    await ended(setup, call)
    await until(lambda: not setup.redis.exists(f"live:{line}"), "the lease is released")
    third = await setup.call(line)
    again = await ring.endpoint.incoming()
    await connect(third, again)
    await part(third, again)


async def test_a_call_counts_on_the_line_that_placed_it(setup: Setup) -> None:
    calling, own_phone = await setup.line_with_phone(max_calls=1)
    line, phone = await setup.line_with_phone()
    call = await calls(setup, line, calling)
    ring = await phone.incoming()
    await connect(call, ring)
    await until(lambda: setup.redis.zcard(f"live:{calling}") == 1, "the lease of the caller's line")
    await noted(setup, call, lambda e: is_up(e) and calling in e.leased)
    await killed(setup)
    assert setup.redis.zcard(f"live:{calling}") == 1
    assert (await (await setup.call(calling)).final()).code == 486
    await part(ring, call)
    await ended(setup, call, caller=calling)
    await until(lambda: not setup.redis.exists(f"live:{calling}"), "the lease is released")
    third = await setup.call(calling)
    again = await own_phone.incoming()
    await connect(third, again)
    await part(third, again)


# -- the session -----------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["caller", "callee"])
async def test_a_held_call_is_resumed_and_held_again(setup: Setup, who: str) -> None:
    _, call, ring = await stand(setup)
    one, other = (call, ring) if who == "caller" else (ring, call)
    await reinvite(one, other)
    await killed(setup)
    await reinvite(one, other, OFFER_BYTES)
    await reinvite(other, one)
    for side in (call, ring):  # no CSeq number is used twice
        requests = [m for m in side.received if not m.code and m.method != "ACK"]
        sent = list({m.raw: m.cseq[0] for m in requests}.values())  # without repeats
        assert sent == sorted(set(sent))
    await talk(call, ring)
    await part(other, one)
    await ended(setup, call)


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
@pytest.mark.parametrize("who", ["caller", "callee"])
async def test_a_new_contact_is_in_the_journal_before_its_200_leaves(
    setup: Setup, who: str, method: str
) -> None:
    """The process dies at the moment at which the 200 arrives."""
    _, call, ring = await stand(setup)
    one, other = (call, ring) if who == "caller" else (ring, call)
    moved = await setup.endpoint()
    one.endpoint.show(moved)
    one.request(method, body=OFFER_BYTES)
    other.respond(200, to=await other.receive(method), body=ANSWER_BYTES)
    answer = await one.receive(200, method)
    die(setup)
    assert (await back(setup))["continued"] == 1
    if method == "INVITE":
        one.ack(answer)
    other.request("INFO", body=b"x", content_type="text/plain")
    info = await one.receive("INFO")
    assert info in moved.heard
    one.respond(200, to=info)
    await other.receive(200, "INFO")
    await part(other, one)
    assert moved.requests()[-1] == "BYE"
    await ended(setup, call)


async def test_a_session_expires_at_its_time_counted_from_before(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=EXPIRES)
    ring = await phone.incoming()
    # so long that the next process is up before
    expires = [("Session-Expires", "15;refresher=uac"), ("Require", "timer")]
    since = time.monotonic()
    ring.respond(200, body=ANSWER_BYTES, headers=expires)
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    entry = await noted(setup, call, is_up)
    assert entry.answered is not None
    assert -0.1 < entry.expires - entry.answered - 15 < 3  # both by the engine's clock
    await killed(setup)
    after = kept(setup, call.call_id)
    assert after is not None
    assert after.expires == entry.expires  # not fifteen seconds from now
    for side in (call, ring):
        assert (await side.receive("BYE", wait_s=17)).one("Reason").startswith("Q.850;cause=102")
    assert time.monotonic() - since > 14.9
    await ended(setup, call, why="session_expired")


async def test_a_refresh_after_the_death_keeps_the_session(setup: Setup) -> None:
    line, phone = await setup.line_with_phone()
    call = await setup.call(line, headers=EXPIRES)
    ring = await phone.incoming()
    ring.respond(200, body=ANSWER_BYTES, headers=[("Session-Expires", "90;refresher=uac")])
    call.ack(await call.receive(200))
    await ring.receive("ACK")
    first = await noted(setup, call, is_up)
    await killed(setup)
    call.request("UPDATE", headers=[*EXPIRES, ("Session-Expires", "120;refresher=uac")])
    request = await ring.receive("UPDATE")
    ring.respond(200, to=request, headers=[("Session-Expires", "120;refresher=uac")])
    await call.receive(200, "UPDATE")
    await noted(setup, call, lambda e: e.takeovers == 1 and e.expires > first.expires + 20)
    await part(call, ring)
    await ended(setup, call)


# -- transfers -------------------------------------------------------------------------------------


async def test_a_side_of_a_continued_call_transfers_the_other(setup: Setup) -> None:
    """The line whose forward led to the mobile pays for the call that follows."""
    line, mobile, call, away = await forwarded(setup, offer=UNLIMITED)
    target, phone = await setup.line_with_phone()
    await noted(setup, call, is_up)
    await killed(setup)
    await refer(call, away, target)
    onward = away.endpoint.start(
        setup.engine.address, target, caller=mobile, body=OFFER_BYTES,
        headers=[("P-Asserted-Identity", f"<sip:{mobile}@office.example>")],
    )  # fmt: skip
    ring = await phone.incoming()
    await connect(onward, ring)
    await part(call, away)
    await ended(setup, call, payer=line)
    # that call continues too, with its payer
    await noted(setup, onward, is_up)
    await killed(setup)
    await part(onward, ring)
    record = await ended(setup, onward, payer=line, condition="none", destination="line")
    assert paid(record) == [(line, "none", "number", mobile, "out_of_plan")]


async def test_a_call_that_was_transferred_before_the_death_is_paid_after_it(setup: Setup) -> None:
    line, mobile, call, away = await forwarded(setup, offer=HOURS)
    target, phone = await setup.line_with_phone()
    await noted(setup, call, is_up)
    await refer(call, away, target)
    await until(lambda: setup.redis.keys("transfer:*"), "the transfer is in Redis")
    await killed(setup)
    onward = away.endpoint.start(
        setup.engine.address, target, caller=mobile, body=OFFER_BYTES,
        headers=[("P-Asserted-Identity", f"<sip:{mobile}@office.example>")],
    )  # fmt: skip
    ring = await phone.incoming()
    await connect(onward, ring)
    await part(call, away)
    await ended(setup, call, payer=line)
    # Redis is read in the background: the payer may be known only after the call began
    await until(lambda: [each["payer"] for each in setup.engine.calls()] == [line], "the payer")
    await part(onward, ring)
    record = await ended(setup, onward, takeovers=0, payer=line, condition="none")
    assert paid(record) == [(line, "none", "number", mobile, "deducted")]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_notifications_of_a_transfer_arrive_after_the_end(setup: Setup, when: str) -> None:
    _, call, ring = await stand(setup)
    if when == "after":
        await killed(setup)
    ring.request("REFER", headers=[("Refer-To", "<sip:+33140000099@office.example>")])
    call.respond(202, to=await call.receive("REFER"))
    await ring.receive(202, "REFER")
    if when == "before":
        await noted(setup, call, lambda e: e.signalling[1] is not None and e.signalling[1].referred)
        await killed(setup)
    await part(ring, call)
    await ended(setup, call)
    call.request("NOTIFY", headers=[("Event", "refer"), ("Subscription-State", "active")])
    ring.respond(200, to=await ring.receive("NOTIFY"))
    await call.receive(200, "NOTIFY")


async def test_a_colleague_takes_a_continued_call_over(setup: Setup) -> None:
    colleague = setup.line()
    line, mobile, call, away = await forwarded(setup, offer=UNLIMITED, max_calls=5)
    await noted(setup, call, is_up)
    await killed(setup)
    taking = await calls(setup, line, colleague, ("Replaces", own(away)))
    taken = await setup.server("number").incoming(mobile)
    await connect(taking, taken)
    await call.receive("BYE")
    await away.receive("BYE")
    await ended(setup, call, why="replaced", payer=line)
    await part(taking, taken)
    record = await ended(setup, taking, takeovers=0, payer=line, condition="none")
    assert paid(record) == [(line, "none", "number", mobile, "out_of_plan")]


# -- privacy and trust -----------------------------------------------------------------------------


async def test_a_withheld_caller_stays_withheld(setup: Setup) -> None:
    number = numbers.mobile_number()
    fields = naming(number)
    line, phone = await setup.line_with_phone()
    call = await setup.call(
        line, caller=number, asserted=False, headers=[*fields, ("Privacy", "id")]
    )
    ring = await phone.incoming()
    assert not shows(ring.first, number)
    await connect(call, ring)
    await noted(setup, call, is_up)
    await killed(setup)
    (shown,) = setup.engine.calls()
    assert (shown["caller"], shown["withheld"]) == ("", True)
    for method in ("INVITE", "UPDATE", "INFO"):  # without the privacy fields of the INVITE
        call.request(method, body=OFFER_BYTES, headers=fields)
        request = await ring.receive(method)
        assert not shows(request, number)
        ring.respond(200, to=request, body=ANSWER_BYTES)
        answer = await call.receive(200, method)
        if method == "INVITE":
            call.ack(answer)
            await ring.receive("ACK")
    await part(call, ring)
    await ended(setup, call, caller="", caller_withheld=number)


async def test_privacy_and_trust_of_phones_stay_the_same(setup: Setup) -> None:
    """A phone gets no charging data, and is not trusted; a server is."""
    charged = [("P-Charge-Info", "<sip:+33140000001@office.example>")]
    claims = [("P-Asserted-Identity", "<sip:+33140009999@office.example>"), *charged]

    async def crossing(one: Call, other: Call) -> set[str]:
        one.request("INFO", headers=claims, body=b"x", content_type="text/plain")
        request = await other.receive("INFO")
        other.respond(200, to=request)
        await one.receive(200, "INFO")
        return {name for name, _ in claims if request.has(name)}

    _, call, ring = await stand(setup)
    _, _, forward, away = await forwarded(setup)
    pairs = (call, ring), (ring, call), (forward, away), (away, forward)
    before = [await crossing(*pair) for pair in pairs]
    for each in (call, forward):
        await noted(setup, each, is_up)
    await killed(setup, continued=2)
    assert [await crossing(*pair) for pair in pairs] == before
    assert before[0] != before[2]
    await part(call, ring)
    await part(forward, away)


async def test_a_stranger_cannot_speak_in_a_continued_call(setup: Setup) -> None:
    _, call, ring = await stand(setup)
    await killed(setup)
    thief = await setup.endpoint("127.0.0.2")
    forged = Call(thief, call.peer, call.first, caller=True)
    forged.remote, forged.target, forged.cseq = call.remote, call.target, call.cseq + 100
    forged.automatic = set()
    thief.calls.append(forged)
    forged.request("BYE")
    assert (await forged.final("BYE")).code == 403
    forged.state = "ended"
    await talk(call, ring)
    await part(call, ring)


async def test_many_calls_of_every_kind_go_on_at_once(setup: Setup) -> None:
    pairs: list[tuple[Call, Call]] = []
    for _ in range(6):
        _, call, ring = await stand(setup)
        pairs.append((call, ring))
        _, _, forward, away = await forwarded(setup)
        await noted(setup, forward, is_up)
        pairs.append((forward, away))
    ids = [each["id"] for each in setup.engine.calls()]
    await killed(setup, continued=len(pairs))
    assert [each["id"] for each in setup.engine.calls()] == ids  # the oldest first
    for call, ring in pairs:
        await talk(call, ring)
    for place, (call, ring) in enumerate(pairs):
        await part(*((call, ring) if place % 2 else (ring, call)))
    for call, _ in pairs:
        await ended(setup, call)


async def test_a_phone_that_is_called_elsewhere_meanwhile_is_not_confused(setup: Setup) -> None:
    """New calls reach the same phone at once, and are not confused with the continued one."""
    line, call, ring = await stand(setup)
    await killed(setup)
    second = await setup.call(line)
    other: Endpoint = ring.endpoint
    again = await other.incoming()
    await connect(second, again)
    await talk(call, ring)
    await talk(second, again)
    await part(second, again)
    await part(ring, call)
    await ended(setup, call)
    await ended(setup, second, takeovers=0)
