"""Checks of forwards that all scenarios share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.scenarios.endpoint import Call
from tests.scenarios.message import Message, address_of, parameters, user_of
from tests.scenarios.setup import ANSWER_BYTES

CAUSE = {"unconditional": "302", "busy": "486", "no_answer": "408", "unreachable": "503"}
REASON = {
    "unconditional": "unconditional",
    "busy": "user-busy",
    "no_answer": "no-answer",
    "unreachable": "unavailable",
}


def check_diversion(invite: Message, hops: Sequence[tuple[str, str]]) -> None:
    """The Diversion headers are exactly these (line, condition) hops, newest first."""
    values = invite.values("Diversion")
    got = [(user_of(value), parameters(value).get("reason")) for value in values]
    assert got == [(line, REASON[condition]) for line, condition in hops], values
    assert all(parameters(value).get("counter", "1").isdigit() for value in values), values
    assert sum(int(parameters(value).get("counter", "1")) for value in values) == len(hops)


def check_history(invite: Message, line: str, target: str, condition: str) -> None:
    """History-Info ends with the line that forwards, then the target with its cause."""
    values = invite.values("History-Info")
    assert len(values) >= 2, values
    before, last = values[-2:]
    assert user_of(before) == line, values
    assert user_of(last) == target, values
    indexes = [parameters(value)["index"] for value in values]
    assert indexes[-1] == f"{indexes[-2]}.1", values
    assert cause_of(last) == CAUSE[condition], values


def cause_of(value: str) -> str:
    """The `cause` of a History-Info entry: a parameter of its URI (RFC 4458, RFC 7544)."""
    return parameters(";" + address_of(value).partition(";")[2]).get("cause", "")


def check_deposit(invite: Message, mailbox: str, condition: str) -> None:
    """The Request-URI has the mailbox and the cause (RFC 4458)."""
    given = parameters(";" + invite.uri.partition(";")[2])
    assert mailbox.lstrip("+") in given.get("target", ""), invite.uri
    assert given.get("cause") == CAUSE[condition], invite.uri


def check_one_tag(responses: Sequence[Message]) -> None:
    """Every response of a call above 100 carries the same To tag."""
    tags = {m.to_tag for m in responses if m.code > 100 and m.method == "INVITE"}
    assert len(tags) == 1, responses
    assert tags != {""}, responses


async def connect(caller: Call, phone: Call, *, ring: bool = True) -> Message:
    """The phone rings and answers, the caller acknowledges; returns the caller's 200."""
    if ring:
        phone.respond(180)
        await caller.receive(180)
    phone.respond(200, body=ANSWER_BYTES)
    answer = await caller.receive(200)
    caller.ack(answer)
    await phone.receive("ACK")
    return answer


async def part(first: Call, second: Call) -> None:
    """The first side hangs up; the second receives the BYE."""
    await first.hang_up()
    await second.receive("BYE")


async def call_off(caller: Call, phone: Call) -> None:
    """The phone rings and the caller cancels; the call ends on both sides."""
    phone.respond(180)
    await caller.receive(180)
    caller.cancel()
    await caller.receive(487)
    await phone.receive("CANCEL")
    await phone.receive("ACK")


async def refuse(phone: Call, code: int, **more: Any) -> None:
    """The phone refuses and its refusal is acknowledged."""
    phone.respond(code, **more)
    await phone.receive("ACK")
