"""The REST API, /api/v1: what each operation does. `openapi.py` describes the same table."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine import log
from engine.audit import without_secrets
from engine.explain import plain
from manager import audit, models, openapi, patience, problems, records, state
from manager.lines import Document, Stored
from manager.site import Site
from manager.who import BadRequest, FieldError, Forbidden, Refused, Who
from rules.model import Condition
from rules.numbers import NumberError

PREFIX = "/api/v1"
DEFAULT_AFTER_S = 20
_LARGEST_BODY = 65_536
_LONGEST_PAGE = 200
_FORWARD = {"on", "to", "after_s"}
_TO = {"kind", "number"}
_log = log.get_logger("manager")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as its operation sees it."""

    site: Site
    request: Request
    who: Who

    @property
    def number(self) -> str:
        return self.site.number(self.request.path_params["number"])

    @property
    def if_match(self) -> str | None:
        """The etag of If-Match; None when there is none, or "*"."""
        given = self.request.headers.get("if-match", "*").strip()
        return None if given == "*" else given.removeprefix("W/").strip('"')

    async def line(self) -> Stored:
        return await self.site.lines.read(self.who, self.number)

    async def body(self) -> Document:
        """The JSON object that was sent. Raises BadRequest, TooLarge, TooSlow."""
        raw = await patience.read(self.request, _LARGEST_BODY)
        try:
            document = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"the body is no JSON: {error}") from None
        if not isinstance(document, dict):
            raise Refused([FieldError("", document, "expected a JSON object")])
        return document

    def limit(self, default: int = 50) -> int:
        text = self.request.query_params.get("limit", str(default))
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _LONGEST_PAGE):
            raise Refused([FieldError("limit", text, f"expected 1 to {_LONGEST_PAGE}")])
        return int(text)

    def cursor(self) -> str:
        """Where the page before ended; "" at the beginning."""
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
        """The same for lists that come out of a stream."""
        place = self.cursor()
        first, dash, second = place.partition("-")
        if place and not (dash and first.isdigit() and second.isdigit() and len(place) < 42):
            raise Refused([FieldError("cursor", place, "is not a cursor of this list")])
        return place or "+"


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table: what serves and describes an operation of the API."""

    method: str
    path: str
    handler: Handler
    summary: str
    answer: type[Any] | None
    body: type[Any] | None = None
    query: tuple[str, ...] = ()
    tagged: bool = False  # has an ETag
    operators: bool = False  # only operators' tokens
    statuses: tuple[int, ...] = (200,)
    refusals: tuple[int, ...] = field(default=())


def _answer(value: object, etag: str | None = None, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"} | ({"ETag": f'"{etag}"'} if etag else {})
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def _tagged(call: Call, value: object, etag: str) -> Response:
    """An answer with its ETag, or 304 when the asker has it already."""
    known = call.request.headers.get("if-none-match", "")
    if etag in [tag.strip().removeprefix("W/").strip('"') for tag in known.split(",")]:
        return Response(None, 304, {"ETag": f'"{etag}"'})
    return _answer(value, etag)


def _next(place: str | None) -> str | None:
    return place and base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


# -- lines ---------------------------------------------------------------------------------------


async def list_lines(call: Call) -> Response:
    query = call.request.query_params
    words = query.get("q", "")[:200]
    page = call.site.directory.search(
        call.who, query.get("fleet") or None, words, call.cursor(), call.limit()
    )
    stored = await call.site.lines.several(call.who, [line.number for line in page.lines])
    items = [_summary(line) for line in stored.values()]
    return _answer(models.LinePage(items, page.total, _next(page.after)))


def _summary(stored: Stored) -> models.LineSummary:
    line = stored.line
    on: list[Any] = [c.value for c, forward in line.forwards.items() if forward.on]
    return models.LineSummary(line.number, line.fleet, line.label, line.suspended, on)


async def get_line(call: Call) -> Response:
    stored = await call.line()
    return _tagged(call, without_secrets(stored.document), stored.etag)


async def put_line(call: Call) -> Response:
    new = call.request.headers.get("if-none-match") == "*"
    written = await call.site.lines.replace(
        call.who, call.number, await call.body(), call.if_match, new
    )
    stored = written.stored
    return _answer(without_secrets(stored.document), stored.etag)


async def delete_line(call: Call) -> Response:
    await call.site.lines.delete(call.who, call.number, call.if_match)
    return Response(None, 204)


# -- forwards ------------------------------------------------------------------------------------


async def get_forwards(call: Call) -> Response:
    stored = await call.line()
    forwards = {c.value: _forward(stored, c) for c in Condition}
    return _tagged(call, forwards, stored.etag)


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
    return _answer(forwards | {"in_force": force}, stored.etag)


async def get_forward(call: Call) -> Response:
    stored = await call.line()
    return _tagged(call, _forward(stored, _condition(call)), stored.etag)


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
    return _answer(_forward(stored, condition) | {"in_force": force}, stored.etag)


def _condition(call: Call) -> Condition:
    return Condition(call.request.path_params["condition"])


def _forward(stored: Stored, condition: Condition) -> Document:
    """A forward as it is shown: what the document has, and only what the contract knows of it."""
    forward = stored.line.forwards.get(condition)
    if forward is None:
        return {"on": False, "to": None, "after_s": None}
    to = forward.to and {"kind": forward.to.kind.value, "number": forward.to.number}
    return {"on": forward.on, "to": to, "after_s": forward.after_s}


def _unknown(given: object, path: str) -> list[FieldError]:
    """Keys that a forward does not have: a typo must not be a forward that is silently other."""
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
    """Put these forwards into the document. What one does not name (`to`, `after_s`) is kept."""
    number = call.number

    def edit(document: Document) -> None:
        forwards = dict(document.get("forwards") or {})
        for condition, wanted in given.items():
            old = forwards.get(condition)
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


# -- what is and what was ------------------------------------------------------------------------


async def get_state(call: Call) -> Response:
    stored = await call.line()
    now = await state.of_line(call.site.redis, stored.line)
    registrations = [models.Registration(c.uri, c.expires) for c in now.contacts]
    return _answer(
        models.State(
            stored.number, bool(registrations), registrations, now.calls, stored.line.max_calls
        )
    )


async def get_usage(call: Call) -> Response:
    month = call.request.query_params.get("month")
    if month is not None and not _is_month(month):
        raise Refused([FieldError("month", month, "expected a month such as 2026-11")])
    line = (await call.line()).line
    found = await records.usage(call.site.redis, line, call.site.zone, month)
    hours = line.offer.mobile_hours if line.offer.mobile == "hours" else None
    seconds = models.Seconds(**found.seconds)
    return _answer(models.Usage(line.number, found.month, seconds, hours, found.plan_left_s))


def _is_month(text: str) -> bool:
    year, dash, month = text.partition("-")
    shape = len(text) == 7 and dash and text.isascii() and year.isdigit() and month.isdigit()
    return bool(shape) and len(year) == 4 and 1 <= int(month) <= 12


async def list_records(call: Call) -> Response:
    line = (await call.line()).line
    found, older = await records.of_line(
        call.site.redis, line, call.limit(20), call.stream_cursor()
    )
    return _answer(models.RecordPage([_record(met) for met in found], _next(older)))


def _record(met: records.Met) -> models.Record:
    record, forward = met.record, met.forward
    condition: Any = forward.condition if forward else "none"
    return models.Record(
        id=record.id,
        caller=record.caller,
        called=record.called,
        received=record.received,
        answered=record.answered,
        ended=record.ended,
        condition=condition,
        destination=forward.kind if forward else record.destination,
        target=forward.number if forward else record.target,
        outcome=record.outcome,
        seconds=forward.seconds if forward else record.seconds,
        billing=forward.billing if forward else "",
    )


async def get_explanation(call: Call) -> Response:
    given = call.request.query_params.get("from")
    caller = None
    if given:
        try:
            caller = call.site.numbering.normalise(given)
        except NumberError as error:
            raise Refused([FieldError("from", given, error.problem)]) from None
    told = plain(await call.site.explain(await call.line(), caller))
    if not call.who.operator:
        for stage in told["stages"]:
            stage["steps"] = [_discreet(step) for step in stage["steps"]]
    return _answer(told)


def _discreet(step: str) -> str:
    """That a number is a line of somebody else is nobody's business."""
    return step.replace("is a line of another fleet", "is no line of ours")


