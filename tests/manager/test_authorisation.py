"""Every route, requested by every kind of user without the right to it.

The routes are read from the application, so a new one is tested like all others; one with an
unknown parameter fails here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import redis
from starlette.routing import Mount, Route

from engine.config import Config
from manager.app import build
from tests.manager.browser import PASSWORD, Forms, Visitor, csrf_of, path_of
from tests.manager.site import Answer, Api, Manager, write

OWN, PEER, THEIRS, NOBODYS = (f"+3397210100{n}" for n in (1, 2, 8, 9))
SECRETS = ("Tresorerie", "globex", "+33699999999", "06 99 99 99 99", "192.0.2.77")
# Open to everybody: the log-in, and pages without data of customers.
OPEN = {
    ("GET", "/"),
    ("GET", "/healthz"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("GET", "/api/v1/openapi.json"),
}
API = "/api/v1"
SPELLINGS = (
    THEIRS,
    "0" + THEIRS[3:],
    "00" + THEIRS[1:],
    "09 72 10 10 08",
    f"tel:{THEIRS}",
    f"sip:{THEIRS}@renvoi",
    f" {THEIRS} ",
)


def all_routes() -> Iterator[tuple[str, str]]:
    """Method and path of everything that is served, without HEAD, which is handled as GET."""
    for route in build(Config(), "redis://127.0.0.1:1").routes:
        if isinstance(route, Mount):
            assert route.path == "/static", f"{route.path}: is it open to everybody?"
            continue
        assert isinstance(route, Route), route
        for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
            yield method, route.path


ROUTES = sorted(set(all_routes()))
GUARDED = [route for route in ROUTES if route not in OPEN]
OF_THE_API = [route for route in GUARDED if route[1].startswith(API)]
OF_THE_PAGE = [route for route in GUARDED if not route[1].startswith(API)]
OF_A_LINE = [route for route in GUARDED if "{number}" in route[1]]


def filled(path: str, number: str) -> str:
    """A path with its parameters filled in; an unknown parameter is an error."""
    return path.format(number=quote(number, safe=""), condition="busy", fleet="globex")


def body_for(method: str, path: str) -> dict[str, object] | None:
    """A body that would change a forward, if the request were allowed."""
    if method not in ("PUT", "PATCH", "POST"):
        return None
    forward = {"on": True, "to": {"kind": "number", "number": "+33612345678"}}
    if path.endswith("{condition}"):
        return forward
    if path.endswith("/forwards"):
        return {"busy": forward}
    return {"number": THEIRS, "fleet": "acme", "forwards": {"busy": forward}}


FORM = [
    ("busy-on", "on"),
    ("busy-service", "number"),
    ("busy-number", "0612345678"),
    ("step", "validate"),
    ("line", THEIRS),
    ("account", "marie"),
]


@pytest.fixture(scope="module", autouse=True)
def accounts(manager: Manager) -> None:
    for name, whose in (
        ("marie", ["--fleet", "acme"]),
        ("gil", ["--fleet", "globex"]),
        ("support", ["--operator"]),
    ):
        made = manager.command("manager", "account", "add", name, *whose, typed=PASSWORD + "\n")
        assert made.returncode == 0, made.stderr


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> Iterator[None]:
    """The lines. After each test those of fleet globex must be unchanged."""
    for key in (*client.scan_iter("audit:*"), *client.scan_iter("manager:attempts:*")):
        client.delete(key)
    forward = {"on": True, "to": {"kind": "number", "number": "+33699999999"}}
    write(client, OWN, label="Accueil")
    write(client, PEER, label="Atelier")
    write(client, THEIRS, fleet="globex", label="Tresorerie", forwards={"busy": forward})
    client.zadd(f"reg:{THEIRS}", {"sip:desk@192.0.2.77": 4e9})
    before = client.get(f"line:{THEIRS}")
    yield
    assert client.get(f"line:{THEIRS}") == before
    assert client.xlen("audit:globex") == 0


@pytest.fixture(scope="module")
def sessions(manager: Manager, accounts: None) -> dict[str, Visitor]:
    opened = {}
    for name in ("marie", "gil", "support"):
        opened[name] = Visitor(manager)
        assert opened[name].log_in(name).status == 200
    return opened


def visitor(opened: Visitor) -> Visitor:
    """A visitor with the same session and separate cookies."""
    copy = Visitor(opened.manager)
    copy.cookies = dict(opened.cookies)
    return copy


def says_nothing(answer: Answer) -> bool:
    """Whether the answer, including headers, has nothing of fleet globex."""
    whole = answer.text + repr(dict(answer.headers))
    return not any(secret.lower() in whole.lower() for secret in SECRETS)


def to_login(answer: Answer) -> bool:
    return answer.status == 303 and path_of(answer) == "/login"


def test_the_routes_are_there() -> None:
    assert set(ROUTES) >= OPEN
    assert len(OF_THE_API) >= 13
    assert len(OF_THE_PAGE) >= 10
    assert len(OF_A_LINE) >= 15


# -- nobody -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), OF_THE_API)
def test_the_api_without_a_good_token(
    manager: Manager, sessions: dict[str, Visitor], method: str, path: str
) -> None:
    revoked = manager_revoked(manager)
    wrong = manager_token(manager)[:-4] + "AAAA"
    basic = "Basic bWFyaWU6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5"
    cookie = "; ".join(f"{n}={v}" for n, v in sessions["gil"].cookies.items())
    for headers in (
        {},
        {"Authorization": f"Bearer {revoked}"},
        {"Authorization": f"Bearer {wrong}"},
        {"Authorization": basic},
        {"Cookie": cookie},  # a session of the page is not a token
    ):
        answer = manager.request(method, filled(path, THEIRS), b"{}", headers)
        assert answer.status == 401, headers
        assert answer.headers["content-type"] == "application/problem+json"
        assert says_nothing(answer)


_made: dict[str, str] = {}


def manager_token(manager: Manager) -> str:
    """A token of fleet globex, made once per module."""
    if "good" not in _made:
        _made["good"] = manager.token("--fleet", "globex")
    return _made["good"]


def manager_revoked(manager: Manager) -> str:
    """A token of fleet globex that was revoked."""
    if "revoked" not in _made:
        _made["revoked"] = manager.token("--fleet", "globex")
        ended = manager.command("manager", "token", "revoke", _made["revoked"].split("_")[1])
        assert ended.returncode == 0, ended.stderr
    return _made["revoked"]


@pytest.mark.parametrize(("method", "path"), OF_THE_PAGE)
def test_the_page_without_a_session(
    manager: Manager, sessions: dict[str, Visitor], method: str, path: str
) -> None:
    over = visitor(sessions["gil"])
    over.cookies = {name: value[::-1] for name, value in over.cookies.items()}
    with_token = {"Authorization": f"Bearer {manager_token(manager)}"}
    place = filled(path, THEIRS)
    fields = FORM if method == "POST" else None
    for answer in (
        Visitor(manager).request(method, place, fields),
        over.request(method, place, fields),
        Visitor(manager).request(method, place, fields, **with_token),
    ):
        assert says_nothing(answer)
        if answer.status == 401:  # the input of a form is kept until the log-in
            assert method == "POST"
            assert Forms(answer.text).forms[-1][0] == "/login"
            continue
        assert to_login(answer), answer
        assert answer.text == ""


def test_sessions_that_are_over_open_nothing(manager: Manager) -> None:
    """Sessions after a log-out, of a deleted account, and after a change of password."""
    add = ("manager", "account", "add", "brief", "--fleet", "globex")
    manager.command(*add, typed=PASSWORD + "\n")
    out, gone, changed = (Visitor(manager) for _ in range(3))
    for one in (out, gone, changed):
        assert one.log_in("brief").status == 200
    kept = dict(out.cookies)
    out.submit(out.get("/lines"), "/logout")
    out.cookies = kept
    assert to_login(out.request("GET", "/lines"))
    manager.command("manager", "account", "password", "brief", typed="another password\n")
    assert to_login(changed.request("GET", "/lines"))
    manager.command("manager", "account", "delete", "brief")
    assert to_login(gone.request("GET", "/lines"))


@pytest.mark.parametrize("path", [path for method, path in GUARDED if method == "GET"])
def test_head_shows_no_more_than_get(manager: Manager, path: str) -> None:
    answer = manager.request("HEAD", filled(path, THEIRS))
    assert answer.status in (303, 401)


# -- the wrong fleet --------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [r for r in OF_A_LINE if r[1].startswith(API)])
def test_the_api_for_a_line_of_another_fleet(acme: Api, method: str, path: str) -> None:
    """A line of another fleet, in any notation of its number, is treated as if it did not exist."""
    local = path.removeprefix(API)
    unknown = acme.send(method, filled(local, NOBODYS), body_for(method, path))
    assert unknown.status in (403, 404)
    for spelling in SPELLINGS:
        answer = acme.send(method, filled(local, spelling), body_for(method, path))
        assert answer.status == unknown.status, spelling
        assert says_nothing(answer)
        if spelling == THEIRS:
            assert answer.text.replace(THEIRS, NOBODYS) == unknown.text
            kept = {n: v for n, v in answer.headers.items() if n != "date"}
            assert kept == {n: v for n, v in unknown.headers.items() if n != "date"}


@pytest.mark.parametrize(("method", "path"), [r for r in OF_A_LINE if r not in OF_THE_API])
def test_the_page_of_a_line_of_another_fleet(
    sessions: dict[str, Visitor], method: str, path: str
) -> None:
    marie = visitor(sessions["marie"])
    fields = [*FORM, ("csrf", csrf_of(marie))] if method == "POST" else None
    unknown = marie.request(method, filled(path, NOBODYS), fields)
    assert unknown.status == 404
    for spelling in SPELLINGS:
        answer = marie.request(method, filled(path, spelling), fields)
        assert answer.status == 404, spelling
        assert says_nothing(answer)
        if spelling == THEIRS:
            assert answer.text.replace(THEIRS[1:], NOBODYS[1:]) == unknown.text


@pytest.mark.parametrize(
    ("method", "path"), [r for r in GUARDED if "{number}" not in r[1] and r[1] != "/logout"]
)
def test_routes_of_no_single_line_show_nothing_of_another_fleet(
    acme: Api, sessions: dict[str, Visitor], method: str, path: str
) -> None:
    """Requests with their fleet, their words, their number as a cursor or a line."""
    asked = [f"{name}={quote(value, safe='')}" for name in ("q", "fleet", "line", "after", "cursor")
             for value in (THEIRS, "0972101008", "tresorerie", "globex", "0699999999")]  # fmt: skip
    marie = visitor(sessions["marie"])
    token = csrf_of(marie)
    for query in ["", "all=1", *asked, f"all=1&fleet=globex&line={quote(THEIRS)}"]:
        place = f"{path}?{query}"
        if path.startswith(API):
            answer = acme.send(method, place.removeprefix(API), body_for(method, path))
            assert "+33972101008" not in answer.text or "cursor" in query
        elif method == "GET":
            answer = marie.request("GET", place)
        else:
            answer = marie.request("POST", place, [*FORM, ("csrf", token)])
        assert answer.status < 500
        shown = re.sub(r'(value|href|hreflang)="[^"]*"|« [^»]* »', "", answer.text)
        for secret in ("Tresorerie", "+33699999999", "06 99 99 99 99", "192.0.2.77"):
            assert secret not in shown, query
        assert "09 72 10 10 08" not in shown, query


def test_a_forward_to_their_line_shows_nothing_of_it(
    acme: Api, sessions: dict[str, Visitor]
) -> None:
    """It is treated as an outside number: in the API, in the preview and in explanations."""
    wanted = {"on": True, "to": {"kind": "number", "number": THEIRS}}
    assert acme.put(f"/lines/{OWN}/forwards/unconditional", wanted).status == 200
    for path in ("", "/forwards", "/state", "/explain", "/changes", "/records", "/usage"):
        answer = acme.get(f"/lines/{OWN}{path}")
        assert answer.status == 200
        assert says_nothing(answer), path
    for kind in ("voicemail", "fax"):
        theirs, none = (
            acme.put(f"/lines/{OWN}/forwards/busy", {"on": True, "to": {"kind": kind, "number": n}})
            for n in (THEIRS, NOBODYS)
        )
        assert theirs.status == none.status == 422
        assert theirs.text.replace(THEIRS, NOBODYS) == none.text
    marie = visitor(sessions["marie"])
    for path in ("", "/forwards"):
        assert says_nothing(marie.get(f"/lines/{OWN}{path}"))


# -- operators, and the fleet itself: the tests above would pass if the site were down --------


@pytest.mark.parametrize(("method", "path"), [r for r in OF_A_LINE if r[0] == "GET"])
def test_users_with_the_right_are_served(
    manager: Manager, operator: Api, sessions: dict[str, Visitor], method: str, path: str
) -> None:
    if path.startswith(API):
        own = Api(manager, manager_token(manager))
        for api in (own, operator):
            assert api.send(method, filled(path.removeprefix(API), THEIRS)).status == 200
        return
    for name in ("gil", "support"):
        answer = visitor(sessions[name]).request(method, filled(path, THEIRS))
        if path.endswith(("/done", "/restore")):  # of a change that does not exist
            assert answer.status == 404
        elif path.endswith("/switch"):  # only a form is sent there
            assert (answer.status, answer.headers["location"]) == (303, f"/lines/{THEIRS}")
        else:
            assert answer.status == 200
            assert "Tresorerie" in answer.text or path.endswith(".csv")  # of no call


@pytest.mark.parametrize(
    ("method", "path"),
    [r for r in OF_THE_API if r[0] in ("PUT", "DELETE") and r[1].endswith("{number}")],
)
def test_whole_lines_are_for_operators(manager: Manager, method: str, path: str) -> None:
    own = Api(manager, manager_token(manager))
    answer = own.send(method, filled(path.removeprefix(API), THEIRS), body_for(method, path))
    assert answer.status == 403


# -- forms of other sites ---------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for method, path in OF_THE_PAGE if method == "POST"])
def test_every_form_must_be_ours(
    sessions: dict[str, Visitor], client: redis.Redis, path: str
) -> None:
    marie = visitor(sessions["marie"])
    own, others = csrf_of(marie), csrf_of(visitor(sessions["gil"]))
    place = filled(path, OWN)
    before = client.get(f"line:{OWN}")
    fields = [(n, v) for n, v in FORM if n != "line"] + [("line", OWN)]
    tries: list[tuple[list[tuple[str, str]], dict[str, str]]] = [
        ([], {}),
        ([("csrf", "")], {}),
        ([("csrf", "x" * 32)], {}),
        ([("csrf", others)], {}),
        ([("csrf", own[:-1])], {}),
        ([("csrf", own)], {"Origin": "https://evil.example"}),
        ([("csrf", own)], {"Origin": "null"}),
    ]
    for token, headers in tries:
        answer = marie.request("POST", place, [*fields, *token], **headers)
        assert answer.status == 403, (token, headers)
    assert client.get(f"line:{OWN}") == before
    assert marie.request("GET", "/lines").status == 200  # the session still exists
    # and links, images or scripts: GET changes nothing
    assert marie.request("GET", f"{place}?csrf={own}&busy-on=on&step=validate").status != 500
    assert client.get(f"line:{OWN}") == before


def test_a_method_cannot_be_smuggled(sessions: dict[str, Visitor], client: redis.Redis) -> None:
    marie = visitor(sessions["marie"])
    before = client.get(f"line:{OWN}")
    place = f"/lines/{quote(OWN)}/forwards"
    for header in ("X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"):
        marie.request("GET", f"{place}?_method=POST&busy-on=on", None, **{header: "POST"})
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"):
        assert marie.request(method, place, FORM).status == 405
    assert client.get(f"line:{OWN}") == before
