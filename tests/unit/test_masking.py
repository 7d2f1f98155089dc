"""Numbers in logs follow the policy; secrets never appear."""

from __future__ import annotations

import pytest

from engine.telemetry.masking import clean_event, mask, without_secrets

NUMBERS = [
    "+33972101001",
    "33972101001",
    "0972101001",
    "0033972101001",
    "%2B33972101001",
    "+33-972-101-001",
    "+33 9 72 10 10 01",
    "+33 (0)9.72.10.10.01",
    "09 72 10 10 01",
    "09.72.10.10.01",
    "3975123456",
]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("around", ["{}", "sip:{}@10.0.0.1:5060", "got '{}'", '"{}" <tel:{}>'])
def test_numbers_in_any_form(number: str, around: str) -> None:
    text = around.replace("{}", number)
    digits = "".join(c for c in number if c.isdigit())
    for policy in ("masked", "none"):
        shown = "".join(c for c in mask(text, policy) if c.isdigit())
        assert digits[-6:] not in shown
        assert len(shown) < len("".join(c for c in text if c.isdigit()))
    assert mask(text, "full") == text


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1:5060", "[2001:db8::1]:5060", "udp:192.168.100.200:50600", "503", "limits.calls",
     "2026-11-25", "12.5 s", "0-6b0b03-15"],
)  # fmt: skip
def test_what_is_no_number_stays(text: str) -> None:
    assert mask(text, "none") == text


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("redis://:hunter2@10.0.0.1:6379/0", "hunter2"),
        ("cannot reach rediss://user:hunter2@redis.example", "hunter2"),
        ("redis+sentinel://:hunter2@a:1,b:2/mymaster", "hunter2"),
        ("INVITE sip:alice:hunter2@10.0.0.1 SIP/2.0", "hunter2"),
        ('Authorization: Digest username="a", response="abc123hunter2"', "hunter2"),
        ("Proxy-Authorization: Digest hunter2", "hunter2"),
        ("{'authorization': 'Bearer hunter2'}", "hunter2"),
        ('Digest username="a", realm="r", response="hunter2"', "hunter2"),
        ('credentials {"user": "a", "ha1": "hunter2"}', "hunter2"),
        ("ha1_sha256: hunter2", "hunter2"),
        ("password=hunter2&x=1", "hunter2"),
        ("passphrase: 'hunter2'", "hunter2"),
        ("token = hunter2", "hunter2"),
        ("Bearer hunter2", "hunter2"),
    ],
)
def test_secrets_are_left_out(text: str, secret: str) -> None:
    shown = without_secrets(text)
    assert secret not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "text", ["sip:alice@10.0.0.1:5060;transport=tcp", "redis://10.0.0.1:6379/0", "call.end", "a@b"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_an_event_keeps_its_handles() -> None:
    event = {"call": "0-123456789-1", "call_id": "123456789@x", "called": "123456789", "n": 1234567}
    assert clean_event(event, "none") == event | {"called": "***"}
