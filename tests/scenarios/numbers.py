"""Telephone numbers that are new in this run, valid in the French plan."""

from __future__ import annotations

import itertools

_lines = itertools.count(1)
_mobiles = itertools.count(1)
_outside = itertools.count(1)
_callers = itertools.count(1)


def line_number() -> str:
    """A number for a line (09 72 1x xx xx)."""
    return f"+339721{next(_lines):05d}"


def mobile_number() -> str:
    """A French mobile that is not a line."""
    return f"+3361230{next(_mobiles):04d}"


def outside_number() -> str:
    """A landline that is not a line of the engine."""
    return f"+33186{next(_outside):06d}"


def caller_number() -> str:
    """A landline, for callers."""
    return f"+33140{next(_callers):06d}"
