"""Transfers under way: how long they are remembered; and the order in which lines pay."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engine import transfers as module
from engine.call_facts import CallFacts
from engine.records.record import ForwardRecord
from engine.transfers import LIFE_S, Transfers

MOBILE = "+33612345678"


def a_forward(line: str, condition: str) -> ForwardRecord:
    return ForwardRecord(line, condition, "number", MOBILE, "out_of_plan", 0, "acme")


async def test_a_transfer_whose_call_never_comes_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    nothing: Any = SimpleNamespace()
    transfers = Transfers(nothing, nothing, lambda *_: None, clock=lambda: now)
    transfers.heard("transfer:a:b")
    now = LIFE_S + 1
    assert await transfers._take("a", "b") is None
    assert len(transfers) == 0
    for n in range(5):
        now += LIFE_S / 2
        transfers.heard(f"transfer:a:{n}")
    assert len(transfers) == 2
    monkeypatch.setattr(module, "_MOST", 3)
    for n in range(10):
        transfers.heard(f"transfer:c:{n}")
        transfers.heard(f"transfer:c:{n}")  # again
    assert list(transfers._known) == [f"transfer:c:{n}" for n in (7, 8, 9)]


def test_lines_pay_in_the_order_of_the_call_s_way() -> None:
    """The news of the caller's side may come last, when the call has been forwarded already."""
    facts = CallFacts("1", "c", MOBILE, "+33972101001")
    facts.forwards.append(a_forward("own", "busy"))
    facts.pay([a_forward("taken over", "none")])
    facts.pay([a_forward("caller's", "none")], for_caller=True)
    facts.pay([a_forward("sent on", "none")])
    assert [f.line for f in facts.forwards] == ["caller's", "taken over", "sent on", "own"]
    assert facts.brought == 1
    assert facts.condition == "busy"
