"""The common part of all pages: the language, the logged-in user, the sent form, errors as
pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from engine.telemetry import log
from manager import patience, problems
from manager.access import ROLES, Who
from manager.failures import BadRequest, Failure, Forbidden, NotFound
from manager.formats import duration
from manager.forms import ORDER
from manager.outlook import Teller
from manager.sessions import Session, Sessions
from manager.site import Site
from manager.target_words import TargetWords
from manager.words import LANGUAGES, Say, preferred, speaker

_LARGEST_FORM = 131_072
_MOST_FIELDS = 2_000
_LANGUAGE = "renvoi_lang"
_YEAR_S = 31_536_000
_HERE = Path(__file__).parent
_WITH_PASSWORDS = ("/login", "/account")
# The roles that may see a page for this role.
_MAY = {"operator": {"operator"}, "fleet": {"operator", "fleet"}, "line": set(ROLES)}
_log = log.get_logger("manager")

_templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


@dataclass(slots=True)
class Visit:
    """One request for a page. `session` is None on the log-in page only."""

    site: Site
    request: Request
    language: str
    session: Session | None = None
    form: dict[str, list[str]] = field(default_factory=dict)

    @property
    def say(self) -> Say:
        return speaker(self.language)

    @property
    def who(self) -> Who:
        assert self.session is not None
        return self.session.who

    @property
    def redis(self) -> Any:
        return self.site.redis

    @property
    def places(self) -> TargetWords:
        discreet = self.session is not None and self.session.who.line is not None
        return TargetWords(self.say, self.site.shown, self.site.directory.label, discreet)

    @property
    def teller(self) -> Teller:
        return Teller(self.places)

    @property
    def fields(self) -> dict[str, str]:
        """The form's fields, the first value of each."""
        return {name: values[0] for name, values in self.form.items()}

    @property
    def number(self) -> str:
        return self.site.number(self.request.path_params["number"])

    @property
    def path(self) -> str:
        return self.request.url.path

    def query(self, name: str) -> str:
        return self.request.query_params.get(name, "")[:200]

    def page(self, template: str, status: int = 200, **context: Any) -> Response:
        """An HTML response with `context` and the common values of all templates."""
        shared = {
            "t": self.say,
            "language": self.language,
            "other": next(name for name in LANGUAGES if name != self.language),
            "other_url": self._other_url(),
            "who": self.session.who if self.session else None,
            "csrf": self.session.csrf if self.session else "",
            "order": ORDER,
            "number": self.site.shown.number,
            "date": lambda unix: self.site.shown.date(unix, self.language),
            "duration": duration,
            "path": self.path,
        }
        html = _templates.get_template(template).render({**shared, **context})
        headers = {"Cache-Control": "no-store", "Content-Language": self.language}
        return Response(html, status, headers, "text/html; charset=utf-8")

    def _other_url(self) -> str:
        """The same page in the other language."""
        other = next(name for name in LANGUAGES if name != self.language)
        kept = [(n, v) for n, v in self.request.query_params.multi_items() if n != "lang"]
        return f"{self.request.url.path}?{urlencode([*kept, ('lang', other)])}"


Handler = Callable[[Visit], Awaitable[Response]]


