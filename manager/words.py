"""The texts of the page: `texts/fr.yaml` and `texts/en.yaml`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import yaml

TEXTS = Path(__file__).with_name("texts")
LANGUAGES = ("fr", "en")
Say = Callable[..., str]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, if available
# French has a space before some signs, at which no line may break.
_TIGHT = re.compile(" (?=[:;!?»])|(?<=«) ")


def _read(language: str) -> dict[str, str]:
    text = (TEXTS / f"{language}.yaml").read_text(encoding="utf-8")
    words: dict[str, str] = yaml.load(text, _LOADER)
    if language == "fr":
        return {key: _TIGHT.sub("\u00a0", word) for key, word in words.items()}
    return words


WORDS = {language: _read(language) for language in LANGUAGES}
"""By language, then by key. {names} are filled in."""


def speaker(language: str) -> Say:
    """The function that returns a text in this language."""
    words = WORDS[language]

    def say(key: str, **values: object) -> str:
        text = words[key]
        return text.format(**values) if values else text

    return say


def preferred(header: str) -> str:
    """The language of an Accept-Language header; French unless English is preferred."""
    best, weight = LANGUAGES[0], -1.0
    for part in header.split(","):
        name, _, q = part.partition(";")
        language = name.strip().lower().partition("-")[0]
        try:
            value = float(q.partition("=")[2] or 1)
        except ValueError:
            value = 0.0
        if language in LANGUAGES and value > weight:
            best, weight = language, value
    return best
