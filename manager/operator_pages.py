"""Pages for operators: live calls, registrations, the log of changes; and the page as a customer
sees it."""

from __future__ import annotations

import asyncio
import heapq
from typing import Any

import orjson
from starlette.responses import Response

from engine.changes.acks import LiveWorker, live_workers
from manager import accounts, audit, state
from manager.failures import NotFound
from manager.line_page import change_rows
from manager.search import fold
from manager.web import Visit, Web, see
from rules.model import Line
from store.audit import KEPT, entry
from store.keys import ACCOUNT, audit_key

_ANSWER_S = 3.0
_LARGEST_ANSWER = 8 * 1024 * 1024
_CALLS_SHOWN = 200
_SHOWN = ("received", "caller", "withheld", "called", "condition", "target", "state")
_LINES_LOOKED_AT = 2_000
_PHONES_SHOWN = 100
_CHANGES_SHOWN = 100
_FLEETS_READ = 200


async def live(visit: Visit) -> Response:
    """The calls in progress, from every worker."""
    workers = await live_workers(visit.site.redis)
    answers = await asyncio.gather(*map(_calls_of, workers))
    silent = [str(w) for w, answer in zip(workers, answers, strict=True) if answer is None]
    words = visit.query("q")
    calls = [
        call
        for answer in answers
        for call in answer or ()
        if fold(words).replace(" ", "") in _searched(visit, call)
    ]
    calls.sort(key=lambda call: call["received"], reverse=True)
    return visit.page(
        "live.html",
        calls=calls[:_CALLS_SHOWN],
        total=len(calls),
        silent=silent,
        workers=len(workers),
        words=words,
        label=visit.site.directory.label_anywhere,
    )


async def _calls_of(worker: LiveWorker) -> list[dict[str, Any]] | None:
    """The calls on a worker's admin address; None without a valid answer."""
    host, _, port = worker.admin.rpartition(":")
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                writer.write(b"GET /calls HTTP/1.1\r\nHost: renvoi\r\nConnection: close\r\n\r\n")
                raw = b""
                while chunk := await reader.read(65_536):
                    raw += chunk
                    if len(raw) > _LARGEST_ANSWER:
                        return None
            finally:
                writer.close()
        head, _, body = raw.partition(b"\r\n\r\n")
        found = orjson.loads(body) if b" 200 " in head.partition(b"\r\n")[0] + b" " else None
    except (OSError, ValueError, OverflowError, TimeoutError):
        return None
    if not isinstance(found, list):
        return None
    return [{name: call.get(name) for name in _SHOWN} for call in found if _is_call(call)]


def _is_call(call: object) -> bool:
    return isinstance(call, dict) and isinstance(call.get("received"), (int, float))


def _searched(visit: Visit, call: dict[str, Any]) -> str:
    """The text that a search covers."""
    numbers = [str(call.get(name) or "") for name in ("caller", "called", "target")]
    national = visit.site.shown.national
    return fold(" ".join([*numbers, *map(national, numbers)]))


async def registrations(visit: Visit) -> Response:
    """The registered phones of the lines that a search finds."""
    site, words = visit.site, visit.query("q")
    page = site.directory.search(visit.who, words=words, limit=_LINES_LOOKED_AT)
    there = await state.registered(site.redis, [line.number for line in page.lines])
    found = [line for line in page.lines if line.number in there]
    shown = found[:_PHONES_SHOWN]
    states = await asyncio.gather(
        *(state.of_line(site.redis, Line(line.number, line.fleet)) for line in shown)
    )
    return visit.page(
        "registrations.html",
        rows=list(zip(shown, states, strict=True)),
        words=words,
        count=len(found),
        looked=len(page.lines),
        total=page.total,
    )


async def changes(visit: Visit) -> Response:
    """The log of changes of a fleet, or of all, searched."""
    site, fleet, words = visit.site, visit.query("fleet"), fold(visit.query("q"))
    names = [fleet] if fleet else site.directory.fleets()[:_FLEETS_READ]
    logs = await asyncio.gather(
        *(
            audit.read(
                site.redis, name, limit=_CHANGES_SHOWN, wanted=lambda c: _has(visit, c, words)
            )
            for name in names
        )
    )
    changes = [(name, change) for name, log in zip(names, logs, strict=True) for change in log]
    newest = heapq.nlargest(_CHANGES_SHOWN, changes, key=lambda pair: pair[1].at)
    return visit.page(
        "changes.html",
        rows=[
            (name, change, change_rows(visit, Line(change.line or "?", name), change))
            for name, change in newest
        ],
        words=visit.query("q"),
        fleet=fleet,
        fleets=site.directory.fleets(),
        json=lambda document: orjson.dumps(document).decode(errors="replace")[:300],
    )


def _has(visit: Visit, change: audit.Change, words: str) -> bool:
    number = f"{change.line} {visit.site.shown.national(change.line)}"
    text = fold(f"{change.who} {number} {change.what} {change.how} {change.before} {change.after}")
    digits = words.replace(" ", "")
    return words in text or (digits.isdecimal() and digits in text)


class Seeing:
    """The page as a customer sees it: read-only, and the log records who looked."""

    def __init__(self, web: Web) -> None:
        self._sessions = web.sessions

    async def begin(self, visit: Visit) -> Response:
        """As the administrator of a fleet, or as an account."""
        assert visit.session is not None
        fleet, line = visit.fields.get("fleet", ""), None
        name = accounts.name_of(visit.fields.get("account", ""))
        if name:
            account = accounts.read(await visit.redis.get(ACCOUNT + name))
            if account is None or account.fleet is None:
                raise NotFound("no such account")
            fleet, line = account.fleet, account.line
        if not visit.site.directory.count(fleet):
            raise NotFound("no such fleet")
        seen = {"account": name or "", "fleet": fleet}
        fields: Any = entry(visit.who.name, "page", line or "", "seen", {}, seen)
        await visit.redis.xadd(audit_key(fleet), fields, maxlen=KEPT, approximate=True)
        await self._sessions.see_as(visit.session, fleet, line)
        return see("/lines")

    async def end(self, visit: Visit) -> Response:
        assert visit.session is not None
        await self._sessions.see_as(visit.session, None, None)
        return see("/fleets")
