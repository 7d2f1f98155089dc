"""The REST API, /api/v1: its operations and their table, from which `openapi.py` makes the
description."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.explain import plain
from manager import (
    audit,
    fleet_settings,
    forwarding,
    line_settings,
    models,
    openapi,
    preconditions,
    records,
    state,
)
from manager.access import Who
from manager.failures import FieldError, Refused
from manager.lines import Stored
from manager.operation import Call, Operation, answer, cursor_of, serve, tagged
from manager.site import Site
from rules.applies import line_now
from rules.contact import FAR_S
from rules.model import Condition, Kind
from rules.numbers import NumberError
from store.audit import without_secrets

PREFIX = "/api/v1"

# -- lines ---------------------------------------------------------------------------------------


async def list_lines(call: Call) -> Response:
    query = call.request.query_params
    words = query.get("q", "")[:200]
    page = call.site.directory.search(
        call.who, query.get("fleet") or None, words, call.cursor(), call.limit()
    )
    stored = await call.site.lines.several(call.who, [line.number for line in page.lines])
    items = [_summary(line) for line in stored.values()]
    return answer(models.LinePage(items, page.total, cursor_of(page.after)))


def _summary(stored: Stored) -> models.LineSummary:
    line, now = stored.line, time.time()
    on: list[Any] = [c.value for c in Condition if any(f.is_on_at(now) for f in line.all_of(c))]
    return models.LineSummary(line.number, line.fleet, line.label, line.suspended, on)


async def get_line(call: Call) -> Response:
    stored = await call.line()
    return tagged(call, without_secrets(stored.document), stored.etag)


async def put_line(call: Call) -> Response:
    body, headers = await call.body(), call.request.headers
    written = await call.site.lines.replace(
        call.who,
        call.number,
        body,
        preconditions.if_match(headers),
        new=preconditions.must_be_new(headers),
        known=preconditions.must_exist(headers),
    )
    stored = written.stored
    return answer(without_secrets(stored.document), stored.etag)


async def delete_line(call: Call) -> Response:
    await call.site.lines.delete(
        call.who, call.number, preconditions.unchanged(call.request.headers)
    )
    return Response(None, 204)


# -- state and history ------------------------------------------------------------------------


async def get_state(call: Call) -> Response:
    stored = await call.line()
    site = call.site
    line = line_now(stored.line, await line_settings.circumstances_of(site, stored.line))
    now = await state.of_line(site.redis, line)
    purse = await records.purse(site.redis, line.fleet, site.zone)
    inside = await site.lines.fleet_lines(line.fleet, line.target_numbers())
    refused: dict[Any, Any] = {
        condition.value: why
        for condition, _, why in line.refused_targets(
            {number for number, target in inside.items() if target is not None}, purse.countries
        )
    }
    registrations = [models.Registration(c.uri, min(c.expires, FAR_S)) for c in now.contacts]
    return answer(
        models.State(
            stored.number, bool(registrations), registrations, now.calls, line.max_calls, refused
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
    return answer(models.Usage(line.number, found.month, seconds, hours, found.plan_left_s))


def _is_month(text: str) -> bool:
    year, dash, month = text.partition("-")
    shape = len(text) == 7 and dash and text.isascii() and year.isdigit() and month.isdigit()
    return bool(shape) and len(year) == 4 and 1 <= int(month) <= 12


async def list_records(call: Call) -> Response:
    line = (await call.line()).line
    found, older = await records.of_line(
        call.site.redis, line, call.limit(20), call.stream_cursor()
    )
    return answer(models.RecordPage([_record(met, call.who) for met in found], cursor_of(older)))


def _record(met: records.Met, who: Who) -> models.Record:
    record, forward = met.record, met.forward
    withheld = bool(record.caller_withheld)
    condition: Any = forward.condition if forward else "none"
    return models.Record(
        id=record.id,
        caller="" if withheld else record.caller,
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
        withheld=withheld,
        caller_withheld=record.caller_withheld if who.operator else msgspec.UNSET,
    )


async def get_explanation(call: Call) -> Response:
    given = call.request.query_params.get("from")
    caller = None
    if given:
        try:
            caller = call.site.numbering.normalise(given)
        except NumberError as error:
            raise Refused([FieldError("from", given, error.problem)]) from None
    at = call.moment("at")
    shown = plain(await call.site.explain(await call.line(), caller, at=at))
    if call.who.line is not None:
        shown = _of_one_line(shown, call.who.line)
    if not call.who.operator:
        for stage in shown["stages"]:
            stage["steps"] = [_discreet(step) for step in stage["steps"]]
            stage["decision"].pop("uri", None)  # the addresses of our servers
    return answer(shown)


def _of_one_line(shown: dict[str, Any], own: str) -> dict[str, Any]:
    """What the user of one line may see: of other lines only where a call ends up."""
    for stage in shown["stages"]:
        if stage["number"] != own:
            stage["steps"] = []
            decision = stage["decision"]
            several = (*decision.get("targets", ()), *decision.get("also", ()))
            for to in (decision, *several):
                if to.get("kind") == Kind.NUMBER:
                    to["number"] = ""
    return shown | {"lines": [facts for facts in shown["lines"] if facts["number"] == own]}


def _discreet(step: str) -> str:
    """Hide that a number is another customer's line."""
    return step.replace("is a line of another fleet", "is no line of ours")