async def list_changes(call: Call) -> Response:
    stored = await call.line()
    limit = call.limit(20)
    changes = await audit.read(
        call.site.redis, stored.fleet, stored.number, limit, call.stream_cursor()
    )
    items = [
        models.Change(c.id, c.at, c.who, c.how, c.line, c.what, c.before, c.after) for c in changes
    ]
    return _answer(models.ChangePage(items, _next(items[-1].id if len(items) == limit else None)))


# -- the table -----------------------------------------------------------------------------------

_LINE = "/lines/{number}"
_ALL = _LINE + "/forwards"
_ONE = _ALL + "/{condition}"
_WAITS = ", and wait until the engine has it in force"
OPERATIONS = (
    Operation(
        "GET",
        "/lines",
        list_lines,
        "The lines, by number",
        models.LinePage,
        query=("q", "fleet", "limit", "cursor"),
    ),
    Operation("GET", _LINE, get_line, "A line's document", models.LineDocument, tagged=True),
    Operation(
        "PUT",
        _LINE,
        put_line,
        "Write a line's document whole",
        models.LineDocument,
        body=models.LineDocument,
        tagged=True,
        operators=True,
    ),
    Operation(
        "DELETE",
        _LINE,
        delete_line,
        "Delete a line",
        None,
        tagged=True,
        operators=True,
        statuses=(204,),
    ),
    Operation("GET", _ALL, get_forwards, "The four forwards", models.Forwards, tagged=True),
    Operation(
        "PUT",
        _ALL,
        put_forwards,
        "Change forwards" + _WAITS,
        models.WrittenForwards,
        body=models.Forwards,
        tagged=True,
    ),
    Operation("GET", _ONE, get_forward, "One forward", models.Forward, tagged=True),
    Operation(
        "PUT",
        _ONE,
        put_forward,
        "Change one forward" + _WAITS,
        models.WrittenForward,
        body=models.Forward,
        tagged=True,
    ),
    Operation(
        "GET", _LINE + "/state", get_state, "Registrations and calls in progress", models.State
    ),
    Operation(
        "GET",
        _LINE + "/usage",
        get_usage,
        "Forwarded seconds of a month by billing class",
        models.Usage,
        query=("month",),
    ),
    Operation(
        "GET",
        _LINE + "/records",
        list_records,
        "The last calls that met the line",
        models.RecordPage,
        query=("limit", "cursor"),
    ),
    Operation(
        "GET",
        _LINE + "/explain",
        get_explanation,
        "What would happen to a call now, and why",
        models.Explanation,
        query=("from",),
    ),
    Operation(
        "GET",
        _LINE + "/changes",
        list_changes,
        "Who changed what",
        models.ChangePage,
        query=("limit", "cursor"),
    ),
)


def routes(site: Site) -> list[Route]:
    """The API's routes; several methods on one path share a route."""
    description = msgspec.json.encode(openapi.describe(OPERATIONS, PREFIX))

    async def describe(_request: Request) -> Response:
        return Response(description, media_type="application/json")

    by_path: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    made = [Route(PREFIX + "/openapi.json", describe, methods=["GET"])]
    for path, methods in by_path.items():
        made.append(Route(PREFIX + path, _serve(site, methods), methods=list(methods)))
    return made


def _serve(
    site: Site, methods: Mapping[str, Operation]
) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
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

    return serve
