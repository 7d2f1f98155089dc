"""The forwards of a line's document, or of one of its profiles, and their targets: what is read,
and how it becomes `rules.model.Forward`. `rules.line_document` reads the rest."""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from rules.billing import tariff_of
from rules.callers import Callers
from rules.model import (
    RING_S,
    Condition,
    Destination,
    DocumentError,
    Forward,
    Kind,
    Ringing,
)
from rules.numbers import NumberError, Numbering
from rules.shared_document import read_until, read_when


class _Kind(StrEnum):
    VOICEMAIL = "voicemail"
    FAX = "fax"
    NUMBER = "number"
    REJECT = "reject"


_KINDS = {
    _Kind.VOICEMAIL: Kind.VOICEMAIL,
    _Kind.FAX: Kind.FAX,
    _Kind.NUMBER: Kind.NUMBER,
}


class _To(msgspec.Struct):
    kind: _Kind
    number: str | None = None
    ring_s: Annotated[int, Meta(ge=5, le=60)] | None = None


Targets = Annotated[list[_To], Meta(min_length=1, max_length=10)]


class _Forward(msgspec.Struct):
    on: bool
    to: _To | Targets | None = None
    ring: Ringing | None = None
    when: str | None = None
    until: str | None = None
    callers: str | None = None


class _NoAnswer(_Forward):
    after_s: Annotated[int, Meta(ge=5, le=60)] | None = None


_Rules = Annotated[list[_Forward], Meta(min_length=1)]
_NoAnswerRules = Annotated[list[_NoAnswer], Meta(min_length=1)]


class ForwardsDocument(msgspec.Struct):
    """The forwards of a line or a profile, by condition."""

    unconditional: _Forward | _Rules | None = None
    busy: _Forward | _Rules | None = None
    no_answer: _NoAnswer | _NoAnswerRules | None = None
    unreachable: _Forward | _Rules | None = None


def read_forwards(
    prefix: str, given: ForwardsDocument, own: str, numbering: Numbering
) -> tuple[dict[Condition, Forward], dict[Condition, tuple[Forward, ...]]]:
    """The first forward of each condition, and all of those that are no plain single forward.

    Args:
        prefix: of the paths in errors, such as `profiles.office.`.
        own: the line's number.

    Raises:
        DocumentError: naming the field and its value.
    """
    forwards, rules = {}, {}
    for condition in Condition:
        stated: _Forward | Sequence[_Forward] | None = getattr(given, condition.value)
        if stated is None:
            continue
        path = f"{prefix}forwards.{condition.value}"
        if not isinstance(stated, _Forward):
            several = tuple(
                _forward(f"{path}[{place}]", each, own, numbering)
                for place, each in enumerate(stated)
            )
            forwards[condition], rules[condition] = several[0], several
            continue
        forward = forwards[condition] = _forward(path, stated, own, numbering)
        if not forward.is_plain:
            rules[condition] = (forward,)
    return forwards, rules


def _forward(path: str, given: _Forward, own: str, numbering: Numbering) -> Forward:
    to: Destination | None = None
    targets: tuple[Destination, ...] = ()
    rejects = False
    if isinstance(given.to, list):
        targets = tuple(
            _one_of_several(f"{path}.to[{place}]", each, own, numbering)
            for place, each in enumerate(given.to)
        )
        to = targets[0]
    elif given.to is not None and given.to.kind is _Kind.REJECT:
        if given.to.number is not None:
            raise DocumentError(f"{path}.to.number", given.to.number, "a rejection has no number")
        rejects = True
    elif given.to is not None and given.to.ring_s is not None:
        to = _one_of_several(f"{path}.to", given.to, own, numbering)
        targets = (to,)
    elif given.to is not None:
        to = _destination(f"{path}.to.number", given.to, own, numbering)
    if given.on and to is None and not rejects:
        raise DocumentError(f"{path}.to", None, "is needed when it is on")
    after_s = given.after_s if isinstance(given, _NoAnswer) else None
    always = given.when is None and given.until is None and given.callers is None
    if always and not targets and not rejects:
        return Forward(given.on, to, after_s)
    return Forward(
        given.on,
        to,
        after_s,
        targets,
        given.ring or Ringing.IN_TURN,
        None if given.when is None else read_when(f"{path}.when", given.when),
        None if given.until is None else read_until(f"{path}.until", given.until),
        None if given.callers is None else _callers(f"{path}.callers", given.callers),
        rejects,
    )


def _callers(path: str, text: str) -> Callers:
    try:
        return Callers.read(text)
    except ValueError as error:
        raise DocumentError(path, text, str(error)) from None


def _one_of_several(path: str, given: _To, own: str, numbering: Numbering) -> Destination:
    """One of the targets of a list, with its time to ring."""
    if given.kind is _Kind.REJECT:
        raise DocumentError(f"{path}.kind", given.kind, "a rejection is no target of a list")
    to = _destination(f"{path}.number", given, own, numbering)
    return replace(to, ring_s=given.ring_s or RING_S)


def read_also_ring(
    path: str, given: list[_To], own: str, numbering: Numbering
) -> tuple[Destination, ...]:
    """What rings beside the line's phones; `path` as in errors. Raises DocumentError."""
    for place, each in enumerate(given):
        if each.kind is not _Kind.NUMBER:
            problem = "expected number: only a phone can ring beside those of the line"
            raise DocumentError(f"{path}[{place}].kind", each.kind, problem)
    return tuple(
        _one_of_several(f"{path}[{place}]", each, own, numbering)
        for place, each in enumerate(given)
    )


def _destination(path: str, to: _To, own: str, numbering: Numbering) -> Destination:
    kind = _KINDS[to.kind]
    if to.number is None:
        # "voicemail" alone is the line's own; a fax or a number must be given.
        if kind is not Kind.VOICEMAIL:
            raise DocumentError(path, None, f"is needed for kind {kind}")
        return Destination(kind, own)
    if kind is Kind.VOICEMAIL and to.number == own:
        return Destination(kind, own)
    try:
        found = numbering.recognise(to.number)
    except NumberError as error:
        raise DocumentError(path, to.number, error.problem) from None
    tariff = tariff_of(found, numbering.country_of(own))
    return Destination(kind, found.number, found.mobile, found.refused, found.country, tariff)
