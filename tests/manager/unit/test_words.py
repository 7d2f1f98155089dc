"""The page's words: both languages say the same things."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from manager.costs import word_for
from manager.words import _PARTS, WORDS, preferred, speaker
from rules.model import CAPPED, FLEET_COUNTRIES, Billing, Condition, Kind
from rules.numbers import REFUSALS

TEMPLATES = Path(__file__).resolve().parents[3] / "manager" / "templates"


def names(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("key", WORDS)
def test_both_languages_fill_in_the_same(key: str) -> None:
    french, english = WORDS[key]
    assert french
    assert english
    assert names(french) == names(english)


def test_no_key_stands_in_two_parts() -> None:
    assert len(WORDS) == sum(len(part.WORDS) for part in _PARTS)


def test_every_word_that_templates_say_is_there() -> None:
    said = {
        key
        for page in TEMPLATES.glob("*.html")
        for key in re.findall(r"""\bt\(["']([a-z_0-9]+)["'][,)]""", page.read_text("utf-8"))
    }
    assert len(said) > 50
    assert said <= WORDS.keys()


def test_every_member_of_a_set_has_a_word() -> None:
    say = speaker("fr")
    for key in (*Condition, *Kind, *Billing, *(f"if_{c}" for c in Condition)):
        assert say(key)
    for key in (f"cost_free_{kind}" for kind in ("voicemail", "fax", "line")):
        assert say(key)
    for why in (*REFUSALS, FLEET_COUNTRIES):
        assert say(word_for(why))
    for level in CAPPED[1:]:
        assert say(f"cost_{level}")


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "fr"),
        ("fr-FR,fr;q=0.9,en;q=0.8", "fr"),
        ("en", "en"),
        ("en-GB,en;q=0.9,fr;q=0.5", "en"),
        ("de,en;q=0.7,fr;q=0.3", "en"),
        ("de", "fr"),
        ("en;q=x,fr", "fr"),
    ],
)
def test_the_browsers_language(header: str, language: str) -> None:
    assert preferred(header) == language
