"""The texts of the page: both languages have the same ones."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from manager.costs import word_for
from manager.words import TEXTS, WORDS, preferred, speaker
from rules.model import CAPPED, FLEET_COUNTRIES, Billing, Condition, Kind
from rules.numbers import REFUSALS

TEMPLATES = Path(__file__).resolve().parents[3] / "manager" / "templates"


def names(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


FRENCH, ENGLISH = WORDS["fr"], WORDS["en"]


@pytest.mark.parametrize("key", FRENCH)
def test_both_languages_fill_in_the_same(key: str) -> None:
    assert FRENCH[key]
    assert ENGLISH[key]
    assert names(FRENCH[key]) == names(ENGLISH[key])


@pytest.mark.parametrize("language", WORDS)
def test_each_file_has_the_same_keys_and_each_once(language: str) -> None:
    text = (TEXTS / f"{language}.yaml").read_text(encoding="utf-8")
    assert re.findall(r"^['\"]?(\w+)['\"]?:", text, re.M) == list(FRENCH)
    assert list(WORDS[language]) == list(FRENCH)
    assert all(isinstance(word, str) for word in WORDS[language].values())


def test_every_word_that_templates_say_is_there() -> None:
    said = {
        key
        for page in TEMPLATES.glob("*.html")
        for key in re.findall(r"""\bt\(["']([a-z_0-9]+)["'][,)]""", page.read_text("utf-8"))
    }
    assert len(said) > 50
    assert said <= FRENCH.keys()


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
