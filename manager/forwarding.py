"""The API's operations on forwards: all four of a line, or one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from manager import models
from manager.lines import Document, Stored
from manager.operation import Call, answer, tagged
from manager.who import FieldError, Refused
from rules.model import Condition

DEFAULT_AFTER_S = 20
_FORWARD = {"on", "to", "after_s"}
_TO = {"kind", "number"}


async def get_forwards(call: Call) -> Response:
    stored = await call.line()
    forwards = {c.value: _forward(stored, c) for c in Condition}
    return tagged(call, forwards, stored.etag)


async def put_forwards(call: Call) -> Response:
    given = await call.body()
    wrong = [
        FieldError(name, value, "is no condition of a forward")
        for name, value in given.items()
        if name not in set(Condition)
    ]
    wrong += [error for name, value in given.items() for error in _unknown(value, f"{name}.")]
    if wrong:
        raise Refused(wrong)
    stored, force = await _change(call, {c: v for c, v in given.items() if v is not None})
    forwards = {c.value: _forward(stored, c) for c in Condition}
    return answer(forwards | {"in_force": force}, stored.etag)


async def get_forward(call: Call) -> Response:
    stored = await call.line()
    return tagged(call, _forward(stored, _condition(call)), stored.etag)


async def put_forward(call: Call) -> Response:
    condition, given = _condition(call), await call.body()
    if wrong := _unknown(given, ""):
        raise Refused(wrong)
    try:
        stored, force = await _change(call, {condition.value: given})
    except Refused as refused:
        prefix = f"{condition}."
        raise Refused(
            [FieldError(e.field.removeprefix(prefix), e.value, e.problem) for e in refused.errors]
        ) from None
    return answer(_forward(stored, condition) | {"in_force": force}, stored.etag)


def _condition(call: Call) -> Condition:
    return Condition(call.request.path_params["condition"])


def _forward(stored: Stored, condition: Condition) -> Document:
    """A forward for the API: the document's values, only the fields of the contract."""
    forward = stored.line.forwards.get(condition)
    if forward is None:
        return {"on": False, "to": None, "after_s": None}
    to = forward.to and {"kind": forward.to.kind.value, "number": forward.to.number}
    return {"on": forward.on, "to": to, "after_s": forward.after_s}


def _unknown(given: object, path: str) -> list[FieldError]:
    """Unknown keys of a forward, so that a typo cannot silently change its meaning."""
    if given is None:
        return []
    if not isinstance(given, dict):
        return [FieldError(path.rstrip("."), given, "expected an object")]
    wrong = [
        FieldError(path + k, v, "is not known here") for k, v in given.items() if k not in _FORWARD
    ]
    if isinstance(given.get("to"), dict):
        wrong += [
            FieldError(f"{path}to.{k}", v, "is not known here")
            for k, v in given["to"].items()
            if k not in _TO
        ]
    return wrong


async def _change(call: Call, given: Mapping[str, Any]) -> tuple[Stored, models.InForce | None]:
    """Put these forwards into the document. Missing `to` and `after_s` are kept."""
    number = call.number

    def edit(document: Document) -> None:
        forwards = dict(document.get("forwards") or {})
        for condition, wanted in given.items():
            old = forwards.get(condition)
            if isinstance(old, list):
                problem = f"has {len(old)} forwards, which PUT of the line's document changes"
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
        written = await call.site.lines.change(call.who, number, edit, call.if_match)
    except Refused as refused:
        raise Refused(
            [FieldError(_short(e.field), e.value, e.problem) for e in refused.errors]
        ) from None
    return written.stored, await _in_force(call, number)


def _short(path: str) -> str:
    return path.removeprefix("forwards.")


async def _in_force(call: Call, number: str) -> models.InForce:
    told = (await call.site.in_force(number)).plain()
    return models.InForce(told["complete"], told["workers"], told["acknowledged"], told["ms"])
