"""The texts of e-mails: complete in every language; text from outside cannot break a header."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from string import Formatter
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.config import Notify
from engine.telemetry.exposition import text as exposition
from notify.deliveries import Delivery
from notify.health import Health
from notify.mail import Mailer
from notify.occurrences import MISSED
from notify.wording import CONDITIONS, WORDS, Wording
from rules.decide import PREVENTED
from rules.model import Kind
from rules.notify import EVENTS, LANGUAGES

ROOT = Path(__file__).resolve().parents[2]
PARIS = ZoneInfo("Europe/Paris")
TO_MOBILE = {"on": True, "to": {"kind": "number", "number": "+33612345678"}, "after_s": 20}
DATA: dict[str, dict[str, Any]] = {
    "missed_call": {
        "caller": "+33140000000", "withheld": False, "outcome": "no_answer", "voicemail": False,
        "condition": "none", "rang_s": 11,
    },
    "forward_changed": {
        "who": "marie", "how": "page", "what": "forwards",
        "from": {"forwards": {"no_answer": {"on": False}}, "do_not_disturb": False},
        "to": {"forwards": {"no_answer": TO_MOBILE}, "do_not_disturb": True},
    },
    "plan_used": {"month": "2026-11", "percent": 80, "used_s": 5760, "of_s": 7200},
    "cap_used": {"month": "2026-11", "percent": 100, "used_s": 36000, "of_s": 36000},
    "forward_prevented": {
        "condition": "busy", "reason": "fleet_cap", "since": 1796040000.0, "last": 1796043700.0,
        "calls": 3,
    },
    "test": {},
}  # fmt: skip


def delivery(event: str, language: str = "fr", **more: Any) -> Delivery:
    data = {"fleet": "acme", "fleet_label": "Acme SA", "line": "+33972101001", "label": "Accueil"}
    return Delivery(
        "msg_1", "fleet:acme", "email", "m@a.example", event, 1796043700.0,
        data | DATA[event] | more, language,
    )  # fmt: skip


def named(words: dict[str, str]) -> dict[str, set[str]]:
    return {key: {n for _, n, _, _ in Formatter().parse(text) if n} for key, text in words.items()}


def test_the_languages_have_the_same_texts_with_the_same_names() -> None:
    assert set(WORDS) == set(LANGUAGES)
    assert named(WORDS["fr"]) == named(WORDS["en"])
    for words in WORDS.values():
        assert {f"outcome.{each}" for each in MISSED} <= set(words)
        assert {f"reason.{each}" for each in PREVENTED} <= set(words)
        assert {f"kind.{each.value}" for each in Kind} <= set(words)
        assert {f"condition.{each}" for each in CONDITIONS} <= set(words)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("event", [*EVENTS, "test"])
def test_every_event_has_a_message(event: str, language: str) -> None:
    subject, text = Wording(PARIS, "FR").of(delivery(event, language))
    assert subject
    assert "{" not in subject + text
    assert "Acme SA" in text
    assert "\n" not in subject


def test_a_changed_forward_says_from_what_to_what() -> None:
    subject, text = Wording(PARIS, "FR").of(delivery("forward_changed"))
    assert subject == "Les renvois de Accueil (09 72 10 10 01) ont changé"
    assert "le 30/11/2026 à 14:01 par marie (page web)" in text
    assert "Sur non-réponse : désactivé -> numéro 06 12 34 56 78 après 20 s" in text
    assert "Ne pas déranger : désactivé -> activé" in text


def test_forwards_of_several_rules_and_targets_and_odd_ones() -> None:
    rules = [
        {"on": True, "when": "not office", "callers": "withheld", "to": {"kind": "voicemail"}},
        {"on": True, "until": "2026-12-07T08:00:00+01:00", "to": [TO_MOBILE["to"],
                                                                  {"kind": "reject"}]},
        {"on": False},
    ]  # fmt: skip
    after = {"forwards": {"busy": rules, "unconditional": 5, "no_answer": {"on": True, "to": 7}}}
    _, text = Wording(PARIS, "FR").of(
        delivery("forward_changed", "en", to=after, **{"from": {"also_ring": [TO_MOBILE["to"]]}})
    )
    assert (
        "When busy: off -> voicemail, when: not office, for callers: withheld; "
        "number 06 12 34 56 78 and refuse the call, until 2026-12-07T08:00:00+01:00" in text
    )
    assert "All calls: off -> off" in text
    assert "When nobody answers: off -> ?" in text
    assert "Rings as well: number 06 12 34 56 78 -> off" in text


def test_text_from_outside_cannot_end_a_header() -> None:
    nasty = "x\r\nBcc: evil@b.example\r\n\r\nbody"
    settings = Notify()
    mailer = Mailer(settings, PARIS, "FR", ssl.create_default_context(), None)
    for event in (*EVENTS, "test"):
        message = mailer.message(
            delivery(event, label=nasty, fleet_label=nasty, caller=nasty, who=nasty, outcome=nasty)
        )
        head = message.as_bytes().partition(b"\r\n\r\n")[0]
        assert b"\nBcc" not in head
        assert message["Bcc"] is None
        assert message["Message-ID"] == "<msg_1@localhost>"


async def test_the_page_names_every_metric_with_its_labels() -> None:
    from engine.config import Config

    page = (ROOT / "docs" / "notifications.md").read_text()
    rows = re.findall(r"^\| `(renvoi_\w+)` \| (\w+) \|(.*?)\|", page, re.MULTILINE)
    documented = {
        name: (kind, tuple(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", labels))))
        for name, kind, labels in rows
    }
    shown = exposition(Health(Config())._families)
    found = {}
    for name, kind in re.findall(r"^# TYPE (renvoi_\w+) (\w+)$", shown, re.MULTILINE):
        sample = re.search(rf"^{name}(?:_count)?(?:\{{(.*?)\}})? ", shown, re.MULTILINE)
        assert sample
        found[name] = (kind, tuple(re.findall(r'(\w+)="', sample[1] or "")))
    assert documented == found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["on", "to", "kind", "number", "after_s", "when", "callers", "until", "x"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None, database=None)
@example(None, {"on": True, "after_s": "\x1f"}, "busy")
@given(JSON, JSON, st.sampled_from(CONDITIONS))
def test_any_content_of_a_document_results_in_a_message(before: Any, after: Any, name: str) -> None:
    data: dict[str, Any] = {"from": {"forwards": {name: before}, "also_ring": before},
            "to": {"forwards": {name: after}, "profile": after}}  # fmt: skip
    subject, text = Wording(PARIS, "FR").of(delivery("forward_changed", **data))
    assert subject
    assert all(c.isprintable() or c == "\n" for c in text)
