"""The phone's response decides the condition: forwarding-rules.md 1, row by row, with SIPp.

Each line forwards busy, no answer and unreachable to different numbers, so that the number that is
reached shows the condition. "off" rows have no forwards.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from tests.scenarios import numbers, script
from tests.scenarios.batch import Batch, Outcomes, Scenario, names_in
from tests.scenarios.setup import RunningEngine, Setup, all_to_numbers
from tests.scenarios.sipp import free_port

SETTINGS = {"timers": {"pre_ringing_s": 6}}
batch = Batch()
RING = ("180 Ringing",)
EARLY = ("183 Session Progress",)
FRAUD = "Contact: <sip:+881623400000@127.0.0.1:[remote_port]>"
Q850 = "Reason: Q.850;cause={}"

# name: (provisional answers, refusal, extra header, condition or the caller's code)
ROWS: dict[str, tuple[tuple[str, ...], str, str, str | int]] = {
    "486_is_busy": ((), "486 Busy Here", "", "busy"),
    "486_after_ringing_is_busy": (RING, "486 Busy Here", "", "busy"),
    "600_is_busy": ((), "600 Busy Everywhere", "", "busy"),
    "600_after_ringing_is_busy": (RING, "600 Busy Everywhere", "", "busy"),
    "603_declined_is_busy": (RING, "603 Decline", "", "busy"),
    "607_unwanted_is_busy": (RING, "607 Unwanted", "", "busy"),
    "608_rejected_is_busy": ((), "608 Rejected", "", "busy"),
    "cause_17_in_a_480_is_busy": ((), "480 Gone", Q850.format(17), "busy"),
    "cause_17_in_a_503_is_busy": ((), "503 Unavailable", Q850.format(17), "busy"),
    "cause_17_after_ringing_is_busy": (RING, "500 Error", Q850.format(17), "busy"),
    "cause_21_declined_is_busy": ((), "480 Gone", Q850.format(21), "busy"),
    "cause_18_is_no_answer": ((), "480 Gone", Q850.format(18), "no_answer"),
    "cause_19_is_no_answer": (RING, "500 Error", Q850.format(19), "no_answer"),
    "cause_20_is_unreachable": (RING, "480 Gone", Q850.format(20), "unreachable"),
    "cause_27_is_unreachable": (RING, "502 Gateway", Q850.format(27), "unreachable"),
    "cause_20_wins_over_486": ((), "486 Busy Here", Q850.format(20), "unreachable"),
    "408_after_ringing_is_no_answer": (RING, "408 Timeout", "", "no_answer"),
    "480_after_ringing_is_no_answer": (RING, "480 Gone", "", "no_answer"),
    "480_after_183_is_no_answer": (EARLY, "480 Gone", "", "no_answer"),
    "480_after_181_only_is_unreachable": (("181 Forwarded",), "480 Gone", "", "unreachable"),
    "480_after_199_only_is_unreachable": (("199 Early End",), "480 Gone", "", "unreachable"),
    "408_before_ringing_is_unreachable": ((), "408 Timeout", "", "unreachable"),
    "480_before_ringing_is_unreachable": ((), "480 Gone", "", "unreachable"),
    "404_before_ringing_is_unreachable": ((), "404 Not Found", "", "unreachable"),
    "410_before_ringing_is_unreachable": ((), "410 Gone", "", "unreachable"),
    "500_before_ringing_is_unreachable": ((), "500 Error", "", "unreachable"),
    "502_before_ringing_is_unreachable": ((), "502 Bad Gateway", "", "unreachable"),
    "503_before_ringing_is_unreachable": ((), "503 Unavailable", "", "unreachable"),
    "504_before_ringing_is_unreachable": ((), "504 Timeout", "", "unreachable"),
    "302_is_unreachable": ((), "302 Moved", FRAUD, "unreachable"),
    "302_after_ringing_is_no_answer": (RING, "302 Moved", FRAUD, "no_answer"),
    "302_with_cause_17_is_busy": ((), "302 Moved", Q850.format(17), "busy"),
    "301_is_unreachable": ((), "301 Moved", FRAUD, "unreachable"),
    "380_after_183_is_no_answer": (EARLY, "380 Alternative Service", FRAUD, "no_answer"),
    "400_is_unreachable": ((), "400 Bad Request", "", "unreachable"),
    "404_after_ringing_is_no_answer": (RING, "404 Not Found", "", "no_answer"),
    "405_is_unreachable": ((), "405 Method", "Allow: OPTIONS", "unreachable"),
    "405_after_ringing_is_no_answer": (RING, "405 Method", "Allow: OPTIONS", "no_answer"),
    "430_is_unreachable": ((), "430 Flow Failed", "", "unreachable"),
    "481_is_passed_on": ((), "481 No Transaction", "", 481),
    "487_that_nobody_asked_for_is_unreachable": ((), "487 Terminated", "", "unreachable"),
    "487_after_ringing_is_no_answer": (RING, "487 Terminated", "", "no_answer"),
    "487_with_cause_17_is_busy": (RING, "487 Terminated", Q850.format(17), "busy"),
    "491_is_busy": ((), "491 Pending", "", "busy"),
    "491_after_ringing_is_busy": (RING, "491 Pending", "", "busy"),
    "499_that_nobody_knows_is_unreachable": ((), "499 What", "", "unreachable"),
    "604_is_unreachable": ((), "604 Nowhere", "", "unreachable"),
    "699_that_nobody_knows_is_busy": (RING, "699 Never", "", "busy"),
    "483_is_passed_on": ((), "483 Too Many Hops", "", 483),
    "500_after_ringing_is_passed_on": (RING, "500 Error", "", 500),
    "504_after_ringing_is_passed_on": (RING, "504 Timeout", "", 504),
    "503_after_ringing_reaches_the_caller_as_500": (RING, "503 Unavailable", "", 500),
    "401_is_never_relayed": ((), "401 Unauthorized", "WWW-Authenticate: Digest realm=x", 480),
    "407_is_never_relayed": ((), "407 Proxy", "Proxy-Authenticate: Digest realm=x", 480),
    "403_is_passed_on": ((), "403 Forbidden", "", 403),
    "433_is_passed_on": (RING, "433 Anonymity", "", 433),
    "488_is_passed_on": ((), "488 Not Acceptable", "", 488),
    "606_is_passed_on": ((), "606 Not Acceptable", "", 606),
    "415_is_passed_on": ((), "415 Media", "", 415),
    "420_is_passed_on": ((), "420 Extension", "", 420),
    "484_is_passed_on": (RING, "484 Incomplete", "", 484),
}
OFF: dict[str, tuple[tuple[str, ...], str, set[int]]] = {
    "486_with_busy_off": ((), "486 Busy Here", {486}),
    "603_with_busy_off": (RING, "603 Decline", {603, 486}),
    "480_after_ringing_with_no_answer_off": (RING, "480 Gone", {480}),
    "480_before_ringing_with_unreachable_off": ((), "480 Gone", {480}),
    "404_with_unreachable_off": ((), "404 Not Found", {404, 480}),
    "302_without_forwards": ((), "302 Moved", {480}),
    "302_after_ringing_without_forwards": (RING, "302 Moved", {480}),
    "405_without_forwards": ((), "405 Method", {480}),
    "487_without_forwards": (RING, "487 Terminated", {480}),
    "491_without_forwards": (RING, "491 Pending", {486}),
    "503_with_unreachable_off": ((), "503 Unavailable", {500, 480}),
}


async def expect_forward(
    setup: Setup, line: str, targets: Mapping[str, str], condition: str
) -> None:
    """The caller is answered at the target of that condition, and nowhere else."""
    seen = await setup.sipp_call(script.answered_call(line, numbers.caller_number()))
    reached = {name for name, number in targets.items() if setup.reached(number)}
    assert reached == {condition}
    await setup.ended(
        seen.sent[0].call_id,
        condition=condition,
        destination="number",
        outcome="answered",
        target=targets[condition],
    )


def row(after: tuple[str, ...], status: str, header: str, expected: str | int) -> Scenario:
    async def scenario(setup: Setup) -> None:
        targets, forwards = all_to_numbers()
        headers = [header] if header else []
        line, phone = await setup.sipp_phone(
            script.refusing_phone(status, after=after, headers=headers), forwards=forwards
        )
        if isinstance(expected, str):
            await expect_forward(setup, line, targets, expected)
        else:
            seen = await setup.sipp_call(
                script.refused_call(line, numbers.caller_number(), expected)
            )
            assert not [n for n in targets.values() if setup.reached(n)]
            last = seen.answer(expected)
            assert not last.has("WWW-Authenticate")
            assert not last.has("Proxy-Authenticate")
            await setup.ended(seen.sent[0].call_id, condition="none", code=expected)
        await phone.finish()

    return scenario


def off_row(after: tuple[str, ...], status: str, allowed: set[int]) -> Scenario:
    async def scenario(setup: Setup) -> None:
        phone = await setup.endpoint()
        line = setup.line(to=[phone.uri()])
        call = await setup.call(line)
        ring = await phone.incoming()
        for provisional in after:
            ring.respond(int(provisional.split()[0]))
        ring.respond(int(status.split()[0]))
        assert (await call.final()).code in allowed
        await setup.ended(call.call_id, condition="none", destination="line")

    return scenario


for _name, _row in ROWS.items():
    batch.add(_name, row(*_row))
for _name, _off in OFF.items():
    batch.add(_name, off_row(*_off))


@batch
async def ringing_for_after_s_is_no_answer(setup: Setup) -> None:
    targets, forwards = all_to_numbers()
    line, phone = await setup.sipp_phone(script.cancelled_phone(), forwards=forwards)
    await expect_forward(setup, line, targets, "no_answer")
    await phone.finish()


@batch
async def early_media_for_after_s_is_no_answer(setup: Setup) -> None:
    targets, forwards = all_to_numbers()
    line, phone = await setup.sipp_phone(script.cancelled_phone(after=EARLY), forwards=forwards)
    await expect_forward(setup, line, targets, "no_answer")
    await phone.finish()


@batch
async def no_ringing_in_pre_ringing_s_is_unreachable(setup: Setup) -> None:
    targets, forwards = all_to_numbers()
    line, phone = await setup.sipp_phone(
        script.cancelled_phone(after=("100 Trying",)), forwards=forwards
    )
    await expect_forward(setup, line, targets, "unreachable")
    await phone.finish()


@batch
async def only_181_in_pre_ringing_s_is_unreachable(setup: Setup) -> None:
    targets, forwards = all_to_numbers()
    line, phone = await setup.sipp_phone(
        script.cancelled_phone(after=("181 Forwarded",)), forwards=forwards
    )
    await expect_forward(setup, line, targets, "unreachable")
    await phone.finish()


@batch
async def a_silent_phone_is_unreachable(setup: Setup) -> None:
    """No response, not even 100: so there is no CANCEL either."""
    phone = await setup.endpoint()
    targets, forwards = all_to_numbers()
    line = setup.line(to=[phone.uri()], forwards=forwards)
    await expect_forward(setup, line, targets, "unreachable")


@batch
async def a_closed_port_is_unreachable(setup: Setup) -> None:
    targets, forwards = all_to_numbers()
    line = setup.line(to=[f"sip:phone@127.0.0.1:{free_port()}"], forwards=forwards)
    await expect_forward(setup, line, targets, "unreachable")


@batch
async def an_unresolvable_contact_is_unreachable(setup: Setup) -> None:
    targets, forwards = all_to_numbers()
    line = setup.line(to=["sip:phone@no-such-host.invalid:5060"], forwards=forwards)
    await expect_forward(setup, line, targets, "unreachable")


@batch
async def an_expired_registration_is_unreachable(setup: Setup) -> None:
    phone = await setup.endpoint()
    targets, forwards = all_to_numbers()
    line = setup.line(forwards=forwards)
    setup.register(line, phone.uri(), expires_s=-1)
    await expect_forward(setup, line, targets, "unreachable")
    assert not phone.invited()


@batch
async def where_a_phone_redirects_to_is_never_dialled(setup: Setup) -> None:
    """Neither one Contact nor several, before or after it rings, with a forward or without."""
    gateway = f"127.0.0.1:{setup.engine.ports['number']}"
    for after, condition in ((), "unreachable"), (RING, "no_answer"), (EARLY, None):
        fraud, more = numbers.outside_number(), numbers.outside_number()
        contacts = [f"Contact: <sip:{fraud}@{gateway}>;q=0.9", f"Contact: <sip:{more}@{gateway}>"]
        targets, forwards = all_to_numbers()
        line, phone = await setup.sipp_phone(
            script.refusing_phone("302 Moved", after=after, headers=contacts),
            forwards=forwards if condition else {},
        )
        if condition:
            await expect_forward(setup, line, targets, condition)
        else:
            await setup.sipp_call(script.refused_call(line, numbers.caller_number(), 480))
        await phone.finish()
        assert not setup.reached(fraud)
        assert not setup.reached(more)


@batch
async def a_caller_who_cancels_is_never_forwarded(setup: Setup) -> None:
    targets, forwards = all_to_numbers()
    line, phone = await setup.sipp_phone(script.cancelled_phone(), forwards=forwards)
    seen = await setup.sipp_call(script.cancelled_call(line, numbers.caller_number(), after=180))
    await phone.finish()
    assert not [n for n in targets.values() if setup.reached(n)]
    await setup.ended(seen.sent[0].call_id, condition="none", outcome="cancelled")


@pytest.fixture(scope="module")
def outcomes(running_engine: RunningEngine, request: pytest.FixtureRequest) -> Outcomes:
    @asynccontextmanager
    async def open_set() -> AsyncIterator[Callable[[], Setup]]:
        async with running_engine.sipp_servers() as sipps:
            yield lambda: Setup(running_engine, sipps=sipps)

    return batch.play(open_set, names_in(request))


@pytest.mark.parametrize("name", batch.names)
def test_what_the_phone_does_decides(name: str, outcomes: Outcomes) -> None:
    outcomes.check(name)
