"""A change of forwards that can be undone: the values before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from manager.lines import Document
from manager.who import FieldError, Refused
from store.audit import differing

CHANGED_SINCE = "was changed since"


class Change(msgspec.Struct):
    """The changed forwards of a line, and only those; one that is not in `before` did not exist."""

    number: str
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def conditions(self) -> set[str]:
        return self.before.keys() | self.after.keys()

    def undo(self, document: Document) -> None:
        """Undo it in the document. Raises Refused if it was changed since."""
        forwards = dict(document.get("forwards") or {})
        for condition in self.conditions:
            if forwards.get(condition) != self.after.get(condition):
                field = f"forwards.{condition}"
                raise Refused([FieldError(field, forwards.get(condition), CHANGED_SINCE)])
        self.restore(document)

    def restore(self, document: Document) -> None:
        """The same, whatever the forwards are now."""
        forwards = dict(document.get("forwards") or {})
        for condition in self.conditions:
            forwards.pop(condition, None)
            if self.before.get(condition) is not None:
                forwards[condition] = self.before[condition]
        document["forwards"] = forwards


def change_of(number: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
    """The forwards that differ between two documents of a line."""
    was, now = differing(
        {"forwards": before.get("forwards") or {}}, {"forwards": after.get("forwards") or {}}
    )
    return Change(number, was.get("forwards") or {}, now.get("forwards") or {})