async def list_changes(call: Call) -> Response:
    stored = await call.line()
    changes, older = await audit.search(
        call.site.redis, stored.fleet, stored.number, call.limit(20), call.stream_cursor()
    )
    items = [
        models.Change(c.id, c.at, _who(c, call.who), c.how, c.line, c.what, c.before, c.after)
        for c in changes
    ]
    return answer(models.ChangePage(items, cursor_of(older)))


def _who(change: audit.Change, who: Who) -> str:
    """Customers do not see the user names on our machines."""
    return "operator" if change.how == "cli" and not who.operator else change.who


# -- the table -----------------------------------------------------------------------------------

_LINE = "/lines/{number}"
_ALL = _LINE + "/forwards"
_ONE = _ALL + "/{condition}"
_FLEET = "/fleets/{fleet}"
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
        "PATCH",
        _LINE,
        line_settings.patch_line,
        "Replace fields of a line's document" + _WAITS,
        models.WrittenLine,
        body=models.LineChange,
        tagged=True,
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
    Operation(
        "GET", _ALL, forwarding.get_forwards, "The four forwards", models.Forwards, tagged=True
    ),
    Operation(
        "PUT",
        _ALL,
        forwarding.put_forwards,
        "Change forwards" + _WAITS,
        models.WrittenForwards,
        body=models.Forwards,
        tagged=True,
    ),
    Operation(
        "GET",
        _ONE,
        forwarding.get_forward,
        "The forward of a condition, or the list of its forwards",
        models.Forward | models.Rules,
        tagged=True,
    ),
    Operation(
        "PUT",
        _ONE,
        forwarding.put_forward,
        "Change the forward of a condition, or replace it by a list" + _WAITS,
        models.WrittenForward,
        body=models.Forward | models.Rules,
        tagged=True,
    ),
    Operation(
        "GET",
        _LINE + "/do_not_disturb",
        line_settings.get_do_not_disturb,
        "Whether the line is not to be disturbed",
        models.ShownDoNotDisturb,
        tagged=True,
    ),
    Operation(
        "PUT",
        _LINE + "/do_not_disturb",
        line_settings.put_do_not_disturb,
        "Turn do not disturb on or off" + _WAITS,
        models.WrittenDoNotDisturb,
        body=models.DoNotDisturb,
        tagged=True,
    ),
    Operation(
        "GET",
        _LINE + "/profile",
        line_settings.get_profile,
        "The profile that is used, and those that the line has",
        models.ProfileState,
        tagged=True,
    ),
    Operation(
        "PUT",
        _LINE + "/profile",
        line_settings.put_profile,
        "Use a profile from now on" + _WAITS,
        models.WrittenProfile,
        body=models.ProfileChoice,
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
        "What would happen to a call now, or at a moment, and why",
        models.Explanation,
        query=("from", "at"),
    ),
    Operation(
        "GET",
        _LINE + "/changes",
        list_changes,
        "Who changed what",
        models.ChangePage,
        query=("limit", "cursor"),
    ),
    Operation(
        "GET",
        _FLEET,
        fleet_settings.get_fleet,
        "The calendars and the lists of callers of a fleet",
        models.FleetShared,
        tagged=True,
    ),
    Operation(
        "PATCH",
        _FLEET,
        fleet_settings.patch_fleet,
        "Replace the calendars or the lists of callers of a fleet",
        models.WrittenFleet,
        body=models.FleetChange,
        tagged=True,
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
        made.append(Route(PREFIX + path, serve(site, methods), methods=list(methods)))
    return made
