"""The only access to line documents: every route reads and changes lines here, with its account's
rights.

For `Lines.read` a line of another fleet does not exist. Nothing else in `manager/` may use a
`line:` key (a test checks it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from redis.asyncio import Redis

from manager import preconditions
from manager.access import Who
from manager.failures import Broken, FieldError, NotFound, Outdated, Refused, Unavailable
from rules.fleet import Fleet, fleet_of
from rules.line_document import load_line
from rules.model import Condition, DocumentError, Line
from rules.numbers import Numbering
from rules.validate import (
    canonical,
    check_names,
    check_write,
    names_used,
    numbers_named,
    with_changed_profiles,
)
from store.documents import LINES, Attempt, attempts, read
from store.keys import fleet_key, line_key

TOO_DEEP = "is nested too deeply"
"""What can be read as JSON may be nested more deeply than what is written."""
_RESTLESS = "line {} is changed by others all the time"

Document = dict[str, Any]
# Reads for a displayed decision of the engine, without an account's rights.
EVERYBODY = Who("", None, "page")


@dataclass(frozen=True, slots=True)
class Stored:
    """A line as stored. `etag` changes with every byte of the document."""

    line: Line
    document: Document = field(repr=False)
    etag: str

    @property
    def number(self) -> str:
        return self.line.number

    @property
    def fleet(self) -> str:
        return self.line.fleet


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a change. `changed` false: it was so already, nothing was written. `before`:
    the replaced document."""

    stored: Stored
    changed: bool
    before: Document = field(default_factory=dict, repr=False)


