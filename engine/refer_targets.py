"""Where a REFER (RFC 3515) may lead.

A phone that gets a REFER dials its target, with its own account and without the rules of the
transferring line. So the engine checks a Refer-To like a forward of that line: no suspended line or
fleet, no number that may not be a target, no server of the destinations, and no headers but
Replaces, Require and Subject. With `sip.refer: passed` a telephony server checks and bills instead.
Star codes and ambiguous values are always refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes

from engine.call import Handovers
from engine.call_services import CallServices
from engine.transfers import facts_of, number_at
from rules.model import Destination, Kind
from rules.numbers import NumberError
from rules.starcode import Action, StarCodeError, looks_like_code, read_code
from sip import grammar, headers
from sip.message import Message
from sip.referral import Referral, refer_to_of
from sip.replaces import May

if TYPE_CHECKING:
    from sip.interfaces import Party
    from store.cache import Entry

KEPT = frozenset((b"replaces", b"require", b"subject"))
"""The headers that a checked Refer-To may have (RFC 3261 19.1.1)."""
# One name-addr or addr-spec with its parameters and nothing else (RFC 3261 20.10): ambiguous values
# are refused.
_ONE = re.compile(
    rb'(?:(?:"(?:[^"\\]|\\.)*"\s*|[^"<>;:]*)<\s*([^<>\s"]+)\s*>|([^<>\s",;?]+))\s*(?:;[^<>,]*)?'
)
_SCHEME = re.compile(r"(?i)(sips?|tel):")
_CONTEXT = re.compile(r"(?i);phone-context=(\+[0-9]+)")
_DIALLED = re.compile(r"(\+?[0-9]{3,})[pPwWxX,;*#0-9]*")  # and digits that follow in the call
_SEPARATORS = re.compile("[\\s\u00a0\u2009\u202f.()/-]")


class Referrals:
    """The REFERs of one worker."""

    def __init__(self, services: CallServices, handovers: Handovers) -> None:
        self._services = services
        self._transfers, self._replacements = handovers

    def on_refer(self, referrer: Party, message: Message) -> Referral:
        """Decide on a REFER from one side of a call to the other."""
        services = self._services
        checked = services.config.sip.refer == "checked"
        values = message.values(b"refer-to")
        entries = headers.entries(message, b"refer-to")
        found = _ONE.fullmatch(entries[0]) if len(values) == len(entries) == 1 else None
        if found is None:
            return self._refused(400, referrer, "not one Refer-To")
        uri = (found[1] or found[2]).decode("latin-1")
        bare = uri.partition("?")[0]
        user = grammar.user_of(bare.encode("latin-1"))
        # With a `?` in the user part the end of the URI is ambiguous.
        is_sip = uri[:3].lower() == "sip"
        if is_sip and (bare.count("@") > 1 or (not user and "@" in uri)):
            return self._refused(400, referrer, "not one Refer-To")
        if services.config.numbering.star_codes and changes_forwards(user):
            return self._refused(403, referrer, "star code")
        if self._is_suspended(referrer):
            return self._refused(403, referrer, "suspended")
        if checked:
            code, why = self._check(referrer, bare, user)
            if code:
                return self._refused(code, referrer, why)
        target = services.endpoint.dialog_names.in_uri(
            entries[0], self._may_name(referrer), KEPT if checked else None
        )
        field = refer_to_of(message)
        if target != entries[0]:
            field = b"Refer-To: " + target
        replaces = replaces_in(target).decode("utf-8", "replace")
        return Referral(0, field, self._transfers.referred(referrer, user, replaces))

    def _check(self, referrer: Party, uri: str, user: str) -> tuple[int, str]:
        """Why a forward of the line may not go there, as a code and a word; code 0 if it may."""
        if _SCHEME.match(uri) is None:
            return 416, "scheme"
        number = number_in(uri, user)
        if number:
            refused = self._why_refused(referrer, number)
            if refused is not None:
                return 403, refused
        dials = not referrer.trusted and uri[:4].lower() != "tel:"
        there = dials and self._services.dialled.is_destination(uri)
        return (403, "destination") if there else (0, "")

    def _why_refused(self, referrer: Party, number: str) -> str | None:
        """Why the transferring line may not forward there. Whether the number is a line of its
        fleet is taken from memory."""
        try:
            found = self._services.numbering.recognise(number)
        except NumberError:
            return "no_number"
        entry = self._line_at(referrer)
        target = self._services.store.latest(found.number)
        own = entry.line if entry is not None else None
        line = target.line if target is not None else None
        inside = own is not None and line is not None and own.fleet == line.fleet
        fleet = self._services.fleets.find(own.fleet) if own is not None else None
        to = Destination(Kind.NUMBER, found.number, refused=found.refused, country=found.country)
        return to.why_refused(inside, fleet.countries if fleet is not None else None)

    def _line_at(self, leg: Party) -> Entry | None:
        """The line at the far end of a leg, from memory."""
        facts = facts_of(leg)
        number = number_at(facts, leg) if facts is not None else ""
        return self._services.store.latest(number) if number else None

    def _is_suspended(self, referrer: Party) -> bool:
        """Whether the transferring line or its fleet is suspended, from memory."""
        entry = self._line_at(referrer)
        if entry is None or entry.line is None:
            return False
        fleet = self._services.fleets.find(entry.line.fleet)
        return entry.line.suspended or (fleet is not None and fleet.suspended)

    def _may_name(self, referrer: Party) -> May:
        """The sender of a REFER with Replaces must be a side of that call, or of its line's
        fleet."""
        facts = facts_of(referrer)
        number = number_at(facts, referrer) if facts is not None else ""

        def may(named: Party) -> bool:
            other = facts_of(named)
            if named is referrer or other is None:
                return named is referrer
            return bool(number) and self._replacements.is_party(number, other)

        return may

    def _refused(self, code: int, referrer: Party, why: str) -> Referral:
        facts = facts_of(referrer)
        call = facts.id if facts is not None else ""
        self._services.rejections.rejected("refer", lambda: f"{why} in the REFER of call {call}")
        return Referral(code)


def replaces_in(refer_to: bytes) -> bytes:
    """The unescaped Replaces of a Refer-To; empty without one."""
    for parameter in grammar.uri_headers(headers.uri_of(refer_to)).split(b"&"):
        name, _, value = parameter.partition(b"=")
        if unquote_to_bytes(name).strip().lower() == b"replaces":
            return unquote_to_bytes(value)
    return b""


def number_in(uri: str, user: str) -> str:
    """The number that a phone would dial for a user part; "" for a name."""
    plain = _SEPARATORS.sub("", user)
    context = _CONTEXT.search(unquote(uri))
    if context is not None and not plain.startswith("+"):
        plain = context[1] + plain
    found = _DIALLED.fullmatch(plain)
    if found is not None:
        return found[1]
    return plain if plain.removeprefix("+").isdigit() else ""


def changes_forwards(user: str) -> bool:
    """Whether a user part is a star code that changes a line, in any spelling: a transfer may not
    make a phone dial one."""
    twice = unquote(user)
    for text in (user, twice):
        for part in (text, text.partition(";")[0], text.partition(":")[0]):
            code = _SEPARATORS.sub("", part)
            if not looks_like_code(code):
                continue
            try:
                if read_code(code).action is not Action.STATUS:
                    return True
            except StarCodeError:
                pass
    return False
