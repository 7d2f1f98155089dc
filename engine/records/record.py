"""The record of a call: its stream entry and the seconds that it adds to `usage`.

docs/cdr.md describes every field. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
from msgspec import structs

from rules.fleet import is_name
from rules.shared_document import LATEST
from store.keys import fleet_usage_key, usage_key


class LegRecord(msgspec.Struct, gc=False):
    """One outgoing leg. Times in unix seconds, None = never; `code` 0 = no final answer."""

    role: str  # line | voicemail | fax | number
    number: str
    uri: str
    code: int
    q850: int | None
    started: float
    rang: float | None
    answered: float | None
    ended: float | None
    condition: str  # the forward that placed this leg, "none" for the called line's own


class ForwardRecord(msgspec.Struct, gc=False):
    """One forward that was carried out. `line` is the forwarding line, which pays."""

    line: str
    condition: str
    kind: str
    number: str
    billing: str
    seconds: int  # conversation, whole seconds; 0 if the target did not answer
    fleet: str = ""  # the line's
    plan_s: int | None = None  # the line's plan to mobiles, seconds a month; None = it has none
    at: float | None = None  # when it was carried out, unix seconds
    rule: int = 0  # its place in the list of its condition's forwards; 0 = there is no list


class PreventedRecord(msgspec.Struct, gc=False):
    """One forward that is on, was due and did not happen: whose, in which condition, and why
    (`rules.decide.PREVENTED`)."""

    line: str
    condition: str  # also_ring: what rings beside the line's phones
    reason: str


class CallRecord(msgspec.Struct, gc=False):
    """One call. Times in unix seconds, None = never happened."""

    id: str
    call_id: str
    caller: str
    called: str
    received: float
    rang: float | None
    answered: float | None
    ended: float
    condition: str
    destination: str
    target: str
    outcome: str
    code: int
    q850: int | None
    why: str
    seconds: int
    payer: str
    billing: str
    forwards: list[ForwardRecord]
    legs: list[LegRecord]
    decided: float | None = None
    dialled: float | None = None
    forwarded: float | None = None
    out_of_plan_s: int = 0
    caller_withheld: str = ""  # for operators only, and in no log
    caller_by: str = ""  # asserted | registered | from
    prevented: list[PreventedRecord] = []
    takeovers: int = 0  # how often another process has continued the call

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in FIELDS if name != "caller_withheld")
        return f"CallRecord({', '.join(shown)})"


FIELDS = CallRecord.__struct_fields__
_NESTED = ("forwards", "legs", "prevented")
_MAY_BE_EMPTY = ("rang", "answered", "q850", "decided", "dialled", "forwarded")
_TIMES = ("received", "rang", "answered", "ended", "decided", "dialled", "forwarded")


Addition = tuple[str, str, str, int, int]
"""What to add to `usage`: the line's key, its fleet's ("" = none), the billing class, seconds, and
the seconds of the line's plan a month (-1 = none): a deducted call's seconds beyond them are out of
plan."""


class Entry(msgspec.Struct, array_like=True, gc=False):
    """A record ready to be written: the values of `FIELDS` as text, and what to add to `usage`.
    `day` is that of its end, in days since 1970."""

    values: list[str]
    usage: list[Addition]
    day: int = 0


class Months:
    """The months of one time zone. Caches the last month, nearly always the one needed."""

    def __init__(self, timezone: str) -> None:
        self._zone = ZoneInfo(timezone)
        self._name = ""
        self._begin = self._end = 0.0

    def split(self, start: float, seconds: int) -> list[tuple[str, int]]:
        """Divide `seconds` of conversation from `start` (unix seconds) among months ("2026-11").

        A second divided by midnight belongs to the new month. The parts add up to `seconds`.
        """
        shares = []
        while seconds > 0:
            if not self._begin <= start < self._end:
                self._find(start)
            share = min(seconds, int(self._end - start))
            if share:
                shares.append((self._name, share))
                seconds -= share
            start = self._end
        return shares

    def _find(self, instant: float) -> None:
        here = datetime.fromtimestamp(instant, self._zone)
        year, month = here.year, here.month
        following = (year + 1, 1) if month == 12 else (year, month + 1)
        self._name = f"{year:04d}-{month:02d}"
        self._begin = datetime(year, month, 1, tzinfo=self._zone).timestamp()
        self._end = datetime(*following, 1, tzinfo=self._zone).timestamp()


def _instant(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


_encode = msgspec.json.Encoder().encode


def to_entry(record: CallRecord, months: Months) -> Entry:
    """The stream entry of a record. Raises TypeError or ValueError for an invalid record.

    Text that is not valid Unicode (a peer may send any bytes) is written with escapes.
    """
    try:
        values = _values(record)
        "".join(values).encode()
    except UnicodeEncodeError:
        values = _values(_readable(record))
    return Entry(values, _usage(record, months), int(record.ended // 86400))


def _usage(record: CallRecord, months: Months) -> list[Addition]:
    usage: list[Addition] = []
    for forward in record.forwards:
        if forward.seconds <= 0:
            continue
        start = record.answered
        if start is None:
            start = record.ended - forward.seconds
        plan_s = -1 if forward.plan_s is None else forward.plan_s
        for month, seconds in months.split(start, forward.seconds):
            line = usage_key(forward.line, month)
            fleet = fleet_usage_key(forward.fleet, month) if is_name(forward.fleet) else ""
            usage.append((line, fleet, forward.billing, seconds, plan_s))
    return usage


def _values(record: CallRecord) -> list[str]:
    # In the order of FIELDS. Written out because it runs for every call.
    return [
        record.id,
        record.call_id,
        record.caller,
        record.called,
        f"{record.received:.3f}",
        _instant(record.rang),
        _instant(record.answered),
        f"{record.ended:.3f}",
        record.condition,
        record.destination,
        record.target,
        record.outcome,
        str(record.code),
        "" if record.q850 is None else str(record.q850),
        record.why,
        str(record.seconds),
        record.payer,
        record.billing,
        _encode(record.forwards).decode() if record.forwards else "[]",
        _encode(record.legs).decode() if record.legs else "[]",
        _instant(record.decided),
        _instant(record.dialled),
        _instant(record.forwarded),
        str(record.out_of_plan_s),
        record.caller_withheld,
        record.caller_by,
        _encode(record.prevented).decode() if record.prevented else "[]",
        str(record.takeovers),
    ]


def _readable(record: CallRecord) -> CallRecord:
    def clean(value: object) -> object:
        if isinstance(value, str):
            return value.encode("utf-8", "backslashreplace").decode()
        if isinstance(value, (LegRecord, ForwardRecord, PreventedRecord, CallRecord)):
            parts = {name: clean(part) for name, part in structs.asdict(value).items()}
            return structs.replace(value, **parts)
        if isinstance(value, list):
            return [clean(item) for item in value]
        return value

    cleaned = clean(record)
    assert isinstance(cleaned, CallRecord)
    return cleaned


def _nested(name: str, text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise ValueError(f"cdr entry: {name}: is nested too deeply") from None


def read_entry(entry: Mapping[str, str] | Mapping[bytes, bytes]) -> CallRecord:
    """The record of a stream entry (as XRANGE or XREAD give it). Unknown fields are ignored.

    Raises ValueError naming the field when the entry is not one of ours.
    """
    content: dict[str, object] = {}
    for raw_name, raw_value in entry.items():
        name = raw_name.decode() if isinstance(raw_name, bytes) else raw_name
        value = raw_value.decode() if isinstance(raw_value, bytes) else raw_value
        if name in _NESTED:
            content[name] = _nested(name, value)
        elif value or name not in _MAY_BE_EMPTY:
            content[name] = value
        else:
            content[name] = None
    try:
        record = msgspec.convert(content, CallRecord, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"cdr entry: {error}") from None
    for name in _TIMES:
        unix = getattr(record, name)
        if unix is not None and not 0 <= unix < LATEST:
            raise ValueError(f"cdr entry: {name}: expected unix seconds (got {unix!r})")
    return record
