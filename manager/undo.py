"""A change of forwards that can be undone: the values before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from manager.failures import FieldError, Refused
from manager.lines import Document
from store.audit import differing

CHANGED_SINCE = "was changed since"


SWITCHES = ("do_not_disturb", "profile")


class Change(msgspec.Struct):
    """The changed forwards of a line, and only those; one that is not in `before` did not exist.
    `switched`: what was switched as a whole, do not disturb and the profile, before and after."""

    number: str
    before: dict[str, Any]
    after: dict[str, Any]
    switched: dict[str, tuple[Any, Any]] = {}

    @property
    def conditions(self) -> set[str]:
        return self.before.keys() | self.after.keys()

    @property
    def has_rules(self) -> bool:
        """Whether the form of the four forwards does not show it: `restore` does."""
        return any(map(has_rules, (*self.before.values(), *self.after.values())))

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
    switched = {
        name: (before.get(name), after.get(name))
        for name in SWITCHES
        if (before.get(name) or None) != (after.get(name) or None)
    }
    return Change(number, was.get("forwards") or {}, now.get("forwards") or {}, switched)


def has_rules(forward: Any) -> bool:
    """Whether a stored condition has more than the form of the four forwards shows: several
    forwards, hours, callers, an end, several targets, a rejection."""
    if not isinstance(forward, dict):
        return isinstance(forward, list)
    to = forward.get("to")
    return (
        any(forward.get(name) for name in ("when", "until", "callers"))
        or isinstance(to, list)
        or (isinstance(to, dict) and (to.get("kind") == "reject" or "ring_s" in to))
    )
