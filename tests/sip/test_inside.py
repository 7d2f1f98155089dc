"""A short run of `tests.campaigns.inside`, in both builds: hostile callers and phones."""

from __future__ import annotations

from tests.campaigns import inside


def test_a_crowd_of_hostile_callers_and_phones_leaves_nothing_behind() -> None:
    summary, wrong = inside.run(1500, 20_261_129)
    print(summary)
    assert wrong == {}
