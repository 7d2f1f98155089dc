"""Transfers in progress: how long they are kept; and the order in which lines pay."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from engine import carried_forwards
from engine import transfers as module
from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over
from engine.records.record import ForwardRecord
from engine.transfers import LIFE_S, Owed, Transfers
from rules.line_document import load_line
from rules.numbers import Numbering
from store.lines import Unavailable

MOBILE = "+33612345678"


def a_forward(line: str, condition: str) -> ForwardRecord:
    return ForwardRecord(line, condition, "number", MOBILE, "out_of_plan", 0, "acme")


async def test_a_transfer_whose_call_never_comes_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    nothing: Any = SimpleNamespace()
    transfers = Transfers(nothing, nothing, lambda *_: None, clock=lambda: now)
    transfers.reported("transfer:a:b")
    now = LIFE_S + 1
    assert await transfers._take("a", "b") is None
    assert len(transfers) == 0
    for n in range(5):
        now += LIFE_S / 2
        transfers.reported(f"transfer:a:{n}")
    assert len(transfers) == 2
    monkeypatch.setattr(module, "_MOST", 3)
    for n in range(10):
        transfers.reported(f"transfer:c:{n}")
        transfers.reported(f"transfer:c:{n}")  # again
    assert list(transfers._known) == [f"transfer:c:{n}" for n in (7, 8, 9)]


async def test_a_second_refer_through_another_worker_is_known_as_long_as_the_first() -> None:
    now, owed = 0.0, Owed([a_forward("+33972101009", "none")], "")

    async def getdel(_key: str) -> bytes:
        return module._encode(owed)

    services: Any = SimpleNamespace(redis=SimpleNamespace(getdel=getdel))
    transfers = Transfers(services, services, lambda *_: None, clock=lambda: now)
    transfers.reported("transfer:a:b")
    now = LIFE_S - 1
    transfers.reported("transfer:a:b")
    now += LIFE_S - 1
    assert await transfers._take("a", "b") == owed


async def test_calls_ask_for_transfers_that_redis_may_not_have_reported() -> None:
    """Its stream was interrupted: the REFER reached another worker meanwhile."""
    now, age_s, asked = 0.0, 0.0, list[str]()
    owed = Owed([a_forward("+33972101009", "none")], "")

    async def getdel(key: str) -> bytes:
        asked.append(key)
        return module._encode(owed)

    store = SimpleNamespace(redis_up=True, age_s=lambda: age_s)
    services: Any = SimpleNamespace(store=store, redis=SimpleNamespace(getdel=getdel))
    transfers = Transfers(services, services, lambda *_: None, clock=lambda: now)
    assert not transfers
    assert await transfers._take("a", "b") is None
    age_s = 0.1  # the stream is off
    assert transfers
    assert await transfers._take("a", "b") == owed
    age_s = 0.0
    assert not transfers
    transfers.missed()  # it is on again
    assert transfers
    assert await transfers._take("a", "b") == owed
    assert await transfers._take("", "b") is None
    store.redis_up = False
    assert not transfers
    store.redis_up, now = True, LIFE_S + 1
    assert not transfers
    assert asked == ["transfer:a:b"] * 2


async def test_a_call_that_ended_meanwhile_counts_on_no_payer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first line is counted, the second may not pay."""
    facts = CallFacts("1", "c", MOBILE, "+33972101001")
    released: list[bool] = []
    path: Any = SimpleNamespace(end=lambda: released.append(True))

    async def admit(_services: Any, _path: Any, forward: ForwardRecord) -> ForwardRecord:
        facts.ended = facts.clock()
        if forward.line == "second":
            raise Over(Outcome.REJECTED, 403, "suspended")
        return forward

    async def take(*_: Any, **__: Any) -> Owed:
        return Owed([a_forward("first", "none"), a_forward("second", "none")], "")

    nothing: Any = SimpleNamespace()
    transfers = Transfers(nothing, nothing, lambda *_: None)
    monkeypatch.setattr(carried_forwards, "admit", admit)
    monkeypatch.setattr(transfers, "_take", take)
    with pytest.raises(Over):
        await transfers.carry(facts, path)
    assert released == [True]
    assert facts.forwards == []


