"""Errors of the API: problem+json (RFC 9457) that names the fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from engine.telemetry import log
from manager.failures import Failure, Refused, TooMany, Unauthenticated, Unavailable
from store.redis_errors import REDIS_ERRORS

_log = log.get_logger("manager")
MEDIA_TYPE = "application/problem+json"


class FieldProblem(msgspec.Struct):
    """A field that is refused: its path from the body's root, the value there, and why."""

    field: str
    problem: str
    value: Any = None


class Problem(msgspec.Struct, omit_defaults=True):
    """RFC 9457. `errors` names the wrong fields, if any."""

    status: int
    title: str
    detail: str = ""
    type: str = "about:blank"
    errors: list[FieldProblem] = []


def failed(failure: Failure) -> Response:
    """The response to a failed request."""
    problem = Problem(failure.status, failure.title, failure.detail)
    headers: dict[str, str] = {}
    if isinstance(failure, Refused):
        problem.errors = [FieldProblem(e.field, e.problem, _json(e.value)) for e in failure.errors]
    if isinstance(failure, TooMany):
        headers["Retry-After"] = str(failure.after_s)
    if isinstance(failure, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="renvoi"'
    return answer(problem, headers)


def answer(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    content = msgspec.json.encode(problem)
    return Response(content, problem.status, dict(headers or {}), MEDIA_TYPE)


def as_failure(error: Exception) -> Failure | None:
    """Our own failure for an exception; None for an unexpected one."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, REDIS_ERRORS):
        return Unavailable("Redis is away, nothing was changed")
    return None


async def http_error(_request: Request, error: Exception) -> Response:
    """Refusals of the framework: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    return answer(Problem(error.status_code, error.detail), error.headers)


def _json(value: object) -> object:
    """A value for JSON, cut if it is too long."""
    try:
        text = orjson.dumps(value)
    except (TypeError, ValueError):
        return str(value)[:200]
    return value if len(text) <= 500 else text[:200].decode(errors="replace") + "..."
