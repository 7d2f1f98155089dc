"""Which installed packages a program does not need: `python only_needed.py PACKAGE`, one a line.

The lock holds what Renvoi is tested with as well; an image needs only what it runs with.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distributions

from packaging.requirements import Requirement


def normal(name: str) -> str:
    """A package's name as it compares (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(package: str, installed: dict[str, Distribution]) -> set[str]:
    """The package and everything it needs, by way of others too."""
    found: set[str] = set()
    waiting = [(normal(package), frozenset[str]())]
    while waiting:
        name, extras = waiting.pop()
        found.add(name)
        for text in installed[name].requires or ():
            requirement = Requirement(text)
            marker, other = requirement.marker, normal(requirement.name)
            holds = marker is None or any(
                marker.evaluate({"extra": extra}) for extra in extras or {""}
            )
            if holds and other in installed and other not in found:
                waiting.append((other, frozenset(requirement.extras)))
    return found


def main() -> int:
    installed = {normal(item.metadata["Name"]): item for item in distributions()}
    keep = needed(sys.argv[1], installed) | {"pip", "packaging"}  # pip is at work
    print(*sorted(set(installed) - keep), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