async def test_a_call_that_follows_a_transfer_takes_the_payers_of_no_other() -> None:
    """Two callers with one number are transferred to the same target within seconds."""
    facts = CallFacts("1", "c", MOBILE, "+33972101001")
    facts.is_transferred = True
    nothing: Any = SimpleNamespace()
    transfers = Transfers(nothing, nothing, lambda *_: None)
    transfers.reported("transfer::+33972101001")
    assert await transfers.carry(facts, nothing) is None
    assert transfers.expect("", "+33972101001")


PAYER = "+33972101002"
ENDS = {"2020": False, "2099": True}  # the year, and whether the line still pays


@pytest.mark.parametrize("of_profile", [False, True])
@pytest.mark.parametrize(("year", "pays"), ENDS.items())
async def test_a_forward_that_has_ended_pays_for_no_transfer(
    year: str, pays: bool, of_profile: bool
) -> None:
    """It is off, as for any other call; so are those of a profile that is used no more."""
    until = f"{year}-01-01T08:00:00+01:00"
    mailbox: dict[str, Any] = {"on": True, "to": {"kind": "voicemail"}}
    ending = {"forwards": {"busy": mailbox | ({} if of_profile else {"until": until})}}
    document: dict[str, Any] = {"number": PAYER, "fleet": "acme"}
    if of_profile:
        document |= {"profiles": {"a": ending}, "profile": [{"use": "a", "until": until}]}
    else:
        document |= ending
    line = load_line(json.dumps(document), PAYER, Numbering("FR"))

    async def look_up(_number: str) -> Any:
        return SimpleNamespace(line=line)

    fleet = SimpleNamespace(suspended=False, countries=None, cap_left_s=lambda _now: None)
    services: Any = SimpleNamespace(
        store=SimpleNamespace(look_up=look_up), fleets=SimpleNamespace(find=lambda _name: fleet)
    )

    async def count_forward(_number: str) -> None: ...

    path: Any = SimpleNamespace(count_forward=count_forward)
    forward = ForwardRecord(PAYER, "busy", "voicemail", PAYER, "free", 0, "acme")
    if pays:
        assert (await carried_forwards.admit(services, path, forward)).line == PAYER
        return
    with pytest.raises(Over) as refused:
        await carried_forwards.admit(services, path, forward)
    assert refused.value.why == "forward_off"


async def test_a_call_whose_payer_cannot_be_read_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As for a payer that continues."""

    async def look_up(number: str) -> Any:
        raise Unavailable(number)

    async def take(*_: Any, **__: Any) -> Owed:
        return Owed([], PAYER)

    services: Any = SimpleNamespace(store=SimpleNamespace(look_up=look_up))
    transfers = Transfers(services, services, lambda *_: None)
    monkeypatch.setattr(transfers, "_take", take)
    facts, path = CallFacts("1", "c", MOBILE, "+33972101001"), SimpleNamespace()
    with pytest.raises(Over) as refused:
        await transfers.carry(facts, path)  # type: ignore[arg-type]
    assert (refused.value.code, refused.value.why) == (503, "rules_unavailable")


def test_lines_pay_in_the_order_of_the_call_s_way() -> None:
    """The report about the caller's side may come last, when the call is already forwarded."""
    facts = CallFacts("1", "c", MOBILE, "+33972101001")
    facts.forwards.append(a_forward("own", "busy"))
    facts.pay([a_forward("taken over", "none")])
    facts.pay([a_forward("caller's", "none")], for_caller=True)
    facts.pay([a_forward("sent on", "none")])
    assert [f.line for f in facts.forwards] == ["caller's", "taken over", "sent on", "own"]
    assert facts.brought == 1
    assert facts.condition == "busy"