class Lines:
    """The line documents of one Redis, with access checks."""

    def __init__(self, redis: Redis, numbering: Numbering) -> None:
        self._redis: Any = redis
        self._numbering = numbering

    async def read(self, who: Who, number: str) -> Stored:
        """Raises NotFound (also for a line of another fleet), Broken."""
        return self._let_in(who, number, *await self._raws([number]))

    async def several(self, who: Who, numbers: Iterable[str]) -> dict[str, Stored]:
        """Those of the lines that exist, that the account may see, and whose document is valid."""
        wanted = list(dict.fromkeys(numbers))
        raws = await self._raws(wanted)
        found = {}
        for number, raw in zip(wanted, raws, strict=True):
            try:
                found[number] = self._let_in(who, number, raw)
            except (NotFound, Broken):
                continue
        return found

    async def fleet_lines(self, fleet: str, numbers: Iterable[str]) -> dict[str, Line | None]:
        """The lines of these numbers from the point of view of `fleet`: lines of others are outside
        numbers."""
        found = await self.several(Who("", fleet, "page"), numbers)
        return {number: found[number].line if number in found else None for number in numbers}

    async def any_of(
        self, fleets: Iterable[str], numbers: Sequence[str]
    ) -> dict[str, dict[str, Line | None]]:
        """The same for several fleets at once: by fleet, then by number."""
        found = [stored.line for stored in (await self.several(EVERYBODY, numbers)).values()]
        return {
            fleet: {line.number: line if line.fleet == fleet else None for line in found}
            for fleet in fleets
        }

    async def change(
        self,
        who: Who,
        number: str,
        edit: Callable[[Document], None],
        etag: str | None = None,
    ) -> Written:
        """Change one document: check it as a whole, compare and write it in one step, with its
        entry in the audit log. `edit` changes a copy of the document.

        Raises NotFound, Broken, Refused, Outdated (its etag is no longer `etag`).
        """

        for attempt in attempts(self._redis, LINES):
            raw = (await attempt.read([number])).get(number)
            stored, document = self._edited(who, number, raw, edit, etag)
            written = await self._write(attempt, who, number, stored, document)
            if written is not None:
                return written
        raise Unavailable(_RESTLESS.format(number))

    async def preview(
        self, who: Who, number: str, edit: Callable[[Document], None], etag: str | None = None
    ) -> Stored:
        """The result of `change` without writing, with the same checks and errors."""
        (raw,) = await self._raws([number])
        stored, document = self._edited(who, number, raw, edit, etag)
        line = await self._check(number, stored, document)
        return Stored(line, canonical(document, line), stored.etag)

    async def replace(
        self,
        who: Who,
        number: str,
        document: Document,
        etag: str | None,
        *,
        new: bool,
        known: bool,
    ) -> Written:
        """Write a whole document, for an operator. Missing credentials are kept.

        `new`: only if the line does not exist yet; `known`: only if it does. Raises Refused,
        Outdated.
        """

        for attempt in attempts(self._redis, LINES):
            raw = (await attempt.read([number])).get(number)
            stored = None if raw is None else self._if_readable(number, raw)
            if raw is not None and new:
                raise Outdated(f"line {number} is there already")
            if raw is None and known:
                raise Outdated(f"line {number} is not there")
            preconditions.require(etag, None if stored is None else stored.etag, f"line {number}")
            result = dict(document)
            if raw is not None and "credentials" not in result:
                kept = _credentials_of(raw)
                result |= {} if kept is None else {"credentials": kept}
            written = await self._write(attempt, who, number, stored, result)
            if written is not None:
                return written
        raise Unavailable(_RESTLESS.format(number))

    async def delete(self, who: Who, number: str, etag: str | None) -> None:
        """Raises NotFound, Broken, Outdated."""
        who.check_writes()
        for attempt in attempts(self._redis, LINES):
            raw = (await attempt.read([number])).get(number)
            stored = self._let_in(who, number, raw)
            preconditions.require(etag, stored.etag, f"line {number}")
            if await attempt.write({number: None}, who.name, who.how):
                return
        raise Unavailable(_RESTLESS.format(number))

    # -- inside -----------------------------------------------------------------------------------

    async def _raws(self, numbers: Iterable[str]) -> list[bytes | None]:
        return await read(self._redis, [line_key(number) for number in numbers])

    def _edited(
        self,
        who: Who,
        number: str,
        raw: bytes | None,
        edit: Callable[[Document], None],
        etag: str | None,
    ) -> tuple[Stored, Document]:
        stored = self._let_in(who, number, raw)
        preconditions.require(etag, stored.etag, f"line {number}")
        document: Document = orjson.loads(raw or b"{}")
        edit(document)
        return stored, document

    async def _write(
        self,
        attempt: Attempt,
        who: Who,
        number: str,
        stored: Stored | None,
        document: Document,
    ) -> Written | None:
        """Check and write; None if another writer was faster."""
        line = await self._check(number, stored, document)
        who.check_writes()
        if not who.may(line.fleet, number) or (stored and not who.may(stored.fleet, number)):
            raise NotFound(f"line {number}: unknown line")
        document = canonical(document, line)
        if stored is not None and document == stored.document:
            return Written(stored, changed=False, before=stored.document)
        if not await attempt.write({number: document}, who.name, who.how):
            return None
        replaced = stored.document if stored is not None else {}
        etag = preconditions.etag_of(orjson.dumps(document))
        return Written(Stored(line, document, etag), changed=True, before=replaced)

    async def _check(self, number: str, stored: Stored | None, document: Document) -> Line:
        """Check the document as a whole, and each forward separately, so that all faults are
        reported."""
        try:
            line = load_line(orjson.dumps(document), number, self._numbering)
            named = numbers_named(document, self._numbering)
        except DocumentError as error:
            raise Refused([FieldError(error.field, error.value, error.problem)]) from None
        except orjson.JSONEncodeError:
            raise Refused([FieldError("document", None, TOO_DEEP)]) from None
        raws = await self._raws(named)
        raw = await self._redis.get(fleet_key(line.fleet))
        fleet = fleet_of(raw, line.fleet, self._numbering)
        others: dict[str, Line | None] = {}
        for other, raw in zip(named, raws, strict=True):
            target = None if raw is None else self._if_readable(other, raw)
            # A line of another fleet is an outside number; that it is a line is not disclosed.
            others[other] = target.line if target and target.fleet == line.fleet else None
        # In another fleet all of it is new.
        kept = stored if stored is not None and stored.fleet == line.fleet else None
        errors = self._problems(number, kept, document, others, fleet)
        if not errors and stored is not None:
            errors = _lost_names(stored.line, line, document, fleet)
        if errors:
            raise Refused(errors)
        return line

    def _problems(
        self,
        number: str,
        stored: Stored | None,
        document: Document,
        others: Mapping[str, Line | None],
        fleet: Fleet,
    ) -> list[FieldError]:
        """What is wrong with what is new in the document, compared with `stored`: the rest prevents
        no change, and turning a forward off is always possible."""
        forwards = document.get("forwards") or {}
        before = (stored.document.get("forwards") or {}) if stored else {}
        errors = []
        for condition in (None, *Condition):
            part = {**document, "forwards": {}}
            if condition is not None:
                for name in ("also_ring", "offer", "profiles", "profile"):
                    part.pop(name, None)
                new = _new_in(forwards.get(condition.value), before.get(condition.value))
                if not new:
                    continue
                part["forwards"] = {condition.value: new}
            elif stored:
                for name in ("also_ring", "offer"):
                    if part.get(name) == stored.document.get(name):
                        part.pop(name, None)
                part = with_changed_profiles(part, stored.document)
            try:
                check_write(part, others, self._numbering, number, fleet)
            except DocumentError as error:
                errors.append(FieldError(error.field, error.value, error.problem))
                if condition is None:
                    break
        return errors

    def _let_in(self, who: Who, number: str, raw: bytes | None) -> Stored:
        """The single access check: the line, if it exists and the account may see it."""
        unknown = NotFound(f"line {number}: unknown line")
        if raw is None:
            raise unknown
        try:
            line = load_line(raw, number, self._numbering)
        except DocumentError as error:
            if _fleet_of(raw) is not None and not who.may(_fleet_of(raw) or "", number):
                raise unknown from None
            if _fleet_of(raw) is None and not who.operator:
                raise unknown from None
            raise Broken(f"line {number}: its document is refused: {error}") from None
        if not who.may(line.fleet, number):
            raise unknown
        try:
            return Stored(line, orjson.loads(raw), preconditions.etag_of(raw))
        except orjson.JSONDecodeError as error:
            raise Broken(f"line {number}: its document is no JSON: {error}") from None

    def _if_readable(self, number: str, raw: bytes) -> Stored | None:
        try:
            line = load_line(raw, number, self._numbering)
            return Stored(line, orjson.loads(raw), preconditions.etag_of(raw))
        except (DocumentError, orjson.JSONDecodeError):
            return None


