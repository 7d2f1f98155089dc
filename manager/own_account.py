"""The user's own account: another password."""

from __future__ import annotations

from starlette.responses import Response

from manager import accounts
from manager.failures import TooMany
from manager.web import Visit, Web, see


class Own:
    """The page of the logged-in user."""

    def __init__(self, web: Web) -> None:
        self._sessions = web.sessions

    async def show(self, visit: Visit) -> Response:
        return self._page(visit)

    async def change(self, visit: Visit) -> Response:
        """Set the new password and end the other sessions of the account."""
        assert visit.session is not None
        fields, say = visit.fields, visit.say
        new = fields.get("new", "")
        try:
            proved = await self._sessions.proves(
                visit.request, visit.session, fields.get("old", "")
            )
        except TooMany as error:
            return self._page(
                visit, {"old": say("login_many", minutes=-(-error.after_s // 60))}, 429
            )
        wrong = {}
        if not proved:
            wrong["old"] = say("password_wrong")
        if not accounts.fits(new):
            wrong["new"] = say("password_length", least=accounts.SHORTEST_PASSWORD)
        elif new != fields.get("again", ""):
            wrong["again"] = say("password_differs")
        if wrong:
            return self._page(visit, wrong, 422)
        account = await accounts.give_password(visit.redis, visit.session.kept.account, new)
        response = see("/account?done=1")
        if account is not None:
            self._sessions.give(response, await self._sessions.open(account))
        return response

    def _page(
        self, visit: Visit, wrong: dict[str, str] | None = None, status: int = 200
    ) -> Response:
        return visit.page(
            "own.html",
            status,
            wrong=wrong or {},
            done=visit.query("done") == "1",
            least=accounts.SHORTEST_PASSWORD,
        )
