"""Calls that take over another one (INVITE with Replaces, RFC 3891): who may, and who rings.

The name of a dialog gives no right to it, because Call-IDs and tags are in dumps, logs and headers.
The called number must be a side of the replaced call. The caller must be a side of it, a line of
one's fleet, or a party that such a one transferred there by a REFER through this engine. A call is
taken over once, which ends it. The far end rings at the place where it was called, never at a
caller's Contact: a line that placed the call rings at its registered phones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from engine.call_outcome import Outcome, Over
from engine.call_services import CallServices
from engine.records.record import ForwardRecord
from engine.registration.own_addresses import hops_of
from engine.transfers import Owed, facts_of, paid_for
from rules.contact import Contact
from rules.model import Line
from sip.names import same_place
from sip.outgoing import Outgoing
from sip.replaces import is_clear, parse
from store.lines import Unavailable

REPLACED = b'Reason: SIP;cause=200;text="Call completed elsewhere"'

if TYPE_CHECKING:
    from engine.call_facts import CallFacts
    from sip.interfaces import Party
    from sip.message import Message


class Elsewhere(Over):
    """Another worker has the dialog; `contact` is the field for the 302 to the caller."""

    def __init__(self, contact: bytes) -> None:
        super().__init__(Outcome.REJECTED, 302, "takeover_elsewhere")
        self.contact = contact


class Spot(NamedTuple):
    """One place to ring: a URI and its Route values; `contact` if it is a phone's, which is checked
    each time it rings (registration/dialled.py)."""

    uri: str
    routes: tuple[str, ...]
    contact: Contact | None = None


class Replaced(NamedTuple):
    """A call that another takes over.

    `before` are its facts; the far end of `leg` rings in the given role and with the given number,
    at `spots`. `line` is that number's line, if any; `paid` is what others pay for that far end.
    """

    before: CallFacts
    leg: Party
    role: str
    number: str
    spots: tuple[Spot, ...]
    line: Line | None
    paid: list[ForwardRecord]


class Ending(Protocol):
    """A call that can be ended."""

    def stop(self, code: int, why: str, reason: bytes = b"") -> None:
        """Ask it to end."""


class Replacements:
    """Replacements of one worker's calls. `find` returns an active call by its id."""

    def __init__(self, services: CallServices, find: Callable[[str], Ending | None]) -> None:
        self._services = services
        self._find = find

    async def ask(self, facts: CallFacts, invite: Message, owed: Owed | None) -> Replaced | None:
        """The call that a new one may take over; None if it names none of ours.

        It is claimed for the new one (`CallFacts.replaced_by`), which must `release` it on failure.
        Raises Over if it may not.
        """
        values = invite.values(b"replaces")
        if len(values) > 1 or not is_clear(values[0]) or invite.first(b"join") is not None:
            raise self._refused(facts, None, 400, "ambiguous")
        name, names = parse(values[0]), self._services.endpoint.dialog_names
        if name is None or not names.is_ours(name):
            await self._look_elsewhere(facts, invite)
            return None
        named = names.find(name)
        before = facts_of(named.leg) if named is not None and named.talks else None
        if named is None or before is None or before is facts:
            raise self._refused(facts, before, 481, "no_dialog")
        if facts.called not in _numbers(before):
            known = await self._line_of(facts.called)
            raise self._refused(facts, before, 404 if known is None else 403, "not_called")
        sent = owed is not None and parse(owed.replaces.encode()) == name
        initiators = (facts.identity, owed.who if owed is not None and sent else "")
        if not any([await self._may(number, before) for number in initiators]):
            raise self._refused(facts, before, 403, "no_party")
        replaced = await self._replaced(facts, before, named.leg)
        # Redis was asked meanwhile.
        if before.replaced_by or not named.talks or facts_of(named.leg) is not before:
            raise self._refused(facts, before, 481, "replaced")
        before.replaced_by = facts.id
        return replaced

    async def _look_elsewhere(self, facts: CallFacts, invite: Message) -> None:
        """Redirect the caller to the worker that has the dialog, if another one has. Over UDP that
        one already has the INVITE (sip/siblings.py)."""
        siblings = self._services.endpoint.siblings
        via = (invite.first(b"via") or b"").upper()
        if siblings is None or b"/UDP" in via:
            return
        transport = "tls" if b"/TLS" in via else "tcp"
        for place in await siblings.where(invite):
            if place.endswith(transport):
                raise Elsewhere(f"Contact: <sip:{facts.called}@{place}>".encode())

    def release(self, replaced: Replaced) -> None:
        """The new call failed; another one may try."""
        replaced.before.replaced_by = ""

    def over(self, replaced: Replaced) -> None:
        """The new call is answered: end the replaced one."""
        call = self._find(replaced.before.id)
        if call is not None:
            call.stop(500, "replaced", REPLACED)

    def unknown(self, facts: CallFacts) -> Over:
        """The end of a call that names an unknown dialog (RFC 3891 3)."""
        return self._refused(facts, None, 481, "no_dialog")

    def may_name(self, facts: CallFacts, leg: Party) -> bool:
        """Whether the caller may name the dialog of a leg to its far end (Join, Target-Dialog)."""
        other = facts_of(leg)
        number = facts.identity
        return other is not None and bool(number) and self.is_party(number, other)

    def is_party(self, number: str, facts: CallFacts) -> bool:
        """Whether a number is a side of a call, or a line of one's fleet, from memory."""
        if number in _numbers(facts):
            return True
        latest = self._services.store.latest
        entry = latest(number)
        if entry is None or entry.line is None:
            return False
        lines = (found.line for n in _lines(facts) if (found := latest(n)) is not None)
        return entry.line.fleet in _fleets(facts) | {line.fleet for line in lines if line}

    async def _may(self, number: str, facts: CallFacts) -> bool:
        """The same, from Redis."""
        if not number:
            return False
        for one in (number, *_lines(facts)):
            await self._line_of(one)
        return self.is_party(number, facts)

    async def _replaced(self, facts: CallFacts, before: CallFacts, leg: Party) -> Replaced:
        """The party that rings. Raises Over."""
        if isinstance(leg, Outgoing):
            record = before.legs[leg]
            role, number = record.role, record.number
            spots: tuple[Spot, ...] = (Spot(leg.uri, leg.routes),)
            line = None
            if role == "line":
                line = await self._line_of(number)
                path = ", ".join(self._path_of(leg)) or None
                spots = (Spot(leg.uri, leg.routes, Contact(leg.uri, path, math.inf)),)
        else:
            role, number, spots, line = await self._caller(facts, before)
        if role == "line":
            if line is None:
                raise self._refused(facts, before, 403, "no_line")
            fleet = self._services.fleets.find(line.fleet)
            fleet = fleet or await self._services.fleets.load(line.fleet)
            if line.suspended or fleet.suspended:
                raise self._refused(facts, before, 403, "suspended")
        return Replaced(before, leg, role, number, spots, line, paid_for(before, leg))

    async def _caller(
        self, facts: CallFacts, before: CallFacts
    ) -> tuple[str, str, tuple[Spot, ...], Line | None]:
        """Where the party that placed the call rings: at its line's phones, if it is one of our
        lines."""
        number = before.identity
        line = await self._line_of(number) if number and number != facts.identity else None
        if line is None:
            raise self._refused(facts, before, 403, "caller")
        entry = await self._services.store.look_up(number)
        contacts = entry.live_contacts(time.time())
        return "line", number, tuple(Spot(c.uri, hops_of(c.path), c) for c in contacts), line

    def _path_of(self, leg: Outgoing) -> tuple[str, ...]:
        """The Path by which a phone was called, without the outbound proxy before it."""
        proxy, routes = self._services.config.sip.outbound_proxy, leg.routes
        return routes[1:] if proxy and routes and same_place(routes[0], proxy) else routes

    async def _line_of(self, number: str) -> Line | None:
        try:
            return (await self._services.store.look_up(number)).line
        except Unavailable:
            raise Over(Outcome.FAILED, 503, "rules_unavailable") from None

    def _refused(self, facts: CallFacts, before: CallFacts | None, code: int, why: str) -> Over:
        services = self._services
        services.metrics.rejected("takeover")
        services.log.warning(
            "takeover.refused",
            call=facts.id,
            caller=facts.caller_shown,
            called=facts.called,
            code=code,
            why=why,
            of_call=before.id if before is not None else "",
            of_caller=before.caller_shown if before is not None else "",
            of_called=before.called if before is not None else "",
        )
        return Over(Outcome.REJECTED, code, f"takeover_{why}")


def _lines(facts: CallFacts) -> set[str]:
    """The numbers whose lines' fleets may take over the call."""
    legs = {record.number for record in facts.legs.values() if record.role == "line"}
    return {number for number in (facts.identity, facts.called) if number} | legs


def _numbers(facts: CallFacts) -> set[str]:
    """The numbers that are a side of a call, or were on its path."""
    found = {record.number for record in facts.legs.values()} | _lines(facts)
    for forward in facts.forwards:
        found |= {forward.line, forward.number}
    return found - {""}


def _fleets(facts: CallFacts) -> set[str]:
    return {forward.fleet for forward in facts.forwards}
