"""The API's operations on forwards: those of all conditions of a line, or of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from manager import models, preconditions
from manager.failures import FieldError, Refused
from manager.line_settings import in_force, profile_used
from manager.lines import Document, Stored
from manager.operation import Call, answer, tagged
from rules.model import Condition
from rules.validate import canonical

DEFAULT_AFTER_S = 20
_FORWARD = models.Forward.__struct_fields__
_TO = models.Target.__struct_fields__


async def get_forwards(call: Call) -> Response:
    stored = await call.line()
    return tagged(call, _all(stored), stored.etag)


async def put_forwards(call: Call) -> Response:
    given = await call.body()
    wrong = [
        FieldError(name, value, "is no condition of a forward")
        for name, value in given.items()
        if name not in set(Condition)
    ]
    wrong += [error for name, value in given.items() for error in _unknown(value, name, name)]
    if wrong:
        raise Refused(wrong)
    stored, force = await _change(call, {c: v for c, v in given.items() if v is not None})
    return answer(_all(stored) | force, stored.etag)


async def get_forward(call: Call) -> Response:
    stored = await call.line()
    return tagged(call, _forward(stored, _condition(call)), stored.etag)


async def put_forward(call: Call) -> Response:
    condition, given = _condition(call), await call.json()
    if not isinstance(given, dict | list):
        raise Refused([FieldError("", given, "expected a JSON object, or a list of them")])
    if wrong := _unknown(given, "", condition):
        raise Refused(wrong)
    try:
        stored, force = await _change(call, {condition.value: given})
    except Refused as refused:
        raise Refused(
            [FieldError(_inside(condition, e.field), e.value, e.problem) for e in refused.errors]
        ) from None
    forward = _forward(stored, condition)
    whole = {"rules": forward} if isinstance(forward, list) else forward
    return answer(whole | force, stored.etag)


def _inside(condition: Condition, path: str) -> str:
    """The path of a field from the root of what was sent for a condition."""
    return path.removeprefix(condition).removeprefix(".")


def _condition(call: Call) -> Condition:
    return Condition(call.request.path_params["condition"])


def _all(stored: Stored) -> Document:
    return {c.value: _forward(stored, c) for c in Condition}


def _forward(stored: Stored, condition: Condition) -> Any:
    """A forward for the API, or a list of them: the document's values, only the fields of the
    contract."""
    forward = stored.line.forwards.get(condition)
    if forward is None:
        return {"on": False, "to": None, "after_s": None}
    if condition not in stored.line.rules:
        to = forward.to and {"kind": forward.to.kind.value, "number": forward.to.number}
        return {"on": forward.on, "to": to, "after_s": forward.after_s}
    kept = canonical(stored.document, stored.line)["forwards"][condition.value]
    several = kept if isinstance(kept, list) else [kept]
    shown = [_known(each, condition) for each in several]
    return shown if isinstance(kept, list) else shown[0]


def _known(forward: Document, condition: Condition) -> Document:
    found = {name: value for name, value in forward.items() if name in _FORWARD}
    if condition is not Condition.NO_ANSWER:
        found.pop("after_s", None)
    to = found.get("to")
    if isinstance(to, list):
        found["to"] = [{k: v for k, v in each.items() if k in _TO} for each in to]
    elif isinstance(to, dict):
        found["to"] = {k: v for k, v in to.items() if k in _TO}
    return found


def _unknown(given: object, path: str, condition: str) -> list[FieldError]:
    """Unknown keys of a forward, and a time that its condition does not have, so that a typo cannot
    silently change its meaning."""
    if given is None:
        return []
    if isinstance(given, list):
        pairs = enumerate(given)
        return [
            error
            for place, each in pairs
            for error in _unknown(each, f"{path}[{place}]", condition)
        ]
    if not isinstance(given, dict):
        return [FieldError(path, given, "expected an object")]
    wrong = _unknown_names(given, path, _FORWARD)
    if condition != Condition.NO_ANSWER and given.get("after_s") is not None:
        wrong.append(FieldError(_join(path, "after_s"), given["after_s"], "only no_answer waits"))
    to = given.get("to")
    if isinstance(to, dict):
        wrong += _unknown_names(to, _join(path, "to"), _TO)
    for place, each in enumerate(to if isinstance(to, list) else ()):
        if isinstance(each, dict):
            wrong += _unknown_names(each, f"{_join(path, 'to')}[{place}]", _TO)
    return wrong


def _unknown_names(given: Document, path: str, known: tuple[str, ...]) -> list[FieldError]:
    return [
        FieldError(_join(path, name), value, "is not known here")
        for name, value in given.items()
        if name not in known
    ]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


async def _change(call: Call, given: Mapping[str, Any]) -> tuple[Stored, dict[str, Any]]:
    """Put these forwards into the document; what to say of it. Missing `to` and `after_s` are
    kept."""

    def edit(document: Document) -> None:
        forwards = dict(document.get("forwards") or {})
        for condition, wanted in given.items():
            old = forwards.get(condition)
            if isinstance(wanted, list):
                forwards[condition] = wanted
                continue
            if isinstance(old, list):
                problem = f"has {len(old)} forwards, send a list of them"
                raise Refused([FieldError(f"forwards.{condition}", None, problem)])
            kept = {"on": False, **old} if isinstance(old, dict) else {}
            forward = kept | wanted
            if condition == Condition.NO_ANSWER and "after_s" not in forward:
                forward["after_s"] = DEFAULT_AFTER_S
            if "on" not in wanted:
                forward.pop("on", None)  # required in what is sent
            forwards[condition] = forward
        document["forwards"] = forwards

    try:
        written = await call.site.lines.change(
            call.who, call.number, edit, preconditions.unchanged(call.request.headers)
        )
    except Refused as refused:
        raise Refused(
            [FieldError(_short(e.field), e.value, e.problem) for e in refused.errors]
        ) from None
    stored = written.stored
    force = {"in_force": await in_force(call)}
    used = await profile_used(call.site, stored.line)
    return stored, force if used is None else {"profile": used, **force}


def _short(path: str) -> str:
    return path.removeprefix("forwards.")
