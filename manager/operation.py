"""The common part of the API's operations: the request, the responses, and how they are served."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from engine.telemetry import log
from manager import patience, preconditions, problems
from manager.access import Who
from manager.failures import BadRequest, FieldError, Forbidden, Refused
from manager.lines import Document, Stored
from manager.records import is_place
from manager.site import Site
from rules.model import Condition
from rules.shared_document import LATEST

_LARGEST_BODY = 65_536
_LONGEST_PAGE = 200
_LONGEST_NUMBER = 9  # digits
_log = log.get_logger("manager")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, for its operation."""

    site: Site
    request: Request
    who: Who

    @property
    def number(self) -> str:
        return self.site.number(self.request.path_params["number"])

    async def line(self) -> Stored:
        return await self.site.lines.read(self.who, self.number)

    async def json(self) -> Any:
        """The JSON in the body. Raises BadRequest, TooLarge, TooSlow."""
        raw = await patience.read(self.request, _LARGEST_BODY)
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"the body is no JSON: {error}") from None

    async def body(self) -> Document:
        """The JSON object in the body."""
        document = await self.json()
        if not isinstance(document, dict):
            raise Refused([FieldError("", document, "expected a JSON object")])
        return document

    def moment(self, name: str) -> float | None:
        """Unix seconds of a moment in the query, in the engine's time zone unless it has an offset;
        None without one."""
        text = self.request.query_params.get(name)
        if not text:
            return None
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=self.site.zone)
            unix = moment.timestamp()
        except (ValueError, OverflowError):
            unix = -1.0
        if not 0 <= unix < LATEST:
            problem = "expected a moment from 1970 to 9997, such as 2026-12-25T10:00"
            raise Refused([FieldError(name, text, problem)])
        return unix

    def limit(self, default: int = 50) -> int:
        text = self.request.query_params.get("limit", str(default))
        # Python reads no number of thousands of digits.
        is_number = text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER
        if not is_number or not 1 <= int(text) <= _LONGEST_PAGE:
            raise Refused([FieldError("limit", text, f"expected 1 to {_LONGEST_PAGE}")])
        return int(text)

    def cursor(self) -> str:
        """Where the previous page ended; "" at the beginning."""
        text = self.request.query_params.get("cursor", "")
        try:
            raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), b"-_", validate=True)
            place = raw.decode("ascii")
        except (binascii.Error, UnicodeError, ValueError):
            place = "?"
        if text and not all(c in "+-0123456789" for c in place):
            raise Refused([FieldError("cursor", text, "is not a cursor of this API")])
        return place

    def stream_cursor(self) -> str:
        """The same for lists from a stream."""
        place = self.cursor()
        if place and not is_place(place):
            raise Refused([FieldError("cursor", place, "is not a cursor of this list")])
        return place or "+"


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table, which serves and describes an operation of the API. `answer` and
    `body`: the types of what is sent, None = nothing."""

    method: str
    path: str
    handler: Handler
    summary: str
    answer: Any
    body: Any = None
    query: tuple[str, ...] = ()
    tagged: bool = False  # has an ETag
    operators: bool = False  # only operators' tokens
    statuses: tuple[int, ...] = (200,)


def answer(value: object, etag: str | None = None, status: int = 200) -> Response:
    """A JSON answer."""
    headers = {"Cache-Control": "no-store"} | ({"ETag": f'"{etag}"'} if etag else {})
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def tagged(call: Call, value: object, etag: str) -> Response:
    """A response with its ETag, or 304 if the client has it already."""
    if preconditions.is_known(call.request.headers, etag):
        return Response(None, 304, {"ETag": f'"{etag}"'})
    return answer(value, etag)


def cursor_of(place: str | None) -> str | None:
    """The cursor after this position; None at the end."""
    return place and base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def serve(site: Site, methods: Mapping[str, Operation]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a path: authentication, authorization, and a response for every error."""

    async def respond(request: Request) -> Response:
        operation = methods["GET" if request.method == "HEAD" else request.method]
        try:
            who = await site.bearer(request.headers.get("authorization", ""))
            if operation.operators and not who.operator:
                raise Forbidden("only an operator's token may do this")
            if request.path_params.get("condition", "busy") not in set(Condition):
                return problems.answer(
                    problems.Problem(404, "Not found", "there is no such condition")
                )
            return await operation.handler(Call(site, request, who))
        except Exception as error:
            failure = problems.as_failure(error)
            if failure is not None:
                return problems.failed(failure)
            _log.exception("api.error", path=request.url.path, method=request.method)
            return problems.answer(problems.Problem(500, "Internal error"))

    return respond
