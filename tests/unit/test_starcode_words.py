"""The words that a phone shows after a star code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.starcode import described
from rules.line_document import load_line
from rules.model import Condition
from rules.numbers import Numbering

LINE, MOBILE = "+33972101001", "+33612345678"
NOW = 1796040000.0  # 2026-11-30
ENDED, ENDS = (
    {"on": True, "to": {"kind": "number", "number": MOBILE}, "until": until}
    for until in ("2026-11-01T08:00:00+01:00", "2026-12-07T08:00:00+01:00")
)


@pytest.mark.parametrize(
    ("busy", "words"),
    [
        (ENDS, f"busy to number {MOBILE}: on"),
        (ENDED, f"busy to number {MOBILE}: off"),
        ([ENDED, ENDS], "busy: 1 of 2 forwards on"),
        (ENDED | {"to": {"kind": "reject"}}, "busy: refuses callers: off"),
        ({"on": False}, "busy: none"),
    ],
)
def test_a_forward_that_has_ended_is_off(busy: Any, words: str) -> None:
    raw = json.dumps({"number": LINE, "fleet": "acme", "forwards": {"busy": busy}})
    line = load_line(raw, LINE, Numbering("FR"))
    assert described(line, Condition.BUSY, NOW) == words
