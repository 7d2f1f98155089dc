"""Every word of the page, in French and in English; the French ones are the guide's own."""

from __future__ import annotations

import re
from collections.abc import Callable

from manager.texts import errors, forwards, line, operating, outlook, people, several, site

LANGUAGES = ("fr", "en")
Say = Callable[..., str]

# key: (French, English). {names} are filled in; a test compares them between the languages.
_PARTS = (site, line, forwards, outlook, errors, several, people, operating)
WORDS: dict[str, tuple[str, str]] = {
    key: words for part in _PARTS for key, words in part.WORDS.items()
}


# French sets a space before some signs, at which no line may break.
_TIGHT = re.compile(" (?=[:;!?»])|(?<=«) ")
_SAID = {
    "fr": {key: _TIGHT.sub("\u00a0", french) for key, (french, _) in WORDS.items()},
    "en": {key: english for key, (_, english) in WORDS.items()},
}


def speaker(language: str) -> Say:
    """The function that says a word in this language."""
    said = _SAID[language]

    def say(key: str, **values: object) -> str:
        text = said[key]
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
