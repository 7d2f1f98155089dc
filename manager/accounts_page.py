"""The accounts page: an administrator's own users; for operators all but operators' accounts."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from manager import accounts, kept_input
from manager.accounts import Account
from manager.failures import NotFound
from manager.web import Visit
from rules.fleet import is_name
from rules.numbers import NumberError
from store.audit import KEPT, entry
from store.keys import ACCOUNT, audit_key

_MOST = 2_000


async def show(visit: Visit) -> Response:
    if typed := await kept_input.of(visit):
        visit.form = typed
        return await _page(visit, is_kept=True)
    return await _page(visit)


async def act(visit: Visit) -> Response:
    """Make an account, set its password, or delete it."""
    step, name = visit.fields.get("step"), visit.fields.get("name", "")
    if step == "add":
        return await _add(visit, name)
    account = await _theirs(visit, name)
    if step == "reset":
        password = accounts.invented()
        await accounts.give_password(visit.redis, account.name, password)
        await _note(visit, account, "password")
        return await _page(visit, given=(account.name, password))
    if step == "delete":
        await visit.redis.delete(ACCOUNT + account.name)
        await _note(visit, account, "deleted")
        return await _page(visit, notice=visit.say("account_deleted", name=account.name))
    return await _page(visit)


def may_manage(visit: Visit, account: Account) -> bool:
    """Operators: all but operators; administrators: the users of lines of their fleet."""
    if visit.who.operator:
        return account.fleet is not None
    return account.role == "line" and account.fleet == visit.who.fleet


async def _add(visit: Visit, typed: str) -> Response:
    fields, say, wrong = visit.fields, visit.say, {}
    fleet = fields.get("fleet", "").strip() if visit.who.operator else visit.who.fleet or ""
    role = fields.get("role", "line") if visit.who.operator else "line"
    name, line = accounts.name_of(typed), None
    if name is None:
        wrong["name"] = say("account_name")
    if not is_name(fleet):
        wrong["fleet"] = say("account_fleet")
    if role == "line":
        line = _line(visit, fleet, fields.get("line", ""))
        if line is None:
            wrong["line"] = say("error_not_fleet")
    if wrong or name is None:
        return await _page(visit, wrong=wrong)
    password = accounts.invented()
    account = accounts.make(name, fleet, password, line)
    key = ACCOUNT + name
    if not await visit.redis.set(key, msgspec.json.encode(account), nx=True):
        return await _page(visit, wrong={"name": say("account_taken")})
    await _note(visit, account, "made")
    return await _page(visit, given=(name, password))


def _line(visit: Visit, fleet: str, typed: str) -> str | None:
    """The number of a line of the fleet; None if it is not one."""
    try:
        number = visit.site.numbering.normalise(typed)
    except NumberError:
        return None
    return number if visit.site.directory.has(fleet, number) else None


async def _theirs(visit: Visit, typed: str) -> Account:
    """Raises NotFound, also for an account that they may not manage."""
    name = accounts.name_of(typed)
    raw = await visit.redis.get(ACCOUNT + name) if name else None
    account = accounts.read(raw)
    if account is None or not may_manage(visit, account):
        raise NotFound("no such account")
    return account


async def _note(visit: Visit, account: Account, did: str) -> None:
    """Write to the fleet's log of changes."""
    what = {"account": account.name, "did": did}
    fields: Any = entry(visit.who.name, "page", "", "account", {}, what)
    await visit.redis.xadd(audit_key(account.fleet or ""), fields, maxlen=KEPT, approximate=True)


async def _page(
    visit: Visit,
    given: tuple[str, str] | None = None,
    wrong: dict[str, str] | None = None,
    notice: str = "",
    is_kept: bool = False,
) -> Response:
    fleet = visit.who.fleet or visit.query("fleet") or None
    found = await accounts.every(visit.redis, _MOST, fleet)
    return visit.page(
        "people.html",
        422 if wrong else 200,
        accounts=sorted(found, key=lambda account: (account.fleet or "", account.name)),
        may_manage=lambda account: may_manage(visit, account),
        place=visit.places.line,
        given=given,
        wrong=wrong or {},
        notice=notice,
        is_kept=is_kept,
        typed={n: visit.fields.get(n, "")[:80] for n in ("name", "fleet", "line", "role")},
    )