def _fleet_of(raw: bytes) -> str | None:
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    fleet = document.get("fleet") if isinstance(document, dict) else None
    return fleet if isinstance(fleet, str) and fleet else None


def _lost_names(before: Line, line: Line, document: Document, fleet: Fleet) -> list[FieldError]:
    """What still names a calendar or a list that the line had itself and loses by this change, also
    what does not change."""
    calendars, lists = names_used(line)
    lost = (calendars - fleet.calendars.keys()) & before.calendars.keys()
    lost |= (lists - fleet.lists.keys()) & before.lists.keys()
    if not lost:
        return []
    try:
        check_names(line, document, fleet)
    except DocumentError as error:
        return [FieldError(error.field, error.value, error.problem)]
    return []


def _credentials_of(raw: bytes) -> Any:
    """The credentials of a stored document, also of one that is refused: its phones have no other
    password."""
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return document.get("credentials") if isinstance(document, dict) else None


def _new_in(stated: Any, was: Any) -> Any:
    """What a document states for a condition and did not before, or None; of a list the others are
    off, so that places stay. `was`: None = nothing was stated."""
    known = was if isinstance(was, list) else [was]
    if not isinstance(stated, list):
        return None if _is_known(stated, known) else stated
    new = [{"on": False} if _is_known(each, known) else each for each in stated]
    return new if any(each != {"on": False} for each in new) else None


def _is_known(forward: Any, known: Sequence[Any]) -> bool:
    """Whether a forward is one of these, or one of them turned off."""
    return forward in known or any(_is_turned_off(forward, each) for each in known)


def _is_turned_off(forward: Any, was: Any) -> bool:
    """Whether a change of a forward does no more than turn it off."""
    if not isinstance(forward, dict) or not isinstance(was, dict):
        return False
    same = all(forward.get(name) == was.get(name) for name in ("to", "when", "callers"))
    return same and not forward.get("on")
