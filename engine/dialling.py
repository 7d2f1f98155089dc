"""The INVITEs of one call: to every contact or target that rings, at the servers of each in turn.
`ringing.py` waits for what becomes of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.call_facts import CallFacts
from engine.call_outcome import Outcome, Over
from engine.call_path import CallPath
from engine.call_services import CallServices
from engine.dialled_target import Branch
from engine.event_queue import Checked, Event, EventQueue, Resolved
from engine.failed_legs import Attempt
from rules.model import DocumentError
from sip import headers, privacy, relayed_fields, session_expires
from sip.address import Address
from sip.bodies import passing_body
from sip.features import features
from sip.message import Message
from sip.names import same_place
from sip.outgoing import Outgoing
from sip.replaces import End, May, anybody
from sip.settings import DialError, TooLarge
from store.keys import registrations_key

if TYPE_CHECKING:
    from sip.incoming import Incoming
    from sip.interfaces import Party

NO_MESSAGE = Message(b"")


class Dialling:
    """Dials contacts and targets; the legs report to `_hear`."""

    __slots__ = (
        "_beside",
        "_caller",
        "_decided",
        "_events",
        "_facts",
        "_invite",
        "_move_at",
        "_path",
        "_received",
        "_ringing",
        "_services",
        "_session_field",
        "_triggered",
        "_unresolved",
        "attempt",
        "holder",
        "may_name",
    )

    def __init__(
        self,
        services: CallServices,
        caller: Incoming,
        events: EventQueue,
        path: CallPath,
        facts: CallFacts,
    ) -> None:
        self._services = services
        self._caller = caller
        self._invite = caller.invite or NO_MESSAGE
        self._events = events
        self._path = path
        self._facts = facts
        self._ringing: dict[Outgoing, Branch] = {}  # the legs of the current attempt
        self._unresolved: set[Branch] = set()  # of it, those whose name is being resolved
        self._move_at = math.inf  # loop time at which one is given up, or its silent server is
        self._beside = False  # some of them ring beside a line's phones
        self.attempt = Attempt(facts)  # its failures so far
        self._session_field = session_expires.request_field(
            self._invite, services.config.timers.session_expires_s
        )
        self._received = time.perf_counter()
        self._decided = False
        self._triggered = 0.0
        self.holder: Party | None = None  # the leg whose far end rings, if known
        self.may_name: May = anybody  # the dialogs that the caller may name

    def _hear(self, event: Event) -> None:
        """An event of a leg."""
        raise NotImplementedError

    @property
    def no_phones(self) -> bool:
        """The caller requires a privacy towards phones that the engine cannot provide (RFC 3323
        5)."""
        return bool(self._caller.wish.undone)

    def dial(self, branch: Branch) -> None:
        """Ring one more contact or target in the current attempt. It is skipped if it cannot be
        rung, or if its `contact` leads to a server instead of a phone. Raises Over for a phone if
        there may be `no_phones`."""
        services, contact = self._services, branch.contact
        if self._caller.wish.undone and not branch.trusted:
            raise Over(Outcome.REJECTED, 500, "privacy")
        proxy = services.config.sip.outbound_proxy
        if proxy and not (branch.routes and same_place(branch.routes[0], proxy)):
            branch.routes = (f"<{proxy}>", *branch.routes)
        if branch.forward is not None:
            self._give_time(branch)
        if contact is not None:
            why = services.dialled.bars(contact)
            if why is not None:
                self._bar(branch, why)
                return
            names = services.dialled.names_of(contact, branch.place())
            if names:
                self._unresolved.add(branch)
                services.dialled.look_up(
                    contact, names, lambda why: self._events.put(Checked(branch, why))
                )
                return
        self._find(branch)

    def _give_time(self, branch: Branch) -> None:
        """Of a target of a list, or one beside a line: it has its own time from now on."""
        self._beside |= branch.beside is not None
        branch.until = self._services.loop.time() + branch.ring_s
        self._move_at = min(self._move_at, branch.until)

    def _bar(self, branch: Branch, why: str) -> None:
        error = DocumentError("contact", branch.uri, why)
        self._services.rejections.document(registrations_key(branch.number), error)

    def _find(self, branch: Branch) -> None:
        """Resolve it, unless it is an IP address."""
        services, place = self._services, branch.place()
        if place is None:
            self._place(branch)
            return
        servers = services.endpoint.names.known(place)
        if servers is None:
            self._unresolved.add(branch)
            services.endpoint.names.tell(
                place, lambda found: self._events.put(Resolved(branch, found))
            )
        else:
            self._resolved(branch, servers)

    def _resolved(self, branch: Branch, servers: Sequence[Address]) -> None:
        why = None
        if branch.contact is not None and not self._services.config.sip.outbound_proxy:
            why = self._services.dialled.bars_servers(branch.contact, servers)
        if why is not None:
            self._bar(branch, why)
        elif servers:
            branch.servers = list(servers)
            self._place_at_next(branch)
        else:
            self._services.log.warning("call.unresolved", call=self._facts.id, uri=branch.uri)

    def _place_at_next(self, branch: Branch) -> None:
        """Send it to the next of its servers, which has some time to respond."""
        branch.server = branch.servers.pop(0)
        branch.move_at = math.inf
        if branch.servers:
            timers = self._services.config.timers
            branch.move_at = self._services.loop.time() + timers.next_server_s
            self._move_at = min(self._move_at, branch.move_at)
        self._place(branch)

    def _place(self, branch: Branch) -> None:
        services, invite, diverted = self._services, self._invite, self._path.diverted
        if branch.beside is not None:
            diverted = [*diverted, branch.beside]
        block = relayed_fields.invite_block(
            invite,
            trusted=branch.trusted,
            diverted=diverted,
            target=branch.uri,
            host=services.endpoint.host,
            branch=branch.turn or 1,
            reliable=branch.alone and self._caller.reliable is not None,
            extra=self._session_field,
        )
        body, content_type = passing_body(invite, to_trusted=branch.trusted)
        if invite.tells_dialogs:
            end = End(branch.uri, branch.routes, self.holder)
            block = services.endpoint.dialog_names.pass_on(block, end, self.may_name)
        try:
            leg = services.endpoint.dial(
                branch.uri,
                from_=privacy.caller_shown(invite, trusted=branch.trusted),
                to=headers.without_tag(invite.first(b"to") or b""),
                block=block,
                body=body,
                content_type=content_type,
                max_forwards=self._caller.max_forwards - 1,
                routes=branch.routes,
                call=self._facts.call_id,
                server=branch.server,
                trusted=branch.trusted,
                alone=branch.alone,
                features=features(invite, to_trusted=branch.trusted),
                listener=self._hear,
            )
        except DialError as error:
            services.log.warning("call.undialled", call=self._facts.id, error=str(error))
            self.attempt.too_large |= isinstance(error, TooLarge)
            return
        leg.owner = self._facts
        self._ringing[leg] = branch
        if branch.forward is not None:
            self._facts.offer(leg, branch.forward)
        self._facts.dialled(leg, branch.role, branch.number)
        self._measure()

    def _measure(self) -> None:
        now, metrics = time.perf_counter(), self._services.metrics
        if not self._decided:
            self._decided = True
            metrics.decision.observe(now - self._received)
        condition = self._facts.condition
        if self._triggered and condition != "none":
            metrics.forward_delay[condition].observe(now - self._triggered)
        self._triggered = 0.0

    def triggered(self) -> None:
        """A condition was met, or the call reached a line: start measuring the forward's delay."""
        self._triggered = time.perf_counter()
