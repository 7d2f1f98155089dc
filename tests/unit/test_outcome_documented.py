"""The outcome table in docs/signalling.md matches the code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rules.model import Condition
from rules.ringing_outcome import TABLE

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "signalling.md").read_text()


def spans(codes: Iterable[int]) -> str:
    """ "402, 403, 436-440": neighbours joined."""
    found: list[list[int]] = []
    for code in sorted(codes):
        if found and found[-1][-1] == code - 1:
            found[-1].append(code)
        else:
            found.append([code])
    return ", ".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in found
    )


def result(of: Condition | int) -> str:
    if isinstance(of, Condition):
        return of.value.replace("_", " ")
    return str(of) if of else "passed on"


def test_the_page_has_every_row_with_its_reason() -> None:
    for row in TABLE:
        line = f"| {spans(row.codes)} | {result(row.before)} | {result(row.after)} | {row.why} |"
        assert line in PAGE
