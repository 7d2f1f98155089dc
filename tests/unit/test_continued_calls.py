"""Which calls of another process are continued."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engine.call_entry import ActiveCall
from engine.continued_calls import HANDED_OVER_S, ContinuedCalls

TAKEOVER_S = 30.0


def left_by(age_s: float, *, handed_over: bool) -> Any:
    """What a process left so long ago; `begun` says whether somebody began to continue it."""
    attempts: list[float] = []
    return SimpleNamespace(
        name="calls-0-a.journal",
        active=[ActiveCall("0-a-1", "id", "", "+33972101001", 0.0, None, None, None, [], [])],
        lost=0, attempts=0, age_s=age_s, is_handed_over=handed_over,
        attempt=lambda: attempts.append(age_s), begun=attempts,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("age_s", "handed_over", "continued"),
    [
        (TAKEOVER_S - 1, False, True),
        (TAKEOVER_S + 1, False, False),
        (TAKEOVER_S + 1, True, True),
        (HANDED_OVER_S + 1, True, False),  # its replacement has not started
    ],
)
async def test_calls_that_nobody_served_for_long_are_not_continued(
    age_s: float, handed_over: bool, continued: bool
) -> None:
    services: Any = SimpleNamespace(
        config=SimpleNamespace(timers=SimpleNamespace(takeover_s=TAKEOVER_S))
    )
    journal: Any = SimpleNamespace(continued=lambda _: None)
    tasks: Any = SimpleNamespace(start=lambda work: work.close())
    calls: Any = SimpleNamespace()
    left = left_by(age_s, handed_over=handed_over)
    await ContinuedCalls(services, calls, journal, tasks).take([left])
    assert bool(left.begun) is continued
