"""The registrar (RFC 3261 10) for phones of lines with credentials.

It writes accepted contacts to `reg:<number>`, and checks the password of a phone that dials a star
code (`starcode.py`). `digest.py` has the passwords, nonces and the limit on guesses. It is not on
the path of other calls. More: docs/registration.md.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from engine.registration import digest
from engine.registration.bindings import MOST_CONTACTS, Bindings, TooMany
from engine.registration.dialled import Dialled
from engine.registration.digest import Answer, Guesses, Nonces
from engine.registration.flows import Flows
from engine.registration.own_addresses import OwnAddresses, goes_by_path, hops_of, is_by_address
from engine.services import Services
from rules.contact import Contact, member_of, read_contact, read_contacts
from rules.model import Credentials, DocumentError
from sip import grammar, headers
from sip.flow import Flow
from sip.message import Message
from sip.peers import Peers
from store import background_tasks
from store.lines import Unavailable
from store.redis_errors import REDIS_ERRORS

if TYPE_CHECKING:
    from sip.outside_dialogs import Request

DEFAULT_EXPIRES_S = 3600
MOST_WAITING = 1000  # REGISTERs in progress at once; a storm must not slow Redis for calls
RETRY_AFTER_S = 5
UNDERSTOOD = frozenset((b"path",))  # option tags that a phone may require
GUESSES_BY_SOURCE, GUESSES_BY_LINE = 10, 100  # wrong answers a minute
_LONGEST_S = 2**32 - 1  # RFC 3261 20.19
_NOBODY = Credentials("", "")
_Q = re.compile(rb"[01](?:\.[0-9]*)?|\.[0-9]+")


class RegisterRefused(Exception):
    """A REGISTER is not accepted: code, result for the counter, header fields."""

    def __init__(self, code: int, result: str, block: str = "") -> None:
        super().__init__(code, result)
        self.code, self.result, self.block = code, result, block


class Registrar:
    """Answers REGISTER for one worker."""

    def __init__(
        self, services: Services, dialled: Dialled, places: OwnAddresses, secret: bytes
    ) -> None:
        self._services = services
        self._dialled = dialled
        self._places = places
        self._nonces = Nonces(secret)
        self._bindings = Bindings(services.redis)
        self._tasks: set[asyncio.Task[None]] = set()
        self.flows = Flows()
        self._by_source = Guesses(GUESSES_BY_SOURCE)
        self._by_line = Guesses(GUESSES_BY_LINE)

    async def start(self) -> None:
        """Nothing to start: each REGISTER starts its own task."""

    async def close(self) -> None:
        await background_tasks.end(self._tasks)

    def on_register(self, request: Request) -> None:
        """Handle a REGISTER: refused now if there are too many, otherwise answered when Redis has
        answered."""
        if len(self._tasks) >= MOST_WAITING:
            self._services.metrics.registration("overload")
            request.respond(503, b"Retry-After: %d" % RETRY_AFTER_S)
            return
        task = self._services.loop.create_task(self._answer(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: Request) -> None:
        to = request.message.first(b"to") or b""
        number = self._services.numbering.quick(headers.user_of(to))
        try:
            code, result, block = 200, "accepted", await self._register(request, number)
        except RegisterRefused as refusal:
            code, result, block = refusal.code, refusal.result, refusal.block
        except (Unavailable, *REDIS_ERRORS):
            code, result, block = 503, "redis_away", f"Retry-After: {RETRY_AFTER_S}"
        except Exception:
            self._services.log.exception("register.error")
            code, result, block = 500, "error", ""
        self._services.metrics.registration(result)
        if result != "challenged":
            self._services.log.info(
                "register", number=number, source=request.source, code=code, result=result
            )
        request.respond(code, block.encode())

    async def _register(self, request: Request, number: str | None) -> str:
        """The header fields of the 200. Raises RegisterRefused."""
        message = request.message
        if asked := headers.unsupported(message, b"require", UNDERSTOOD):
            raise RegisterRefused(420, "malformed", f"Unsupported: {asked.decode('latin-1')}")
        if number is None:
            raise RegisterRefused(404, "unknown")
        entry = await self._services.store.look_up(number)
        line = entry.line
        credentials = line.credentials if line is not None else None
        sender = sender_of(request, self._services.endpoint.trusted)
        await self.authenticate(message, sender, number, credentials)
        if line is None or line.suspended:
            raise RegisterRefused(403, "suspended")
        return await self._bind(message, number, request.trusted, request.flow)

    # -- authorization ----------------------------------------------------------------------------

    async def authenticate(
        self,
        message: Message,
        source: str,
        number: str,
        credentials: Credentials | None,
        method: str = "REGISTER",
        dialled: str | None = None,
    ) -> None:
        """Raises RegisterRefused unless the phone has the line's password. Requests for unknown
        lines are challenged too, so that nobody learns which lines exist. Wrong answers are counted
        for `source`. The digest's URI must match `dialled`, if given (RFC 7616 3.4.6)."""
        now, at = time.time(), time.monotonic()
        known = credentials or _NOBODY
        answer = self._answer_of(message)
        if answer is None or not self._nonces.is_ours(answer.nonce, number):
            raise self._challenge(number, known, stale=False)
        if dialled is not None and grammar.user_of(answer.uri.encode()) != dialled:
            raise RegisterRefused(403, "wrong_password")
        wait_s = max(self._by_source.wait_s(source, at), self._by_line.wait_s(number, at))
        if wait_s:
            raise RegisterRefused(403, "limited", f"Retry-After: {wait_s}")
        secret = known.ha1_sha256 if answer.algorithm == "SHA-256" else known.ha1
        right = digest.is_right(answer, method, secret)
        if not (secret and right and answer.username == known.user):
            self._by_source.wrong(source, at)
            self._by_line.wrong(number, at)
            raise RegisterRefused(403, "wrong_password")
        if not self._nonces.is_fresh(answer.nonce, now):
            raise self._challenge(number, known, stale=True)
        life_s = 2 * digest.NONCE_LIFE_S
        if not await self._bindings.use_nonce(answer.nonce, answer.count, life_s):
            raise self._challenge(number, known, stale=True)

    def _answer_of(self, message: Message) -> Answer | None:
        realm = self._services.config.sip.realm
        for value in message.values(b"authorization"):
            answer = digest.read_answer(value.decode("utf-8", "replace"))
            if answer is not None and answer.realm == realm:
                return answer
        return None

    def _challenge(self, number: str, known: Credentials, *, stale: bool) -> RegisterRefused:
        nonce, sha256 = self._nonces.make(number, time.time()), bool(known.ha1_sha256)
        values = digest.challenges(
            self._services.config.sip.realm, nonce, sha256=sha256, stale=stale
        )
        lines = "\r\n".join(f"WWW-Authenticate: {value}" for value in values)
        return RegisterRefused(401, "stale" if stale else "challenged", lines)

    # -- bindings ---------------------------------------------------------------------------------

    async def _bind(self, message: Message, number: str, trusted: bool, flow: Flow) -> str:
        """`trusted`: the source may be an edge. A phone that registers directly sends no Path (RFC
        3327 5.2: proxies add it). A Path is then refused, not ignored: otherwise an edge missing in
        `sip.trusted_peers` would lose its phones silently.
        """
        now = time.time()
        entries = headers.entries(message, b"contact")
        only = entries == [b"*"]
        if only and _header_seconds(message) != 0:
            raise RegisterRefused(400, "malformed")  # RFC 3261 10.3 step 6
        path = b", ".join(headers.entries(message, b"path")).decode("latin-1") or None
        if path is not None and not trusted:
            raise RegisterRefused(403, "misplaced")
        asked = [] if only else [self._change(message, one, path, now) for one in entries]
        for contact in asked:
            if contact.expires and not self._is_a_phones(contact, trusted):
                raise RegisterRefused(403, "misplaced")
        try:
            found = await self._bindings.bind(number, asked, now=now, most=MOST_CONTACTS, only=only)
        except TooMany:
            raise RegisterRefused(403, "too_many") from None
        contacts, _ = read_contacts(found)
        if path is None and len(headers.entries(message, b"via")) == 1:  # directly, without a proxy
            expiries = [0.0] if only else [contact.expires for contact in asked]
            if expiries:
                self.flows.note(flow, number, max(expiries) - now)
        fields = [contact_field(contact, now) for contact in contacts if contact.expires > now]
        if path is not None:
            fields += [f"Path: {path}", "Supported: path"]
        return "\r\n".join(fields)

    def _is_a_phones(self, contact: Contact, trusted: bool) -> bool:
        """Whether this contact can be a phone. Its URI does not matter if the edge's Path is
        sufficient, because private addresses repeat. A phone that registers directly must give an
        IP address, because the owner of a name can change it later.
        """
        places = self._places
        config = self._services.config
        servers = list(asdict(config.destinations).values())
        hops = hops_of(contact.path)
        if any(map(places.leads_here, hops)):
            return False
        # The topmost may be a gateway that is also the edge. A phone may have written those below
        # it.
        if any(places.leads_to(hop, servers) for hop in hops[1:]):
            return False
        if hops and goes_by_path(hops[0]):
            return True
        if not trusted:
            if not is_by_address(contact.uri):
                return False
            # An edge that is also the outbound proxy may name itself; a phone may not.
            servers.append(config.sip.outbound_proxy or "")
        if places.leads_here(contact.uri) or places.leads_to(contact.uri, servers):
            return False
        return not self._dialled.is_destination(contact.uri)

    def _change(self, message: Message, entry: bytes, path: str | None, now: float) -> Contact:
        """One Contact as it is stored; expiry 0 removes it."""
        named = grammar.name_addr(entry)
        uri, given = named.uri.decode("latin-1"), grammar.parameters(named.parameters)
        expires_s = _seconds(given.get(b"expires"))
        if expires_s is None:
            expires_s = _header_seconds(message)
        limits = self._services.config.sip
        if expires_s and expires_s < limits.register_min_s:
            raise RegisterRefused(423, "too_brief", f"Min-Expires: {limits.register_min_s}")
        expires = now + min(expires_s, limits.register_max_s) if expires_s else 0.0
        try:
            q = given.get(b"q", b"")
            preference = min(1.0, float(q)) if q and _Q.fullmatch(q) else 1.0
            instance = given.get(b"+sip.instance", b"").decode("latin-1")
            reg_id = given.get(b"reg-id", b"")
            flow = reg_id.decode() if reg_id.isdigit() and len(reg_id) <= 10 else ""
            contact = Contact(uri, path, expires, preference, instance, flow)
            return read_contact(member_of(contact), expires)  # else it is not written
        except (DocumentError, ValueError):
            raise RegisterRefused(400, "malformed") from None


