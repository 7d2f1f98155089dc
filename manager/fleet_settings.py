"""A fleet's document: changed in one step by pages and the API, which also show its calendars and
lists of callers to the accounts of the fleet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from starlette.responses import Response

from manager import models, preconditions
from manager.access import Who
from manager.failures import (
    BadRequest,
    FieldError,
    Forbidden,
    NotFound,
    Refused,
    Unavailable,
)
from manager.lines import TOO_DEEP
from manager.operation import Call, answer, tagged
from manager.site import Site
from rules.fleet import check_fleet, is_name, load_fleet
from rules.model import DocumentError
from rules.validate import names_used
from store.documents import FLEETS, attempts
from store.keys import fleet_key

SHARED = ("calendars", "lists")
_LINES_SHOWN = 20
_PAGE = 500

Document = dict[str, Any]


async def read_fleet(site: Site, who: Who, name: str) -> tuple[Document, str]:
    """The document of a fleet, and its etag; without one only its name. Raises NotFound for
    another customer's, BadRequest if it is refused."""
    if not who.may_fleet(name) or not is_name(name):
        raise NotFound(f"fleet {name[:64]}: unknown fleet")
    client: Any = site.redis
    raw = await client.get(fleet_key(name))
    if raw is None and name not in site.directory.fleets():
        raise NotFound(f"fleet {name}: unknown fleet")
    return _decoded(site, name, raw), preconditions.etag_of(raw)


async def change_fleet(
    site: Site,
    who: Who,
    name: str,
    edit: Callable[[Document], Document],
    etag: str | None = None,
) -> tuple[Document, str]:
    """Change the document of a fleet; the result, and its etag.

    Raises BadRequest (the stored document is refused, and stays), Refused, Outdated (its etag is no
    longer `etag`).
    """
    for attempt in attempts(site.redis, FLEETS):
        raw = (await attempt.read([name])).get(name)
        preconditions.require(etag, preconditions.etag_of(raw), f"fleet {name}")
        before = _decoded(site, name, raw)
        document = edit(dict(before))
        try:
            check_fleet(document, site.numbering, name)
            orjson.dumps(document)
        except DocumentError as error:
            raise Refused([FieldError(error.field, error.value, error.problem)]) from None
        except orjson.JSONEncodeError:
            raise Refused([FieldError("document", None, TOO_DEEP)]) from None
        who.check_writes()
        if document == before and raw is not None:
            return document, preconditions.etag_of(raw)
        if await attempt.write({name: document}, who.name, who.how):
            return document, preconditions.etag_of(orjson.dumps(document))
    raise Unavailable(f"fleet {name} is changed by others all the time")


def _decoded(site: Site, name: str, raw: bytes | None) -> Document:
    if raw is None:
        return {"name": name}
    try:
        load_fleet(raw, name, site.numbering)
        document: Document = orjson.loads(raw)
    # An unknown field may have what is no JSON: calls do without it, a copy would not.
    except (DocumentError, orjson.JSONDecodeError) as error:
        raise BadRequest(f"fleet {name}: its document is refused: {error}") from None
    return document


async def still_named(
    site: Site, who: Who, name: str, before: Document, after: Document
) -> list[models.StillNamed]:
    """The calendars and lists that are gone and lines of the fleet still name. Reads all lines of
    the fleet if one is gone."""
    gone = {
        (what, each): models.StillNamed("calendar" if what == "calendars" else "list", each, 0, [])
        for what in SHARED
        for each in sorted((before.get(what) or {}).keys() - (after.get(what) or {}).keys())
    }
    place = ""
    while gone:
        page = site.directory.search(who.colleague, name, "", place, _PAGE)
        stored = await site.lines.several(who.colleague, [line.number for line in page.lines])
        for one in stored.values():
            calendars, lists = names_used(one.line)
            used = {("calendars", each) for each in calendars} | {("lists", n) for n in lists}
            for key in used & gone.keys():
                gone[key].lines += 1
                if len(gone[key].first) < _LINES_SHOWN:
                    gone[key].first.append(one.number)
        if page.after is None:
            break
        place = page.after
    return [each for each in gone.values() if each.lines]


# -- the API -----------------------------------------------------------------------------------


async def get_fleet(call: Call) -> Response:
    name = call.request.path_params["fleet"]
    document, etag = await read_fleet(call.site, call.who, name)
    return tagged(call, _shown(document), etag)


async def patch_fleet(call: Call) -> Response:
    name = call.request.path_params["fleet"]
    before, _ = await read_fleet(call.site, call.who, name)
    given = await call.body()
    if call.who.line is not None:
        raise Forbidden("only an administrator of the fleet may do this")
    wrong = [FieldError(k, v, "is not known here") for k, v in given.items() if k not in SHARED]
    if wrong:
        raise Refused(wrong)

    def edit(document: Document) -> Document:
        return {name: value for name, value in {**document, **given}.items() if value is not None}

    after, etag = await change_fleet(
        call.site, call.who, name, edit, preconditions.unchanged(call.request.headers)
    )
    named = await still_named(call.site, call.who, name, before, after)
    return answer(_shown(after) | {"still_named": named}, etag)


def _shown(document: Document) -> Document:
    names = ("name", "label", *SHARED)
    return {name: document[name] for name in names if document.get(name) is not None}
