"""Log-in, log-out, and the input of an ended session."""

from __future__ import annotations

from starlette.responses import Response

from manager import kept_input
from manager.failures import TooMany
from manager.web import Visit, Web, local, see


class LogIn:
    """The log-in. A form that was sent with an ended session passes through it and comes back as
    typed."""

    def __init__(self, web: Web) -> None:
        self._sessions = web.sessions
        web.ask_again = self.ask_again

    async def show(self, visit: Visit) -> Response:
        return self._page(visit)

    def ask_again(self, visit: Visit) -> Response:
        """The session of this form has ended: show the log-in, which keeps the input."""
        return self._page(visit, 401, typed=kept_input.pack(visit.form), following=visit.path)

    async def enter(self, visit: Visit) -> Response:
        fields = visit.fields
        self._sessions.check_login(visit.request, fields.get("csrf", ""))
        name = fields.get("account", "")
        try:
            sid = await self._sessions.log_in(visit.request, name, fields.get("password", ""))
        except TooMany as error:
            minutes = -(-error.after_s // 60)
            response = self._again(visit, visit.say("login_many", minutes=minutes), 429)
            response.headers["Retry-After"] = str(error.after_s)
            return response
        if sid is None:
            return self._again(visit, visit.say("login_wrong"), 403)
        place = local(fields.get("next", "/"))
        if typed := kept_input.unpack(fields.get("typed", "")):
            place += "?kept=" + await kept_input.put(visit.site.redis, name, place, typed)
        response = see(place)
        self._sessions.give(response, sid)
        return response

    async def leave(self, visit: Visit) -> Response:
        assert visit.session is not None
        await self._sessions.log_out(visit.session)
        response = see("/login")
        self._sessions.take(response)
        return response

    def _again(self, visit: Visit, error: str, status: int) -> Response:
        return self._page(visit, status, error=error, typed=visit.fields.get("typed", ""))

    def _page(
        self, visit: Visit, status: int = 200, error: str = "", typed: str = "", following: str = ""
    ) -> Response:
        following = following or visit.fields.get("next") or visit.query("next")
        response = visit.page(
            "login.html",
            status,
            error=error,
            account=visit.fields.get("account", "")[:64],
            following=local(following) if following else "",
            # A first visit has no ended session.
            ended=bool(following) and self._sessions.had_one(visit.request),
            typed=typed,
            token=self._sessions.new_login_token(visit.request),
        )
        self._sessions.login_token(visit.request, response)
        return response
