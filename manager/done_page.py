"""The page after a change of one line's forwards, with the confirmations of the workers."""

from __future__ import annotations

import secrets

import msgspec
from starlette.responses import Response

from engine.changes.acks import Acks
from manager.failures import NotFound
from manager.line_now import present
from manager.line_page import summary, switch_in_words
from manager.lines import Stored
from manager.several_lines import priced_rows
from manager.targets_and_usage import around
from manager.undo import Change
from manager.web import Visit
from store.keys import DONE

_LIFE_S = 86_400


Switched = tuple[str, str, str]
"""What was switched as a whole, with its state before and after, as text."""


class Done(msgspec.Struct):
    """The result of a change: shown after it, and undone within a day."""

    change: Change
    changed: bool
    workers: int
    said: int
    seconds: float


async def keep(visit: Visit, change: Change, acks: Acks, changed: bool) -> str:
    """Keep it for its page; returns its token."""
    token = secrets.token_urlsafe(12)
    kept = msgspec.json.encode(_done(change, acks, changed))
    await visit.redis.set(DONE + token, kept, ex=_LIFE_S)
    return token


async def page(visit: Visit) -> Response:
    """The page, which reloads until all workers have confirmed."""
    token = visit.query("change")
    kept = await _find(visit, token)
    stored = await visit.site.lines.read(visit.who, visit.number)
    if kept is None or kept.change.number != stored.number:
        raise NotFound("no such change")
    if kept.changed and (kept.said < kept.workers or not kept.workers):
        acks = await visit.site.in_force(stored.number)
        if acks.complete:
            kept = _done(kept.change, acks, True)
            await visit.redis.set(DONE + token, msgspec.json.encode(kept), keepttl=True)
    now = await present(visit.site, stored.line)
    known = await around(visit.site, now.line)
    explanation = await visit.site.explain(stored, withheld=False)
    outlook = visit.teller.outlook(now.line, known, explanation)
    return visit.page(
        "done.html",
        line=stored.line,
        done=kept,
        token=token,
        rows=priced_rows(visit, stored.line, kept.change, outlook.costs),
        switched=switched_rows(visit, kept.change),
        profile=now.profile,
        seconds=_seconds(visit, kept.seconds),
        forwards=summary(visit, now.line),
        outlook=outlook,
    )


def switched_rows(visit: Visit, change: Change) -> list[Switched]:
    """What a change switched."""
    return [
        (visit.say(name), switch_in_words(visit, name, was), switch_in_words(visit, name, now))
        for name, (was, now) in change.switched.items()
    ]


async def undone(visit: Visit, stored: Stored) -> Change | None:
    """The change of the line that the form shall undo; None without one."""
    token = visit.query("undo")
    return await change_at(visit, stored, token) if token else None


async def change_at(visit: Visit, stored: Stored, token: str) -> Change | None:
    """The change of the line that has this token."""
    kept = await _find(visit, token)
    return kept.change if kept is not None and kept.change.number == stored.number else None


async def _find(visit: Visit, token: str) -> Done | None:
    try:
        return msgspec.json.decode(await visit.redis.get(DONE + token) or b"", type=Done)
    except msgspec.DecodeError:
        return None


def _done(change: Change, acks: Acks, changed: bool) -> Done:
    force = acks.plain()
    return Done(change, changed, force["workers"], force["acknowledged"], force["ms"] / 1000)


def _seconds(visit: Visit, seconds: float) -> str:
    text = f"{max(seconds, 0.01):.2f}"
    return text.replace(".", ",") if visit.language == "fr" else text
