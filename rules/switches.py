"""What is switched on a line as a whole, as edits of its document: do not disturb, and the profile
that is used. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rules.model import DocumentError
from rules.shared_document import has_ended, read_until

Document = dict[str, Any]


def switch_do_not_disturb(document: Document, on: bool) -> None:
    """Turn do not disturb on or off."""
    if on or document.get("do_not_disturb"):
        document["do_not_disturb"] = on


def switch_profile(document: Document, name: str | None, until: str | None, now: float) -> None:
    """Use a profile from now on, until a moment if that is given, and then what was used before.

    Args:
        name: None: none, the line's own forwards apply.
        until: a moment in ISO 8601 with its offset.
        now: unix seconds.

    Raises:
        DocumentError: there is no profile of that name, or `until` is no moment in the future.
    """
    if name is None:
        if until is not None:
            raise DocumentError("until", until, "needs the name of a profile")
        document.pop("profile", None)
        return
    profiles = document.get("profiles")
    names = sorted(profiles) if isinstance(profiles, Mapping) else []
    if name not in names:
        raise DocumentError("use", name, no_profile(names))
    if until is None:
        document["profile"] = name
        return
    if read_until("until", until) <= now:
        raise DocumentError("until", until, "is in the past")
    document["profile"] = [{"use": name, "until": until}, *_after(document.get("profile"), now)]


def no_profile(names: Iterable[str]) -> str:
    """The problem with a name that is not among the profiles of a line, which have these names."""
    return f"is no profile of the line, which has {', '.join(sorted(names)) or 'none'}"


def _after(profile: object, now: float) -> list[Any]:
    """The entries of `profile` that may still apply, without one that the new one replaces."""
    if isinstance(profile, str):
        return [{"use": profile}]
    if not isinstance(profile, list):
        return []
    replaced = 1 if profile and _is_for_a_while(profile[0]) else 0
    return [each for each in profile[replaced:] if not has_ended(each, now)]


def _is_for_a_while(entry: Any) -> bool:
    """Whether an entry is as `switch_profile` writes it."""
    return isinstance(entry, Mapping) and entry.keys() == {"use", "until"}
