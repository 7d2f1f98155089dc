"""What a change of a line will do and cost, shown before it is written, and the write itself: for
every form of the page."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson
from starlette.responses import Response

from manager import done_page
from manager.forms import FormError
from manager.line_now import present
from manager.lines import Document, Stored
from manager.outlook import Outlook
from manager.several_lines import Row, priced_rows, rows_between
from manager.targets_and_usage import around
from manager.undo import change_of
from manager.web import Visit, see
from rules.model import Line

Edit = Callable[[Document], None]


@dataclass(frozen=True, slots=True)
class Check:
    """A checked form: its faults, or its effect. `seen` identifies what the customer was shown."""

    errors: Sequence[FormError]
    line: Line | None = None
    outlook: Outlook | None = None
    seen: str = ""
    rows: Sequence[Row] = ()
    switched: Sequence[done_page.Switched] = ()


async def checked(visit: Visit, stored: Stored, edit: Edit, etag: str | None) -> Check:
    """The effect of an edit, which is not written. Raises Refused, Outdated."""
    site = visit.site
    result = await site.lines.preview(visit.who, stored.number, edit, etag)
    explanation = await site.explain(stored, instead=result.line, withheld=False)
    change = change_of(stored.number, stored.document, result.document)
    line = result.line
    if "profile" in change.switched:
        before, after = await present(site, stored.line), await present(site, result.line)
        line = after.line
        outlook = visit.teller.outlook(line, await around(site, line), explanation)
        rows = rows_between(visit, before.line, line, outlook.costs)
    else:
        outlook = visit.teller.outlook(line, await around(site, line), explanation)
        rows = priced_rows(visit, line, change, outlook.costs)
    seen = _seen(stored, result, outlook)
    return Check((), line, outlook, seen, rows, done_page.switched_rows(visit, change))


async def write(visit: Visit, stored: Stored, edit: Edit, etag: str | None) -> Response:
    """Write it, and show the page that proves it. Raises Refused, Outdated."""
    site = visit.site
    written = await site.lines.change(visit.who, stored.number, edit, etag)
    acks = await site.in_force(stored.number)
    change = change_of(stored.number, written.before, written.stored.document)
    token = await done_page.keep(visit, change, acks, written.changed)
    return see(f"/lines/{stored.number}/forwards/done?change={token}")


def _seen(stored: Stored, result: Stored, outlook: Outlook) -> str:
    """Identifies what the customer was shown: another cost or rule gives another value."""
    shown = [
        stored.etag,
        [result.document.get(n) for n in ("forwards", "do_not_disturb", "profile")],
        [(cost.condition, cost.text, cost.where, *cost.warnings) for cost in outlook.costs],
        list(outlook.conflicts),
    ]
    return hashlib.sha256(orjson.dumps(shown)).hexdigest()[:24]