class Web:
    """Turns handlers of visits into routes' endpoints."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.sessions = Sessions(site.redis, site.config.manager)
        self.ask_again: Callable[[Visit], Response] | None = None

    def open(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """For everybody: the log-in."""
        return self._endpoint(handler, public=True)

    def guarded(
        self,
        handler: Handler,
        role: str = "line",
        keeps: bool | str = False,
        reads: bool = False,
    ) -> Callable[[Request], Awaitable[Response]]:
        """For logged-in users; a sent form must be ours.

        Args:
            role: "operator"; "fleet" for administrators of a fleet too; "line" for everybody.
            keeps: the input of the form outlives the session; a name: if it has a field of that
                name.
            reads: the form changes nothing, so that read-only users may send it.
        """
        return self._endpoint(handler, False, role, keeps, reads)

    def _endpoint(
        self,
        handler: Handler,
        public: bool,
        role: str = "line",
        keeps: bool | str = False,
        reads: bool = False,
    ) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            visit = Visit(self.site, request, self._language(request))
            try:
                if request.method == "POST":
                    visit.form = await _form(request)
                if not public:
                    visit.session = await self.sessions.find(request)
                    if visit.session is None:
                        kept = keeps if isinstance(keeps, bool) else keeps in visit.form
                        return self._no_session(visit, kept)
                    if request.method == "POST":
                        self.sessions.check(request, visit.session, visit.fields.get("csrf", ""))
                        if not reads:
                            visit.who.check_writes()
                    if visit.who.role not in _MAY[role]:
                        raise NotFound("there is no such page")  # as for a page that does not exist
                response = await handler(visit)
            except Exception as error:
                response = failed(visit, error)
            if request.query_params.get("lang") in LANGUAGES:
                response.set_cookie(
                    _LANGUAGE,
                    visit.language,
                    _YEAR_S,
                    httponly=True,
                    secure=self.site.config.manager.https,
                    samesite="lax",
                )
            return response

        return serve

    def _no_session(self, visit: Visit, keeps: bool) -> Response:
        """Redirect to the log-in; a form of ours whose session has ended takes its input along."""
        request = visit.request
        if request.method != "POST" or not keeps or not self.sessions.had_one(request):
            return _to_login(request)
        assert self.ask_again is not None
        self.sessions.check_origin(request)
        return self.ask_again(visit)

    def _language(self, request: Request) -> str:
        for wish in (request.query_params.get("lang"), request.cookies.get(_LANGUAGE)):
            if wish in LANGUAGES:
                return wish
        return preferred(request.headers.get("accept-language", ""))


def failed(visit: Visit, error: Exception) -> Response:
    """The error page."""
    failure = problems.as_failure(error)
    if failure is None:
        _log.exception("page.error", path=visit.request.url.path)
        failure = Failure("")
        failure.status = 500
    say, status = visit.say, failure.status
    known = status if status in (403, 404, 409, 503) else 403 if status < 500 else 500
    forbidden = isinstance(failure, Forbidden)
    read_only = forbidden and visit.session is not None and visit.who.read_only
    not_ours = say("error_read_only" if read_only else "error_form")
    what = {
        403: not_ours if forbidden else failure.detail,
        404: say("error_404_what"),
        409: say("error_409_what", detail=failure.detail),
        503: say("error_503_what"),
        500: "",
    }[known]
    # Nothing was changed, so the same form may be sent again, without passwords.
    again = visit.form if status == 503 and visit.path not in (*_WITH_PASSWORDS, "/logout") else {}
    return visit.page("error.html", status, title=say(f"error_{known}"), what=what, again=again)


def local(path: str, otherwise: str = "/") -> str:
    """A path of this site to continue with; nothing that leads to another site."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if plain and not path.startswith("/login") else otherwise


def see(path: str) -> Response:
    """Redirect there with GET."""
    return RedirectResponse(path, 303)


def _to_login(request: Request) -> Response:
    place = request.url.path if request.method == "GET" else "/"
    if request.method == "GET" and request.url.query:
        place += f"?{request.url.query}"
    if place == "/":
        return see("/login")
    return see(f"/login?next={quote(place, safe='')}")


async def _form(request: Request) -> dict[str, list[str]]:
    raw = await patience.read(request, _LARGEST_FORM)
    try:
        return parse_qs(
            raw.decode("ascii"),
            keep_blank_values=True,
            max_num_fields=_MOST_FIELDS,
            encoding="utf-8",
            errors="replace",
        )
    except ValueError as error:
        raise BadRequest(f"the form cannot be read: {error}") from None
