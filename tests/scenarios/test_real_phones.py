"""Independent phones (baresip): they register, call, are forwarded, and talk.

Each scenario runs over UDP and TCP, directly with the engine and through Kamailio as shipped in
deploy/kamailio. Then the engine trusts only Kamailio, and recognises the phones by their Path.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.scenarios.kamailio import Kamailio
from tests.scenarios.phones import Front, Phones, open_front
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import RunningEngine, Setup, to_number
from tests.scenarios.sipp import HOST, free_port

EDGE = "127.0.0.3"


@pytest.fixture(
    scope="module", params=["udp", "tcp", "udp_through_kamailio", "tcp_through_kamailio"]
)
def front(
    request: pytest.FixtureRequest,
    shared_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    directory = tmp_path_factory.mktemp("engine")
    transport, through, _ = request.param.partition("_")
    kind = socket.SOCK_STREAM if transport == "tcp" and not through else socket.SOCK_DGRAM
    server, dead = f"{HOST}:{free_port(kind)}", f"{HOST}:{free_port()}"
    kamailio = Kamailio(directory, [server, dead], callers=[], host=EDGE) if through else None
    with open_front(directory, shared_redis, server, kamailio, transport) as front:
        yield front


@pytest.fixture(scope="module")
def running_engine(front: Front) -> RunningEngine:
    return front.running_engine


@pytest.fixture
def phones(setup: Setup, front: Front) -> Phones:
    return Phones(setup, front)


async def test_a_phone_registers_is_called_and_audio_flows_both_ways(
    setup: Setup, phones: Phones
) -> None:
    phone = await phones.line()
    caller = await phones.line()
    await caller.dial(phone.number)
    assert caller.number in await phone.rings()
    await caller.event("CALL_RINGING")
    await phone.command("accept")
    for side in (caller, phone):
        await side.talks()
    await caller.command("sndcode", "7")  # in RTP, as negotiated by SDP
    await phone.event("CALL_DTMF_START")
    await caller.command("hold")
    await phone.is_sent("a=sendonly")
    await caller.resume()
    await phone.command("hangup")
    await caller.closed()
    (record,) = await setup.records_of(phone.number)
    assert record["outcome"] == "answered"


async def test_early_media_of_a_phone_reaches_the_caller(setup: Setup, phones: Phones) -> None:
    """Early media (183 with SDP); then the caller gives up."""
    phone = await phones.line("answermode=early")
    caller = await phones.line()
    await caller.dial(phone.number)
    for seen in ("CALL_PROGRESS", "CALL_REMOTE_SDP"):
        await caller.event(seen)
    await caller.command("hangup")
    await phone.closed()
    (record,) = await setup.records_of(phone.number)
    assert record["outcome"] == "cancelled"


async def test_a_phone_that_is_busy_is_forwarded(setup: Setup, phones: Phones) -> None:
    """The user declines: baresip sends 486. The call goes to a colleague."""
    colleague = await phones.line("answermode=auto")
    forwards = {"busy": to_number(colleague.number)}
    phone = await phones.line(forwards=forwards)
    caller = await phones.line()
    await caller.dial(phone.number)
    await phone.rings()
    await phone.command("hangup")
    for side in (caller, colleague):
        await side.talks()
    await caller.command("hangup")
    await colleague.closed()


async def test_a_phone_whose_line_has_a_call_already_is_not_rung(
    setup: Setup, phones: Phones
) -> None:
    colleague = await phones.line("answermode=auto")
    forwards = {"busy": to_number(colleague.number)}
    phone = await phones.line("answermode=auto", forwards=forwards, max_calls=1)
    callers = [await phones.line() for _ in range(2)]
    for caller, callee in zip(callers, (phone, colleague), strict=True):
        await caller.dial(phone.number)
        for side in (caller, callee):
            await side.talks()
    assert "CALL_INCOMING" not in phone.said()[1:], phone
    for caller in callers:
        await caller.command("hangup")


async def test_a_phone_that_nobody_picks_up_is_forwarded(setup: Setup, phones: Phones) -> None:
    colleague = await phones.line("answermode=auto")
    forwards = {"no_answer": to_number(colleague.number, after_s=5)}
    phone = await phones.line(forwards=forwards)
    caller = await phones.line()
    await caller.dial(phone.number)
    await phone.rings()
    await phone.closed(8)
    for side in (caller, colleague):
        await side.talks()
    await caller.command("hangup")
    await colleague.closed()


async def test_a_phone_hands_its_call_over_to_a_colleague(setup: Setup, phones: Phones) -> None:
    colleague = await phones.line("answermode=auto")
    phone = await phones.line("answermode=auto")
    caller = await phones.line()
    await caller.dial(phone.number)
    await phone.talks()
    await phone.command("transfer", f"sip:{colleague.number}@{phones.server}")
    await colleague.talks()
    await phone.closed()
    await caller.command("hangup")
    await colleague.closed()


async def test_a_phone_changes_its_forwards_by_star_codes(setup: Setup, phones: Phones) -> None:
    """A code is confirmed by a call that is answered and ended at once, and refused by one that is
    not answered. The phone is known by its address, behind Kamailio by the asserted identity."""
    colleague = await phones.line("answermode=auto")
    phone, caller = await phones.line(), await phones.line()
    await phone.dial(f"*21*{colleague.number}%23")
    await phone.event("CALL_ESTABLISHED")
    await phone.closed()
    await caller.dial(phone.number)
    for side in (caller, colleague):
        await side.talks()
    await caller.command("hangup")
    await colleague.closed()
    await phone.dial("*%2321%23")  # the status
    await phone.event("CALL_ESTABLISHED")
    await phone.closed()
    await phone.dial("%2321%23")
    await phone.event("CALL_ESTABLISHED")
    await phone.closed()
    await phone.dial("*%2321%23")
    assert f"480 unconditional to number {colleague.number}: off" in await phone.closed()
    await caller.dial(phone.number)
    assert caller.number in await phone.rings()
    await caller.event("CALL_RINGING")
    await caller.command("hangup")
    await phone.closed()
