"""The API's description, OpenAPI 3.1, made from the table that serves it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from engine import __version__
from manager.problems import MEDIA_TYPE, Problem
from rules.model import Condition

if TYPE_CHECKING:
    from manager.operation import Operation

Json = dict[str, Any]
_REFERENCE = "#/components/schemas/{name}"

_PATH: dict[str, Json] = {
    "number": {
        "description": "The line's number, in E.164 with + (%2B) or as it is dialled at home.",
        "schema": {"type": "string", "minLength": 1},
        "example": "+33972101001",
    },
    "fleet": {
        "description": "The fleet's name.",
        "schema": {"type": "string", "minLength": 1},
        "example": "acme",
    },
    "condition": {
        "description": "When the forward applies.",
        "schema": {"type": "string", "enum": [c.value for c in Condition]},
    },
}
_QUERY: dict[str, Json] = {
    "q": {"description": "Words of the label, or digits of the number."},
    "fleet": {"description": "Only this fleet, for operators."},
    "limit": {
        "description": "How many at most; 50 lines, 20 of other lists when it is not given.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 200},
    },
    "cursor": {
        "description": "`next` of the page before.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]*$"},
    },
    "month": {
        "description": "Such as 2026-11; this month when it is not given.",
        "schema": {"type": "string", "pattern": "^[0-9]{4}-(0[1-9]|1[0-2])$"},
    },
    "from": {"description": "The caller's number."},
    "at": {
        "description": "The moment, such as 2026-12-25T10:00; in the engine's time zone unless it "
        "has an offset. Now when it is not given."
    },
}
_READ_HEADERS = {"If-None-Match": "The ETag that is known: 304 if it is still the same."}
_WRITE_HEADERS = {
    "If-Match": "Write only over the document of this ETag; * = only over one that is there.",
    "If-None-Match": "* = write only what is not there yet.",
}
_REFUSALS = {
    400: "The body is no JSON, or the stored document of the fleet is refused.",
    401: "No token, or one that is not known.",
    403: "Only for operators, or for the administrators of the fleet.",
    404: "There is no such line or fleet, or none of this token's fleet.",
    408: "The body did not come in time.",
    409: "The stored document of the line is refused; its operator has to write it anew.",
    412: "The line was changed since it was read, or is not there (If-Match), or is there already.",
    413: "The body is too large.",
    422: "What was sent cannot work: `errors` names the fields.",
    503: "Redis is away; nothing was changed.",
}


def describe(operations: Sequence[Operation], prefix: str) -> Json:
    """The OpenAPI document of these operations."""
    types = [t for o in operations for t in (o.answer, o.body) if t is not None]
    _, components = msgspec.json.schema_components([*types, Problem], ref_template=_REFERENCE)
    paths: dict[str, Json] = {}
    for operation in operations:
        item = paths.setdefault(prefix + operation.path, {"parameters": _path(operation.path)})
        item[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Renvoi",
            "version": __version__,
            "description": "Call forwarding of lines. Errors are problem+json (RFC 9457).",
            "license": {"name": "GPL-2.0-or-later", "identifier": "GPL-2.0-or-later"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _path(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, **about}
        for name, about in _PATH.items()
        if f"{{{name}}}" in path
    ]


def _operation(operation: Operation) -> Json:
    parameters: list[Json] = [
        {"name": name, "in": "query", "schema": {"type": "string"}, **_QUERY[name]}
        for name in operation.query
    ]
    if operation.tagged:
        headers = _READ_HEADERS if operation.method == "GET" else _WRITE_HEADERS
        parameters += [
            {"name": name, "in": "header", "description": what, "schema": {"type": "string"}}
            for name, what in headers.items()
        ]
    description: Json = {
        "operationId": operation.handler.__name__,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {str(s): _answer(operation, s) for s in operation.statuses},
    }
    if operation.tagged and operation.method == "GET":
        description["responses"]["304"] = {"description": "It is still the one of If-None-Match."}
    if operation.body is not None:
        description["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref(operation.body)}},
        }
    for status in _refusals(operation):
        description["responses"][str(status)] = {
            "description": _REFUSALS[status],
            "content": {MEDIA_TYPE: {"schema": _ref(Problem)}},
        }
    return description


def _answer(operation: Operation, status: int) -> Json:
    if operation.answer is None:
        return {"description": "Done."}
    description: Json = {
        "description": "Done.",
        "content": {"application/json": {"schema": _ref(operation.answer)}},
    }
    if operation.tagged:
        description["headers"] = {"ETag": {"schema": {"type": "string"}}}
    return description


def _refusals(operation: Operation) -> list[int]:
    statuses = {401, 503}
    if "{number}" in operation.path:
        statuses |= {404, 409}
    if "{fleet}" in operation.path:
        statuses |= {400, 404}
        statuses |= {403} if operation.body is not None else set()
    if operation.operators:
        statuses.add(403)
    if operation.method in ("PUT", "PATCH", "DELETE"):
        statuses.add(412)
    if operation.method in ("PUT", "PATCH"):
        statuses |= {400, 408, 413, 422}
    if operation.query:
        statuses.add(422)
    return sorted(statuses)


def _ref(of: Any) -> Json:
    (schema,), _ = msgspec.json.schema_components([of], ref_template=_REFERENCE)
    return schema
