"""Files of line documents: JSON lines, or CSV with a column for each property of a line.

In CSV a forward is `on DEST`, `off DEST` or `off`, with DEST as `renvoi forward set` takes it;
`DEST` alone is on, an empty cell is nothing. The rest of a document is in `more`, as JSON, so that
an exported file can be imported without loss: several forwards of a condition are there alone.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any, BinaryIO

import orjson

from engine.changes import destination
from rules.model import Condition, Kind

FORMATS = ("jsonl", "csv")
Document = dict[str, Any]

_TEXTS = ("number", "fleet", "label")
_CREDENTIALS = ("user", "ha1", "ha1_sha256")
COLUMNS = (
    *_TEXTS, "max_calls", "suspended", "fax", "mobile", "mobile_hours", *_CREDENTIALS,
    *(condition.value for condition in Condition), "no_answer_after_s", "more",
)  # fmt: skip
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class RowError(ValueError):
    """An invalid row: the field, and what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


Row = tuple[int, Document | RowError]
"""The number of the line in the file, from 1, and its content."""


def read_rows(file: BinaryIO, form: str) -> Iterator[Row]:
    """The rows of a file, without empty lines."""
    return _read_csv(file) if form == "csv" else _read_jsonl(file)


def write_rows(documents: Iterable[bytes], form: str, write: Callable[[bytes], object]) -> int:
    """Write stored documents and return their number. In CSV, documents that are not JSON objects
    are left out."""
    count = 0
    if form == "csv":
        write(_csv_line(COLUMNS))
    for raw in documents:
        if form == "csv":
            try:
                document = orjson.loads(raw)
            except orjson.JSONDecodeError:
                continue
            if not isinstance(document, dict):
                continue
            write(_csv_line(to_cells(document)))
        else:
            write(raw.replace(b"\n", b" ") + b"\n")
        count += 1
    return count


def _read_jsonl(file: BinaryIO) -> Iterator[Row]:
    for place, raw in enumerate(file, 1):
        text = raw.removeprefix(b"\xef\xbb\xbf") if place == 1 else raw
        if not text.strip():
            continue
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            yield place, RowError("document", f"is not JSON: {error}")
            continue
        if isinstance(document, dict):
            yield place, document
        else:
            yield place, RowError("document", f"expected a JSON object (got {document!r:.40})")


def _read_csv(file: BinaryIO) -> Iterator[Row]:
    # Decoded line by line, so that invalid bytes affect only their own row.
    rows = csv.reader(line.decode("utf-8-sig", "surrogateescape") for line in file)
    names: list[str] | None = None
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield rows.line_num, RowError("document", f"is not CSV: {error}")
            continue
        if not any(cells):
            continue
        if names is None:
            names = [name.strip().lower().replace("-", "_") for name in cells]
            unknown = [name for name in names if name not in COLUMNS]
            if unknown or "number" not in names or len(set(names)) < len(names):
                wrong = unknown[0] if unknown else "number"
                alike = get_close_matches(wrong, COLUMNS, 1) if unknown else ()
                hint = f", did you mean {alike[0]}?" if alike else ""
                problem = f"expected a header of columns from {', '.join(COLUMNS)}{hint}"
                yield rows.line_num, RowError(wrong, problem)
                return
            continue
        if len(cells) > len(names):
            yield rows.line_num, RowError("document", f"has more than {len(names)} cells")
            continue
        try:
            yield rows.line_num, from_cells(dict(zip(names, cells, strict=False)))
        except RowError as error:
            yield rows.line_num, error


