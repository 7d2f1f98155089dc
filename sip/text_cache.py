"""A cache for functions of a text that comes from the network. Anybody may send as many texts as he
likes, so that not only their number is bounded but also their length."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

MOST = 4096
LONGEST = 512  # bytes or characters; results for longer texts are not kept

T = TypeVar("T", str, bytes)
R = TypeVar("R")


def remembered(function: Callable[[T], R]) -> Callable[[T], R]:
    """The same function, with the results of the latest short texts kept."""
    known = lru_cache(maxsize=MOST)(function)

    @wraps(function)
    def recall(text: T) -> R:
        return known(text) if len(text) <= LONGEST else function(text)

    return recall
