"""The same edit on several lines: the result and the cost, line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from manager.costs import Cost
from manager.failures import Failure, Refused
from manager.forms import ORDER, Wanted
from manager.line_page import forward_in_words, rules_in_words
from manager.lines import Document, Stored
from manager.targets_and_usage import around
from manager.undo import Change, change_of
from manager.web import Visit
from rules.model import Condition, Line

Edit = Callable[[Document], None]


@dataclass(frozen=True, slots=True)
class Row:
    """What changes at one condition of one line. `costs`: those of its forwards after the change,
    none if they are off."""

    line: Line
    condition: Condition
    before: str
    after: str
    costs: Sequence[Cost]


@dataclass(slots=True)
class Batch:
    """The result. `changes` and `rows`: of the lines that change; `same`: the lines that were so
    already; `refused`: line and reason."""

    changes: list[Change] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    same: list[Line] = field(default_factory=list)
    refused: list[tuple[Line, str]] = field(default_factory=list)


async def run(
    visit: Visit,
    lines: Sequence[Stored],
    edit_of: Callable[[Stored], Edit],
    wanted: Wanted,
    write: bool,
) -> Batch:
    """Preview or write it, each line separately. Lines that cannot be changed stay as they are."""
    batch, site = Batch(), visit.site
    for stored in lines:
        try:
            if write:
                written = await site.lines.change(visit.who, stored.number, edit_of(stored))
                before, result = written.before, written.stored
            else:
                before = stored.document
                result = await site.lines.preview(visit.who, stored.number, edit_of(stored))
        except Refused as refused:
            text = " ".join(error.text for error in wanted.errors_of(refused.errors))
            batch.refused.append((stored.line, text))
            continue
        except Failure as failure:
            batch.refused.append((stored.line, failure.detail))
            continue
        change = change_of(stored.number, before, result.document)
        if change.conditions:
            batch.changes.append(change)
            batch.rows += await rows_of(visit, result.line, change)
        else:
            batch.same.append(result.line)
    return batch


async def rows_of(visit: Visit, line: Line, change: Change) -> list[Row]:
    """A change of a line as text, with the cost of its forwards after it."""
    known = await around(visit.site, line)
    return priced_rows(visit, line, change, visit.teller.costs.of(line, known))


def priced_rows(visit: Visit, line: Line, change: Change, costs: Iterable[Cost]) -> list[Row]:
    """The same with known costs."""
    known, rows = list(costs), []
    for condition in ORDER:
        before = forward_in_words(visit, line, condition, change.before.get(condition))
        after = forward_in_words(visit, line, condition, change.after.get(condition))
        # The target of a forward that is off does not matter.
        if before != after:
            rows.append(Row(line, condition, before, after, _costs(condition, known)))
    return rows


def rows_between(visit: Visit, before: Line, after: Line, costs: Iterable[Cost]) -> list[Row]:
    """What differs between two states of a line, with the costs after it."""
    known, rows = list(costs), []
    for condition in ORDER:
        was, now = (rules_in_words(visit, line, condition) for line in (before, after))
        if was != now:
            rows.append(Row(after, condition, was, now, _costs(condition, known)))
    return rows


def _costs(condition: Condition, costs: Iterable[Cost]) -> list[Cost]:
    return [cost for cost in costs if cost.condition is condition]