def from_cells(cells: dict[str, str]) -> Document:
    """The document of a row. Raises RowError."""
    given = {name: cell.strip() for name, cell in cells.items() if cell.strip()}
    document: Document = {}
    if more := given.get("more"):
        try:
            document = orjson.loads(more)
        except orjson.JSONDecodeError as error:
            raise RowError("more", f"is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise RowError("more", f"expected a JSON object (got {more!r:.40})")
    document |= {name: given[name] for name in _TEXTS if name in given}
    if "max_calls" in given:
        document["max_calls"] = _number(given, "max_calls", int)
    if "suspended" in given:
        document["suspended"] = _flag(given, "suspended")
    if "fax" in given:
        _part(document, "offer")["fax"] = _flag(given, "fax")
    if "mobile" in given:
        _part(document, "offer")["mobile"] = given["mobile"]
    if "mobile_hours" in given:
        _part(document, "offer")["mobile_hours"] = _number(given, "mobile_hours", float)
    for name in _CREDENTIALS:
        if name in given:
            _part(document, "credentials")[name] = given[name]
    for condition in Condition:
        if condition in given:
            forwards = _part(document, "forwards")
            if isinstance(forwards.get(condition.value), list):
                problem = f"is a list in more already (got {given[condition]!r:.60})"
                raise RowError(condition.value, problem)
            kept = _part(forwards, condition.value)
            forward = _forward(condition, given[condition])
            if isinstance(kept.get("to"), dict) and "to" in forward:
                forward["to"] = kept["to"] | forward["to"]
            forwards[condition.value] = kept | forward
    if "no_answer_after_s" in given:
        after_s = _number(given, "no_answer_after_s", int)
        _part(_part(document, "forwards"), "no_answer")["after_s"] = after_s
    return document


def to_cells(document: Document) -> list[str]:
    """The row of a document, in the order of COLUMNS."""
    left = orjson.loads(orjson.dumps(document))
    cells = dict.fromkeys(COLUMNS, "")
    for name in _TEXTS:
        if isinstance(left.get(name), str) and _is_bare(left[name]):
            cells[name] = left.pop(name)
    for name in ("max_calls", "suspended"):
        _take(left, name, cells, name)
    _take_part(left, "offer", ("fax", "mobile", "mobile_hours"), cells)
    _take_part(left, "credentials", _CREDENTIALS, cells)
    forwards = left.get("forwards")
    if isinstance(forwards, dict):
        for condition in Condition:
            forward = forwards.get(condition.value)
            if not isinstance(forward, dict):
                continue
            if condition is Condition.NO_ANSWER:
                _take(forward, "after_s", cells, "no_answer_after_s")
            cells[condition.value] = _take_forward(forward)
            if not forward:
                del forwards[condition.value]
        if not forwards:
            del left["forwards"]
    cells["more"] = orjson.dumps(left).decode() if left else ""
    return list(cells.values())


def _forward(condition: Condition, cell: str) -> Document:
    state, _, rest = cell.partition(" ")
    state = state.lower()
    if state not in ("on", "off"):
        state, rest = "on", cell
    forward: Document = {"on": state == "on"}
    if rest := rest.strip():
        try:
            kind, number = destination.read(rest)
        except ValueError as error:
            problem = f"expected on or off, and DEST: {error} (got {cell!r:.60})"
            raise RowError(condition.value, problem) from None
        forward["to"] = {"kind": kind, "number": number} if number else {"kind": kind}
    return forward


def _take_forward(forward: Document) -> str:
    """The cell of a forward; its fields are removed from the document."""
    if not isinstance(forward.get("on"), bool):
        return ""
    to = forward.get("to")
    cell = "on" if forward.pop("on") else "off"
    if isinstance(to, dict) and to.get("kind") in set(Kind):
        number = to.get("number")
        if number is None or (isinstance(number, str) and number):
            cell += f" {to.pop('kind')}" + (f":{to.pop('number')}" if number else "")
            to.pop("number", None)
            if not to:
                del forward["to"]
    elif to is None:
        forward.pop("to", None)
    return cell


def _take_part(left: Document, name: str, names: Iterable[str], cells: dict[str, str]) -> None:
    part = left.get(name)
    if isinstance(part, dict):
        for each in names:
            _take(part, each, cells, each)
        if not part:
            del left[name]
    elif part is None:
        left.pop(name, None)


def _take(part: Document, name: str, cells: dict[str, str], column: str) -> None:
    value = part.get(name)
    if isinstance(value, bool):
        cells[column] = "true" if value else "false"
    elif isinstance(value, int | float) or (isinstance(value, str) and _is_bare(value)):
        cells[column] = str(value)
    elif value is not None:
        return
    part.pop(name, None)


def _is_bare(text: str) -> bool:
    """Whether a cell keeps a text as it is: blanks around it are not read, nor is an empty one."""
    return bool(text) and text == text.strip()


def _part(document: Document, name: str) -> Document:
    part = document.setdefault(name, {})
    if not isinstance(part, dict):
        raise RowError("more", f"{name}: expected an object")
    return part


def _flag(given: dict[str, str], name: str) -> bool:
    try:
        return _FLAGS[given[name].lower()]
    except KeyError:
        raise RowError(name, f"expected true or false (got {given[name]!r:.40})") from None


def _number(given: dict[str, str], name: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(given[name])
    except ValueError:
        raise RowError(name, f"expected a number (got {given[name]!r:.40})") from None


class _Line:
    """The output of a csv.writer."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text = text


def _csv_line(cells: Iterable[str]) -> bytes:
    line = _Line()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.text.encode("utf-8", "surrogateescape")
