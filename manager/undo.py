"""A change of forwards that can be taken back: what was before, and what it was changed to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from manager.lines import Document
from manager.who import FieldError, Refused
from store.audit import differing

CHANGED_SINCE = "was changed since"


class Change(msgspec.Struct):
    """The forwards of a line that were changed, and only those; one that is not in `before` was not
    there."""

    number: str
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def conditions(self) -> set[str]:
        return self.before.keys() | self.after.keys()

    def undo(self, document: Document) -> None:
        """Take it back in the document. Raises Refused when somebody has changed it since."""
        forwards = dict(document.get("forwards") or {})
        for condition in self.conditions:
            if forwards.get(condition) != self.after.get(condition):
                field = f"forwards.{condition}"
                raise Refused([FieldError(field, forwards.get(condition), CHANGED_SINCE)])
        self.restore(document)

    def restore(self, document: Document) -> None:
        """The same, whatever the forwards are by now."""
        forwards = dict(document.get("forwards") or {})
        for condition in self.conditions:
            forwards.pop(condition, None)
            if self.before.get(condition) is not None:
                forwards[condition] = self.before[condition]
        document["forwards"] = forwards


def change_of(number: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
    """What of the forwards differs between two documents of a line."""
    was, now = differing(
        {"forwards": before.get("forwards") or {}}, {"forwards": after.get("forwards") or {}}
    )
    return Change(number, was.get("forwards") or {}, now.get("forwards") or {})
