"""The part `notify` of line and fleet documents: values that are read, and errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rules.fleet import load_fleet
from rules.line_document import load_line
from rules.model import DocumentError
from rules.notify import EVENTS, Event, Notify, Webhook, read_notify
from rules.numbers import Numbering

NUMBER = "+33972101001"
FRANCE = Numbering("FR")


def line(notify: Any) -> str:
    return json.dumps({"number": NUMBER, "fleet": "acme", "notify": notify})


def fleet(notify: Any) -> str:
    return json.dumps({"name": "acme", "notify": notify})


WEBHOOK = {"url": "https://crm.example.com/renvoi?a=b"}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, None),
        ({"webhook": WEBHOOK}, Notify(Webhook(WEBHOOK["url"]))),
        ({"email": ["marie@example.com"]}, Notify(email=["marie@example.com"])),
        (
            {"email": ["a.b+c@mail.example.com"], "events": ["missed_call"], "language": "en"},
            Notify(email=["a.b+c@mail.example.com"], events=["missed_call"], language="en"),
        ),
        ({"webhook": {"url": "http://[2001:db8::1]:8080/x"}}, Notify(Webhook("http://[2001:db8::1]:8080/x"))),
        ({"webhook": WEBHOOK, "email": None, "events": None}, Notify(Webhook(WEBHOOK["url"]))),
        ({"webhook": WEBHOOK, "x_own": 1}, Notify(Webhook(WEBHOOK["url"]))),
    ],
)  # fmt: skip
def test_what_is_read(given: Any, read: Notify | None) -> None:
    load_line(line(given), NUMBER, FRANCE)
    load_fleet(fleet(given), "acme")
    assert read_notify(line(given).encode(), of_fleet=False) == read
    assert read_notify(fleet(given).encode(), of_fleet=True) == read


WRONG: list[tuple[Any, str, object]] = [
    (1, "notify", 1),
    ({}, "notify", "no target"),
    ({"events": ["missed_call"]}, "notify", "no target"),
    ({"webhook": {}}, "notify.webhook.url", None),
    ({"webhook": {"url": 5}}, "notify.webhook.url", 5),
    ({"webhook": {"url": ""}}, "notify.webhook.url", ""),
    ({"webhook": {"url": "crm.example.com"}}, "notify.webhook.url", "crm.example.com"),
    ({"webhook": {"url": "ftp://crm.example.com/"}}, "notify.webhook.url", "ftp://crm.example.com/"),
    ({"webhook": {"url": "https:///x"}}, "notify.webhook.url", "https:///x"),
    ({"webhook": {"url": "https://a b/"}}, "notify.webhook.url", "https://a b/"),
    ({"webhook": {"url": "https://a\r\nHost: b/"}}, "notify.webhook.url", "https://a\r\nHost: b/"),
    ({"webhook": {"url": "https://me:pw@a.fr/"}}, "notify.webhook.url", "https://me:pw@a.fr/"),
    ({"webhook": {"url": "https://a.fr:0/"}}, "notify.webhook.url", "https://a.fr:0/"),
    ({"webhook": {"url": "https://a.fr:99999/"}}, "notify.webhook.url", "https://a.fr:99999/"),
    ({"webhook": {"url": "https://a.fr/#x"}}, "notify.webhook.url", "https://a.fr/#x"),
    ({"webhook": {"url": "https://[::1/"}}, "notify.webhook.url", "https://[::1/"),
    # Notations of 127.0.0.1 that some resolvers accept.
    ({"webhook": {"url": "http://2130706433/"}}, "notify.webhook.url", "http://2130706433/"),
    ({"webhook": {"url": "http://127.1/"}}, "notify.webhook.url", "http://127.1/"),
    ({"webhook": {"url": "http://0177.0.0.1/"}}, "notify.webhook.url", "http://0177.0.0.1/"),
    ({"webhook": {"url": "https://é.fr/"}}, "notify.webhook.url", "https://é.fr/"),
    ({"webhook": {"url": "https://a.fr/" + "x" * 2048}}, "notify.webhook.url",
     "https://a.fr/" + "x" * 2048),
    ({"email": []}, "notify.email", []),
    ({"email": "marie@example.com"}, "notify.email", "marie@example.com"),
    ({"email": ["marie"]}, "notify.email[0]", "marie"),
    ({"email": ["marie@example.com", "b@"]}, "notify.email[1]", "b@"),
    ({"email": ["a@b.fr\nBcc: c@d.fr"]}, "notify.email[0]", "a@b.fr\nBcc: c@d.fr"),
    ({"email": ["a@b.fr, c@d.fr"]}, "notify.email[0]", "a@b.fr, c@d.fr"),
    ({"email": ["Marie <a@b.fr>"]}, "notify.email[0]", "Marie <a@b.fr>"),
    ({"email": ["a@b.fr", "a@b.fr"]}, "notify.email[1]", "a@b.fr"),
    ({"email": [f"a{n}@b.fr" for n in range(11)]}, "notify.email",
     [f"a{n}@b.fr" for n in range(11)]),
    ({"webhook": WEBHOOK, "events": []}, "notify.events", []),
    ({"webhook": WEBHOOK, "events": ["missed"]}, "notify.events[0]", "missed"),
    ({"webhook": WEBHOOK, "events": ["missed_call", "missed_call"]}, "notify.events[1]",
     "missed_call"),
    ({"webhook": WEBHOOK, "language": "de"}, "notify.language", "de"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "path", "value"), WRONG)
def test_what_is_refused_names_field_and_value(given: Any, path: str, value: object) -> None:
    for load in (
        lambda: load_line(line(given), NUMBER, FRANCE),
        lambda: load_fleet(fleet(given), "acme"),
    ):
        with pytest.raises(DocumentError) as refused:
            load()
        assert (refused.value.field, refused.value.value) == (path, value)
        assert refused.value.problem
    assert read_notify(line(given).encode(), of_fleet=False) is None


def test_only_a_fleet_has_a_cap() -> None:
    given = {"webhook": WEBHOOK, "events": ["cap_used"]}
    load_fleet(fleet(given), "acme")
    with pytest.raises(DocumentError) as refused:
        load_line(line(given), NUMBER, FRANCE)
    assert str(refused.value) == (
        "notify.events[0]: only a fleet has this event: expected one of forward_changed, "
        "missed_call, plan_used, forward_prevented (got 'cap_used')"
    )


def test_without_a_list_all_events_are_wanted() -> None:
    assert all(Notify().wants(Event(name)) for name in EVENTS)
    assert not Notify(events=["missed_call"]).wants(Event.PLAN_USED)


@pytest.mark.parametrize("raw", [None, b"", b"[", b"[]", b'"x"', b"\xff", b"{}"])
def test_what_is_no_document_notifies_nobody(raw: bytes | None) -> None:
    assert read_notify(raw, of_fleet=True) is None
