"""The Request-URIs of forwards, from the destinations' URI templates."""

from __future__ import annotations

from engine.config import Destinations
from rules.decide import ForwardTo
from sip import headers


def uri_of(destinations: Destinations, forward: ForwardTo) -> str:
    """The Request-URI of a forward's new leg."""
    template: str = getattr(destinations, forward.kind)
    uri = fill(template, forward.number)
    if forward.kind == "voicemail":
        # Always a deposit, with mailbox and reason: no caller can listen to a mailbox.
        uri += headers.voicemail_parameters(uri.partition(";")[0], forward.cause)
    return uri


def fill(template: str, number: str) -> str:
    """A destination's URI: {number} in E.164 with +, {national} without it."""
    return template.replace("{number}", number).replace("{national}", number.lstrip("+"))
