"""The Request-URIs of forwards, from the destinations' URI templates."""

from __future__ import annotations

from engine.config import Destinations
from rules.decide import ForwardTo
from sip import headers


def uri_of(destinations: Destinations, forward: ForwardTo) -> str:
    """The Request-URI of a forward's new leg."""
    return uri_at(destinations, forward.kind, forward.number, forward.cause)


def uri_at(destinations: Destinations, kind: str, number: str, cause: int) -> str:
    """The Request-URI of a target; `cause` as in RFC 4458."""
    template: str = getattr(destinations, kind)
    uri = fill(template, number)
    if kind == "voicemail":
        # Always a deposit, with mailbox and reason: no caller can listen to a mailbox.
        uri += headers.voicemail_parameters(uri.partition(";")[0], cause)
    return uri


def fill(template: str, number: str) -> str:
    """A destination's URI: {number} in E.164 with +, {national} without it."""
    return template.replace("{number}", number).replace("{national}", number.lstrip("+"))
