"""A call that dials a star code: a phone changes its line's forwards, or asks for their status.

It rings nobody. The final response is the answer: 2xx means that the change is in force on every
worker (or the forward is on), anything else that nothing was changed (or it is off). The reason
phrase and a Warning have the text, for phones that show them. `rules/starcode.py` reads the code.
docs/star-codes.md has the codes, who may dial them, and why these responses.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from engine.call import Ends
from engine.call_facts import CallFacts
from engine.call_outcome import STAR_CODE, Outcome, Over
from engine.call_services import CallServices
from engine.caller_identity import (
    ASSERTED,
    FROM,
    REGISTERED,
    identify_caller,
    is_registered_phone,
    is_second_hand,
)
from engine.changes.acks import in_force
from engine.changes.change import Conflict, NoLine, Unreadable, change_line
from engine.event_queue import EventQueue, Stop
from engine.registration.registrar import RegisterRefused
from rules.applies import line_now, profile_now
from rules.decision import Circumstances
from rules.model import Condition, DocumentError, Line
from rules.starcode import Action, StarCode, StarCodeError, apply, is_on, looks_like_code, read_code
from sip import grammar
from sip.events import Acked, Ended
from sip.message import Message
from sip.state import EARLY, ENDED
from store.lines import Unavailable
from store.redis_errors import REDIS_ERRORS

if TYPE_CHECKING:
    from sip.incoming import Incoming

ACK_S = 40.0  # a leg stops waiting for its ACK after 64*T1, 32 s
RETRY_AFTER_S = 5
_MEDIA = re.compile(rb"^m=(\S+) \S+ ([^\r\n]+)", re.MULTILINE)
_TIME = re.compile(rb"^t=[^\r\n]+", re.MULTILINE)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]|[\"\\]")


def dialled_code(uri: bytes) -> str | None:
    """The user part of a URI if it is meant as a star code."""
    user = grammar.user_of(uri)
    return user if looks_like_code(user) else None


class StarCall:
    """The call flow of one INVITE to a star code. `dialled` as `dialled_code` gives it."""

    def __init__(
        self, services: CallServices, ends: Ends, leg: Incoming, dialled: str, id_: str
    ) -> None:
        assert leg.invite is not None
        self._services = services
        self._ends = ends
        self._leg = leg
        self._invite = leg.invite
        self._dialled = dialled
        self._who = identify_caller(leg.invite, services.numbering)
        self._events = EventQueue(services.deadlines)
        self._extra = b""  # header fields of the final response
        self._words = ""
        self._found: Circumstances | None = None
        leg.listener = self._events.put
        shown = _UNPRINTABLE.sub("?", dialled)[:64]
        self.facts = CallFacts(
            id_,
            leg.invite.call_id,
            self._who.number or "",
            shown,
            services.changed,
            withheld=leg.wish.number,
        )
        self.facts.caller_leg = leg
        leg.owner = self.facts
        if self._who.number:
            self.facts.caller_by = ASSERTED if self._who.asserted else FROM

    @property
    def source(self) -> str:
        """The IP address that the call came from."""
        return self._leg.source

    async def run(self) -> None:
        """Never raises; reports the end on every path."""
        over = Over(Outcome.FAILED, 500, "internal")
        try:
            over = await self._carry_out()
        except Over as end:
            over = end.with_traceback(None)  # it and this frame would keep each other alive
        except Exception:
            self._services.log.exception("call.error", call=self.facts.id)
        finally:
            self._events.close()
            if self._leg.state <= EARLY:
                message = self._message(over.code, b"") if self._words else None
                self._leg.reject(over.code if over.code >= 300 else 500, message, self._extra)
            self._leg.detach()
            self._leg.hangup()
            self._ends.over(self, over)

    async def _carry_out(self) -> Over:
        """The whole call. Raises Over if it is refused or fails."""
        try:
            code = read_code(self._dialled)
            line = await self._may()
            if code.action is Action.STATUS:
                self._show_status(code, line)
            else:
                line = await self._change(code, line)
                self._words = self._describe(code, line)
        except StarCodeError as error:
            raise self._refused(error.code, error.why, error.problem) from None
        except DocumentError as error:
            raise self._refused(403, "not_allowed", str(error)) from None
        except RegisterRefused as refusal:
            self._extra = refusal.block.encode()
            raise Over(Outcome.REJECTED, refusal.code, refusal.result) from None
        except NoLine:  # deleted meanwhile
            raise self._refused(403, "not_this_phone", "no line of ours") from None
        except (Unavailable, *REDIS_ERRORS) as error:
            if not isinstance(error, Unavailable):
                self._services.rejections.redis("starcode", error)
            self._extra = b"Retry-After: %d" % RETRY_AFTER_S
            raise Over(Outcome.FAILED, 503, "redis_away") from None
        except Unreadable:
            raise Over(Outcome.FAILED, 500, "bad_document") from None
        except Conflict:
            raise Over(Outcome.FAILED, 500, "changed_by_others") from None
        return await self._confirm()

    # -- authorization ----------------------------------------------------------------------------

    async def _may(self) -> Line:
        """The line whose phone calls. Raises Over or RegisterRefused if the caller is not
        sufficiently identified."""
        services, number = self._services, self._who.number
        if number is None or is_second_hand(self._invite):
            raise self._refused(403, "not_this_phone", "dial this from the line's own phone")
        entry = services.store.peek(number) or await services.store.look_up(number)
        line = entry.line
        contacts = entry.live_contacts(time.time())
        flow = self._leg.flow
        phone = (
            flow is not None
            and bool(contacts)
            and (
                services.registrar.flows.lead_to(flow, number)
                or is_registered_phone(self._invite, flow, contacts, self._who.asserted)
            )
        )
        if phone and line is not None and not self._who.asserted:
            self.facts.caller_by = REGISTERED
        if line is None or (not phone and line.credentials is None):
            raise self._refused(403, "not_this_phone", "not a registered phone of this line")
        if not phone:
            await services.registrar.authenticate(
                self._invite, self.source, number, line.credentials, "INVITE", self._dialled
            )
        if line.suspended:
            raise self._refused(403, "suspended", "the line is suspended")
        fleet = services.fleets.find(line.fleet) or await services.fleets.load(line.fleet)
        if fleet.suspended:
            raise self._refused(403, "fleet_suspended", "the line's fleet is suspended")
        self._found = Circumstances(time.time(), False, fleet.calendars, fleet.lists)
        return line

    # -- the code ---------------------------------------------------------------------------------

    async def _change(self, code: StarCode, line: Line) -> Line:
        """Write the change and wait until it is in force. Returns the changed line."""
        services = self._services
        mailbox = services.config.numbering.voicemail_codes
        self._check_caller()
        self._check_profile(code, line)

        def edit(document: dict[str, Any]) -> None:
            apply(code, document, line.number, services.numbering, mailbox, time.time())

        changed = await change_line(
            services.redis, line.number, edit, services.numbering, who=line.number, how="phone"
        )
        try:
            proof = (await in_force(services.redis, line.number)).plain()
        except REDIS_ERRORS:
            proof = {}  # it is written nevertheless
        services.log.info(
            "starcode",
            call=self.facts.id,
            line=line.number,
            action=code.action,
            conditions=[each.value for each in code.conditions] or ["do_not_disturb"],
            changed=changed.written,
            in_force=proof,
        )
        self._check_caller()
        return changed.line

    def _check_profile(self, code: StarCode, line: Line) -> None:
        """Raises Over if the profile that is used now would make the change one without effect."""
        use = profile_now(line, self._found)
        if use is None:
            return
        held = line.profiles[use.name].do_not_disturb and code.action is not Action.ACTIVATE
        if code.conditions or held:
            words = f"profile {use.name} is used, change it or leave it first"
            raise self._refused(403, "in_profile", words)

    def _show_status(self, code: StarCode, line: Line) -> None:
        """Raises Over with 480 if none of the forwards is on."""
        mailbox = self._services.config.numbering.voicemail_codes
        line = line_now(line, self._found)
        words = self._describe(code, line)
        if not is_on(code, line, self._services.numbering, mailbox, time.time()):
            raise self._refused(480, "forward_off", words)
        self._words = words

    def _describe(self, code: StarCode, line: Line) -> str:
        if not code.conditions:
            return f"do not disturb: {'on' if line.do_not_disturb else 'off'}"
        now = time.time()
        return "; ".join(described(line, condition, now) for condition in code.conditions)

    # -- the end ----------------------------------------------------------------------------------

    async def _confirm(self) -> Over:
        """Send the 200 without media, and BYE as soon as it is acknowledged."""
        self._check_caller()
        leg = self._leg
        if not leg.answer(200, self._message(200, no_media(self._invite.body, self._host))):
            self._check_caller()
            raise Over(Outcome.FAILED, 500, "answer_not_sent")
        self.facts.answered = self.facts.clock()
        deadline = self._services.loop.time() + ACK_S
        while not leg.state >= ENDED:
            event = await self._events.get(deadline)
            if event is None or isinstance(event, Acked | Ended | Stop):
                break
        return Over(Outcome.ANSWERED, 200, STAR_CODE)

    def _check_caller(self) -> None:
        """Raises Over if the caller has hung up."""
        if self._leg.state is ENDED:
            raise Over(Outcome.CANCELLED, 487, "caller")

    def _refused(self, code: int, why: str, words: str) -> Over:
        self._words = words
        return Over(Outcome.REJECTED, code, why)

    def _message(self, code: int, body: bytes) -> Message:
        """A response with text: the phrase that phones show, and a Warning (RFC 3261 20.43)."""
        words = _UNPRINTABLE.sub("?", self._words)
        lines = [f"SIP/2.0 {code} {words[:79]}", f'Warning: 399 {self._host} "{words[:400]}"']
        if body:
            lines.append("Content-Type: application/sdp")
        return Message("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    @property
    def _host(self) -> str:
        host = self._services.endpoint.host
        return f"[{host}]" if ":" in host and not host.startswith("[") else host

    def stop(self, code: int, why: str, reason: bytes = b"") -> None:
        """Ask the call to end."""
        self._events.put(Stop(code, why, reason))

    def now(self) -> dict[str, Any]:
        """The call as `/calls` shows it."""
        return self.facts.now()


def described(line: Line, condition: Condition, now: float) -> str:
    """One forward in a few words: "busy to number +33612345678: on". `now` in unix seconds: a
    forward that has ended is off."""
    rules = line.all_of(condition)
    forward = rules[0] if rules else None
    name = condition.value.replace("_", " ")
    on = [each.is_on_at(now) for each in rules]
    if len(rules) > 1:
        return f"{name}: {sum(on)} of {len(rules)} forwards on"
    if forward is not None and forward.rejects:
        return f"{name}: refuses callers: {'on' if on[0] else 'off'}"
    if forward is None or forward.to is None:
        return f"{name}: none"
    own = forward.to.number == line.number
    to = forward.to.kind.value if own else f"{forward.to.kind.value} {forward.to.number}"
    waits = condition is Condition.NO_ANSWER and forward.after_s is not None
    after = f" after {forward.after_s} s" if waits else ""
    return f"{name} to {to}{after}: {'on' if on[0] else 'off'}"


def no_media(offer: bytes, host: str) -> bytes:
    """An answer that rejects all offered streams (RFC 3264 6), or, without an offer, an offer
    without streams (5)."""
    family = "IP6" if host.startswith("[") else "IP4"
    bare = host.strip("[]")
    when = _TIME.search(offer)
    lines = [
        b"v=0",
        f"o=renvoi {int(time.time())} 1 IN {family} {bare}".encode(),
        b"s=-",
        f"c=IN {family} {bare}".encode(),
        when[0] if when else b"t=0 0",
        *(b"m=%s 0 %s" % (kind, rest) for kind, rest in _MEDIA.findall(offer)),
    ]
    return b"\r\n".join(lines) + b"\r\n"
