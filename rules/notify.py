"""Whom a line or a fleet notifies, and of what: the part `notify` of their documents.

`{"webhook": {"url": "https://crm.example.com/renvoi"}, "email": ["marie@example.com"],
"events": ["missed_call"], "language": "en"}`. docs/notifications.md describes it. The engine does
not use it: `renvoi notify` reads it and sends. The secret that signs webhooks is not in a document.
"""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import ip_address
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec


class Event(StrEnum):
    """What happens that somebody may want to know."""

    FORWARD_CHANGED = "forward_changed"
    MISSED_CALL = "missed_call"
    PLAN_USED = "plan_used"
    CAP_USED = "cap_used"
    FORWARD_PREVENTED = "forward_prevented"


EVENTS = tuple(event.value for event in Event)
OF_FLEETS_ALONE = frozenset({Event.CAP_USED})
"""The events of a fleet that are of no line of it."""
LANGUAGES = ("fr", "en")

_MOST_ADDRESSES = 10
_LONGEST_URL = 2048
_LONGEST_ADDRESS = 254  # RFC 5321 4.5.3.1.3, without the brackets
_LONGEST_LOCAL = 64  # RFC 5321 4.5.3.1.1
# RFC 5321 4.1.2, without quoted strings: nothing in it can end a header or begin another.
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_URL_TEXT = re.compile(r"[!-~]+")


class Webhook(msgspec.Struct):
    """Where events are posted."""

    url: str


class Notify(msgspec.Struct):
    """The part `notify` of a document.

    Attributes:
        email: the addresses that get a message each; None = none.
        events: of `EVENTS`; None = all.
        language: of e-mails; None = the fleet's, and French if it has none.
    """

    webhook: Webhook | None = None
    email: list[str] | None = None
    events: list[str] | None = None
    language: Literal["fr", "en"] | None = None

    def wants(self, event: Event) -> bool:
        """Whether it asks for such events."""
        return self.events is None or event.value in self.events

    def in_words(self) -> str:
        """For people: where, by host alone, and what."""
        url = self.webhook.url if self.webhook is not None else ""
        where = [f"webhook {urlsplit(url).hostname}"] if url else []
        return f"{', '.join([*where, *(self.email or ())])}: {', '.join(self.events or EVENTS)}"


class Wrong(NamedTuple):
    """What is wrong with a part `notify`: the path of the field, its value, the problem."""

    path: str
    value: object
    problem: str


class _Bearer(msgspec.Struct):
    notify: Notify | None = None


_decoder = msgspec.json.Decoder(_Bearer)


def read_notify(raw: bytes | None, *, of_fleet: bool) -> Notify | None:
    """The part `notify` of a stored document; None if it has none, or a bad one."""
    if not raw:
        return None
    try:
        notify = _decoder.decode(raw).notify
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if notify is None or what_is_wrong(notify, of_fleet=of_fleet) is not None:
        return None
    return notify


def what_is_wrong(notify: Notify, *, of_fleet: bool) -> Wrong | None:
    """What is wrong with the part of a fleet's document, or of a line's; None if it is sound."""
    if notify.webhook is None and notify.email is None:
        return Wrong("notify", "no target", "expected webhook, email or both; without notify: off")
    if notify.webhook is not None:
        problem = _wrong_url(notify.webhook.url)
        if problem is not None:
            return Wrong("notify.webhook.url", notify.webhook.url, problem)
    return _wrong_email(notify.email) or _wrong_events(notify.events, of_fleet)


def _wrong_email(addresses: list[str] | None) -> Wrong | None:
    if addresses is None:
        return None
    if not 1 <= len(addresses) <= _MOST_ADDRESSES:
        return Wrong("notify.email", addresses, f"expected 1 to {_MOST_ADDRESSES} addresses")
    for place, address in enumerate(addresses):
        if not is_address(address):
            problem = "expected an e-mail address such as marie@example.com"
            return Wrong(f"notify.email[{place}]", address, problem)
        if address in addresses[:place]:
            return Wrong(f"notify.email[{place}]", address, "is given twice")
    return None


def _wrong_events(events: list[str] | None, of_fleet: bool) -> Wrong | None:
    if events is None:
        return None
    if not events:
        return Wrong("notify.events", events, "expected at least one event; null = all")
    known = [name for name in EVENTS if of_fleet or Event(name) not in OF_FLEETS_ALONE]
    for place, name in enumerate(events):
        if name not in known:
            where = "" if name not in EVENTS else "only a fleet has this event: "
            problem = f"{where}expected one of {', '.join(known)}"
            return Wrong(f"notify.events[{place}]", name, problem)
        if name in events[:place]:
            return Wrong(f"notify.events[{place}]", name, "is given twice")
    return None


def is_address(text: str) -> bool:
    """Whether it is the plain address of a mailbox, which is safe in a header."""
    local, at, domain = text.rpartition("@")
    return (
        bool(at)
        and len(text) <= _LONGEST_ADDRESS
        and len(local) <= _LONGEST_LOCAL
        and _LOCAL.fullmatch(local) is not None
        and _is_name(domain)
        and not domain.endswith(".")
    )


def _wrong_url(url: str) -> str | None:
    """Which addresses it may lead to is decided when it is used (`notify.allow_networks`)."""
    wanted = "expected https://host/path or http://host/path"
    if not _URL_TEXT.fullmatch(url) or len(url) > _LONGEST_URL:
        return f"{wanted}, at most {_LONGEST_URL} characters without blanks"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        return wanted
    if parts.scheme not in ("http", "https") or not host or port == 0 or not _is_host(host):
        return wanted
    if parts.username is not None or parts.password is not None:
        return f"{wanted}, without user and password: requests are signed"
    if "#" in url:
        return f"{wanted}, without #"
    return None


def _is_host(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        # An invalid IPv4 address would only fail later, or be read as one in another notation.
        return _is_name(host)
    return True


def _is_name(host: str) -> bool:
    last = host.rstrip(".").rpartition(".")[2]
    return len(host) <= 253 and _HOST.fullmatch(host) is not None and not last.isdigit()