def _header_seconds(message: Message) -> int:
    """The Expires header; the registrar's default without a valid one (RFC 3261 10.3)."""
    seconds = _seconds(message.first(b"expires"))
    return DEFAULT_EXPIRES_S if seconds is None else seconds


def _seconds(value: bytes | None) -> int | None:
    """Parse an expiry; None if it is malformed and the default applies (RFC 3261 10.3)."""
    return min(int(value[:20]), _LONGEST_S) if value and value.isdigit() else None


def contact_field(contact: Contact, now: float) -> str:
    """A Contact field of the 200."""
    given = member_of(replace(contact, path=None)).removeprefix(contact.uri)
    given = given.removeprefix(f"<{contact.uri}>")
    seconds = max(1, round(min(contact.expires - now, _LONGEST_S)))
    return f"Contact: <{contact.uri}>{given};expires={seconds}"


def sender_of(request: Request, trusted: Peers) -> str:
    """The sender, for counting guesses. Behind a trusted edge it is the address that the edge saw
    and added to the Via below its own (RFC 3261 18.2.1). Vias are read from the top while their
    writers are trusted, because a phone may have written the lower ones."""
    source = request.source
    for via in headers.entries(request.message, b"via")[1:]:
        _, semicolon, rest = via.partition(b";")
        seen = grammar.parameters(semicolon + rest).get(b"received")
        if not seen or source.encode() not in trusted:
            break
        source = seen.decode("latin-1").strip("[]")
    return source
