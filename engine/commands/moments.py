"""Reads and prints times for commands in the zone of `numbering.timezone`, whatever the zone of the
machine, so that a printed time can be used as input."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from engine.commands.context import Wrong

_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read_when(name: str, text: str, zone: ZoneInfo, now: float | None = None) -> float:
    """A moment in unix seconds.

    Args:
        now: unix seconds, from which a time ago ("2h") is counted; None: the moment may be in the
            future, and a time ago is refused, since it could be meant either way.

    Raises:
        Wrong: it is no moment.
    """
    ago = None if now is None else _AGO.fullmatch(text)
    if ago and now is not None:
        return max(0.0, now - float(ago[1]) * _UNIT_S[ago[2]])
    if re.fullmatch(r"[0-9]{9,11}(\.[0-9]+)?", text):
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        past = "" if now is None else "a time ago such as 2h, or "
        expected = f"expected {past}a date and time such as 2026-11-25T14:30"
        raise Wrong(f"{name}: {expected} (got {text!r})") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()


def head(name: str, zone: ZoneInfo) -> str:
    """The header of a column of times, with the zone."""
    return f"{name} ({zone.key})"


def shown(unix: object, zone: ZoneInfo) -> str:
    """To the second, such as "2026-11-25 14:30:05"; empty for an invalid time."""
    moment = _moment(unix, zone)
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else ""


def day(unix: object, zone: ZoneInfo) -> str:
    """Such as "2026-11-25"; empty for an invalid time."""
    return shown(unix, zone)[:10]


def with_iso(times: Mapping[str, Any], names: Iterable[str], zone: ZoneInfo) -> dict[str, Any]:
    """`times` and, for each of the times `names` in it (unix seconds), the same as `<name>_at` in
    ISO 8601 with the zone's offset; None where there is none."""
    more = {f"{name}_at": iso(times.get(name), zone) for name in names if name in times}
    return {**times, **more}


def iso(unix: object, zone: ZoneInfo) -> str | None:
    """In ISO 8601 with the zone's offset; None for an invalid time."""
    moment = _moment(unix, zone)
    return moment.isoformat(timespec="milliseconds") if moment else None


def _moment(unix: object, zone: ZoneInfo) -> datetime | None:
    if isinstance(unix, bool) or not isinstance(unix, int | float):
        return None
    try:
        return datetime.fromtimestamp(unix, zone)
    except (ValueError, OverflowError, OSError):
        return None
