"""Forwards into Asterisk's mailboxes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios import numbers
from tests.scenarios.endpoint import Call
from tests.scenarios.setup import to_voicemail
from tests.servers.site import CALLER, Site

ACCUEIL = "+33972101001"  # the mailbox of docs/integration.md
FORWARDS: dict[str, dict[str, Any]] = {
    "unconditional": {},
    "busy": {},
    "no_answer": {"after_s": 5},
    "unreachable": {},
}


async def deposit(site: Site, call: Call) -> dict[str, str]:
    """Speak after the tone and hang up; returns the metadata of the message in the mailbox."""
    voice = site.voice_of(call)
    await site.answered(call, voice)
    await site.asterisk.until(lambda: "beep" in site.asterisk.played(), "a tone to speak after")
    await voice.says(75)
    await call.hang_up()
    (message,) = await site.asterisk.messages(ACCUEIL)
    return message


@pytest.fixture(autouse=True)
def _mailbox(site: Site) -> None:
    site.asterisk.empty(ACCUEIL)
    site.asterisk.greet(ACCUEIL)


@pytest.mark.parametrize("condition", FORWARDS)
async def test_a_forward_ends_in_the_right_mailbox_with_its_greeting(
    site: Site, condition: str
) -> None:
    phone = await site.endpoint()
    forwards = {condition: to_voicemail(ACCUEIL, **FORWARDS[condition])}
    contacts = [] if condition == "unreachable" else [phone.uri()]
    site.line(number=ACCUEIL, to=contacts, forwards=forwards)
    await site.settle()
    call = await site.outside_call("0972101001")
    if condition in ("busy", "no_answer"):
        ring = await phone.incoming()
        ring.respond(486 if condition == "busy" else 180)
    message = await deposit(site, call)
    assert CALLER in message["callerid"]
    assert int(message["duration"]) >= 1
    greeting = "busy" if condition == "busy" else "unavail"
    assert site.asterisk.played()[0] == greeting
    record = await site.record_of(ACCUEIL)
    assert (record["condition"], record["outcome"]) == (condition, "answered")


async def test_a_withheld_number_is_not_written_into_the_mailbox(site: Site) -> None:
    site.line(number=ACCUEIL, forwards={"unconditional": to_voicemail(ACCUEIL)})
    await site.settle()
    call = await site.outside_call(
        ACCUEIL,
        from_='"Anonymous" <sip:anonymous@anonymous.invalid>',
        headers=[("Privacy", "id")],
    )
    message = await deposit(site, call)
    assert message["callerid"] == '"Anonymous" <anonymous>'
    texts = site.asterisk.mailbox(ACCUEIL).glob("INBOX/*.txt")
    assert not [path for path in texts if CALLER[-8:] in path.read_text()]


async def test_a_line_without_a_mailbox_is_not_answered(site: Site) -> None:
    """And not billed. Earlier it was answered and ended after 10 ms."""
    line = numbers.line_number()
    site.line(number=line, forwards={"unconditional": to_voicemail(line)})
    await site.settle()
    call = await site.outside_call(line)
    await call.receive(480)
    record = await site.record_of(line)
    assert record["outcome"] == "unreachable"
    assert not record["answered"]
    assert f"no mailbox {line}@renvoi" in site.asterisk.log
