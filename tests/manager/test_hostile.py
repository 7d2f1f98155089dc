"""The page under attack: hostile input, hostile stored data, redirects."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import re
import socket
import string
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

import pytest
import redis
from starlette.requests import Request

from manager import patience
from manager.failures import TooSlow
from tests.manager.browser import PASSWORD, Visitor, csrf_of
from tests.manager.site import Answer, Api, Manager, write
from tests.patience import within
from tests.scenarios.processes import RedisServer
from tests.scenarios.sipp import HOST

OWN, PEER, FAX, THEIRS = (f"+3397210100{n}" for n in (1, 2, 3, 8))
FORM = f"/lines/{quote(OWN)}/forwards"
SCRIPT = "<script>alert(1)</script>"
ATTRIBUTE = "\"'><img src=x onerror=alert(1)>"
TEMPLATE = "{{7*7}}{% raw %}${7*7}"
SEED = 20_261_125


@pytest.fixture(scope="module", autouse=True)
def accounts(manager: Manager) -> None:
    for name, whose in (("marie", ["--fleet", "acme"]), ("support", ["--operator"])):
        made = manager.command("manager", "account", "add", name, *whose, typed=PASSWORD + "\n")
        assert made.returncode == 0, made.stderr


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> Iterator[None]:
    for key in (*client.scan_iter("audit:*"), *client.scan_iter("manager:attempts:*")):
        client.delete(key)
    write(client, OWN, label="Accueil")
    write(client, PEER, label="Atelier")
    write(client, FAX, label="Fax", offer={"fax": True})
    write(client, THEIRS, fleet="globex", label="Tresorerie")
    before = client.get(f"line:{THEIRS}")
    yield
    assert client.get(f"line:{THEIRS}") == before


@pytest.fixture(scope="module")
def marie(manager: Manager, accounts: None) -> Visitor:
    visitor = Visitor(manager)
    assert visitor.log_in("marie").status == 200
    return visitor


def is_guarded(answer: Answer) -> bool:
    """Whether the answer has the security policy."""
    policy = answer.headers.get("content-security-policy", "")
    return (
        "default-src 'none'" in policy
        and "unsafe" not in policy
        and answer.headers["x-content-type-options"] == "nosniff"
        and answer.headers["x-frame-options"] == "DENY"
    )


# -- input ------------------------------------------------------------------------------------

NASTY = [
    "", " ", "0", "-1", "1e9", "0x10", "٣", "on", "ON", "voicemail", "fax", "number", "pigeon",
    "0612345678", "+33612345678", "0899123456", "112", OWN, PEER, FAX, THEIRS, "acueil", "atelier",
    SCRIPT, ATTRIBUTE, TEMPLATE, "../../etc/passwd", "\x00", "\r\nSet-Cookie: a=b", "é" * 40,
    "\U0001f600", "\u202e0612345678", "A" * 5000,
    "' OR 1=1 --", "*", "line:*", "%00", "%s%n", "null", "[]", '{"a":1}',
]  # fmt: skip
NAMES = [
    f"{condition}-{part}"
    for condition in ("unconditional", "no_answer", "busy", "unreachable", "sometimes")
    for part in ("on", "service", "voicemail", "fax", "number", "after", "x")
] + ["step", "etag", "seen", "line", "all", "csrf2", "", "next"]
STEPS = ["validate", "check", "edit", "apply", "", "x"]


def test_no_form_causes_a_server_error(
    marie: Visitor, manager: Manager, client: redis.Redis
) -> None:
    """A few hundred forms with hostile values: each is answered by a page, and the stored document
    can be read."""
    rng, token = random.Random(SEED), csrf_of(marie)
    for _ in range(300):
        path = rng.choice([FORM, FORM, FORM + "/preview", "/several"])
        names = rng.sample(NAMES, rng.randint(0, 12))
        fields = [(name, rng.choice(NASTY)) for name in names]
        fields += [("step", rng.choice(STEPS)), ("csrf", token)]
        fields += [("line", rng.choice([OWN, PEER, THEIRS, "x"])) for _ in range(rng.randint(0, 3))]
        rng.shuffle(fields)
        answer = marie.request("POST", path, fields)
        assert answer.status in (200, 303, 403, 404, 409, 422), (path, fields)
        assert is_guarded(answer)
        assert SCRIPT not in answer.text
        assert ATTRIBUTE not in answer.text
        assert "Tresorerie" not in answer.text
        for number in (OWN, PEER):
            assert json.loads(str(client.get(f"line:{number}")))["fleet"] == "acme"
    assert marie.request("GET", "/lines").status == 200
    assert "Traceback" not in manager.log
    shown = manager.command("line", "list", "--json")
    assert "refused" not in shown.stdout


def raw_post(manager: Manager, visitor: Visitor, body: bytes, **headers: str) -> int:
    connection = http.client.HTTPConnection(HOST, manager.port, timeout=within(10))
    cookie = "; ".join(f"{n}={v}" for n, v in visitor.cookies.items())
    try:
        connection.request("POST", FORM, body, {"Cookie": cookie, **headers})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe\x00", b"=&=&=", b"&" * 5000, b"a=1&" * 3000, b"a=%", b"a=%zz", b"a=%ff%fe",
        b"csrf=" + b"x" * 200_000, b"--b\r\nContent-Disposition: form-data; name=csrf\r\n\r\nx",
        b'{"csrf": "x"}',
    ],
    ids=range(10),
)  # fmt: skip
def test_bodies_that_are_no_forms(manager: Manager, marie: Visitor, body: bytes) -> None:
    assert raw_post(manager, marie, body) in (400, 403, 413)
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert raw_post(manager, marie, body, **kind) in (400, 403, 413)


def test_silent_clients_do_not_block_others(manager: Manager, marie: Visitor) -> None:
    """More of them than are served at once: the one that is silent longest is closed."""
    with ExitStack() as stack:
        silent = []
        for n in range(520):
            one = stack.enter_context(socket.create_connection((HOST, manager.port)))
            if n % 2:
                one.sendall(b"POST /login HTTP/1.1\r\nHost: x\r\nContent-")
            silent.append(one)
        for _ in range(3):
            assert marie.request("GET", "/lines").status == 200
        silent[0].settimeout(within(5))
        assert silent[0].recv(1) == b""


async def test_a_body_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "BODY_S", 0.05)
    parts = [{"type": "http.request", "body": b"a=", "more_body": True}]

    async def receive() -> Any:
        if not parts:
            await asyncio.sleep(60)
        return parts.pop()

    with pytest.raises(TooSlow):
        await patience.read(Request({"type": "http", "method": "POST"}, receive), 100)


@pytest.mark.parametrize("count", ["-1", "x", "٣", "1001", "9" * 5000])
def test_a_count_of_forwards_that_is_none(marie: Visitor, count: str) -> None:
    fields = [("csrf", csrf_of(marie)), ("count", count), ("step", "check")]
    answer = marie.request("POST", f"/lines/{quote(OWN)}/rules/busy", fields)
    assert answer.status == 409, answer.text  # without an etag


@pytest.mark.parametrize("query", ["?q=%ff", "?after=%00", "?fleet=" + "x" * 3000, "?lang=xx"])
def test_queries_that_are_nonsense(marie: Visitor, query: str) -> None:
    paths = ["/lines", "/suggest", "/several", f"/lines/{quote(OWN)}", FORM, FORM + "/done"]
    paths += [f"/lines/{quote(OWN)}/calls", f"/lines/{quote(OWN)}/calls.csv", "/accounts"]
    paths += ["/several/done"]
    for path in paths:
        answer = marie.get(path + query)
        assert answer.status in (200, 404), path
        assert is_guarded(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd",
        "/static/", "/static", "//evil.example/", "/lines/%00", "/lines/%2e%2e%2f", "/lines/",
        "/lines/" + "9" * 4000,
        "/api/v1/lines/%00", "/api/v1/", "/api", "/.git/config",
    ],
)  # fmt: skip
def test_paths_that_lead_nowhere(marie: Visitor, path: str) -> None:
    answer = marie.request("GET", path)
    assert answer.status in (401, 404), answer
    assert is_guarded(answer)
    assert "def " not in answer.text


# -- stored data ------------------------------------------------------------------------------


def recorded(**fields: str) -> dict[Any, Any]:
    """A record of a call that line OWN forwarded, with these hostile fields."""
    forward = {"line": OWN, "condition": "busy", "kind": "number", "number": PEER,
               "billing": "free", "seconds": 3}  # fmt: skip
    whole = {
        "id": "1", "call_id": "1", "caller": "", "called": OWN, "received": "1", "rang": "",
        "answered": "", "ended": "2", "condition": "busy", "destination": "number", "target": PEER,
        "outcome": "answered", "code": "200", "q850": "", "why": "", "seconds": "3", "payer": OWN,
        "billing": "free", "legs": "[]", "forwards": json.dumps([forward]),
    }  # fmt: skip
    return whole | fields


def logged(before: object, after: object, **fields: str) -> dict[Any, Any]:
    """An entry of the log of changes, with these hostile fields."""
    entry = {"who": "x", "how": "page", "line": OWN, "what": "forwards"} | fields
    return entry | {"from": json.dumps(before), "to": json.dumps(after)}


def forward_of(**fields: object) -> str:
    forward = {"line": OWN, "condition": "busy", "kind": "number", "number": PEER,
               "billing": "free", "seconds": 3}  # fmt: skip
    return json.dumps([forward | fields])


def test_what_others_wrote_is_shown_as_text(
    manager: Manager, marie: Visitor, client: redis.Redis
) -> None:
    """Labels, fleets, contacts, callers, names in the log of changes: never markup."""
    label = SCRIPT + ATTRIBUTE + TEMPLATE
    forward = {"on": True, "to": {"kind": "number", "number": PEER}}
    write(client, OWN, label=label, forwards={"busy": forward}, max_calls=1)
    write(client, PEER, label=label, offer={"fax": True})
    write(client, "+33972101007", fleet=label, label=label)
    client.zadd(f"reg:{OWN}", {f"sip:{quote(SCRIPT)}@192.0.2.1": 4e9, f"sip:{SCRIPT}@h": 4e9})
    was = {"forwards": {"busy": {"on": True, "to": {"kind": "number", "number": label}}}}
    client.xadd("audit:acme", logged(was, {label: label}, who=label, how=label, what=label))
    client.xadd("cdr", recorded(caller=label, why=label, forwards=forward_of(number=label)))
    support = Visitor(manager)
    support.log_in("support")
    paths = ["/lines", "/lines?q=" + quote(SCRIPT), f"/lines/{quote(OWN)}", FORM, "/several?all=1"]
    paths += [f"/suggest?line={quote(OWN)}&q=", "/lines?fleet=" + quote(label)]
    paths += [f"/several?line={quote(OWN)}&line={quote(PEER)}", "/lines/%2B33972101007"]
    paths += ["/fleets", "/live", "/registrations", "/changes", "/accounts", "/account"]
    paths += [f"/lines/{quote(OWN)}/calls", f"/changes?q={quote(SCRIPT)}"]
    for visitor in (marie, support):
        for path in paths:
            answer = visitor.get(path)
            assert answer.status in (200, 404), path
            assert is_guarded(answer)
            if answer.headers["content-type"].startswith("application/json"):
                continue  # nosniff: browsers do not treat it as a page
            assert SCRIPT not in answer.text, path
            assert "<img src=x" not in answer.text, path
    page = marie.get(f"/lines/{quote(OWN)}").text
    assert page.count("&lt;script&gt;") >= 4  # escaped: label, caller, target, user


def test_what_is_no_record_and_no_change_is_left_out(
    manager: Manager, marie: Visitor, client: redis.Redis, acme: Api
) -> None:
    """Any program may write to the streams; page and API skip entries that they cannot read."""
    client.delete("cdr")
    strange: list[object] = [[], "x", 5, None, {"forwards": []}, {"forwards": "x"}]
    targets: tuple[object, ...] = (None, 5, {}, {"kind": "x"}, {"kind": "number", "number": [1]})
    strange += [{"forwards": {"busy": {"on": True, "to": to}}} for to in targets]
    for one in strange:
        client.xadd("audit:acme", logged(one, one))
        client.xadd("audit:acme", logged({}, one))
    client.xadd("audit:acme", {"who": "x"})
    client.xadd("cdr", {"called": OWN})
    for fields in ({"condition": "x"}, {"kind": "x"}, {"billing": "x"}, {"number": 5}, {"line": 5}):
        client.xadd("cdr", recorded(forwards=forward_of(**fields)))
    for time_ in ("1e300", "-1e300", "nan", "inf", "x", "0"):
        client.xadd("cdr", recorded(received=time_))
    assert marie.request("GET", f"/lines/{quote(OWN)}").status == 200
    for path in ("changes", "records"):
        assert acme.get(f"/lines/{OWN}/{path}").status == 200
    rows = marie.get(f"/lines/{quote(OWN)}/calls.csv").text.splitlines()
    assert len(rows) == 2  # that of 1970
    client.delete("cdr")


def test_scripts_and_styles_are_files_of_ours(marie: Visitor) -> None:
    """As the policy requires: nothing inline, nothing from other sites."""
    for path in (
        "/login", "/lines", f"/lines/{quote(OWN)}", FORM, f"/several?line={quote(OWN)}",
        "/account", "/accounts", f"/lines/{quote(OWN)}/calls",
    ):  # fmt: skip
        page = marie.get(path).text
        assert not re.search(r"\son[a-z]+\s*=", page), path
        assert not re.search(r"\sstyle\s*=", page), path
        assert "javascript:" not in page
        for tag in re.findall(r"<script[^>]*>", page):
            assert 'src="/static/' in tag
        outside = re.findall(r'(?:src|href|action)="(?:https?:)?//[^"]*"', page)
        assert not outside, path


# -- redirects --------------------------------------------------------------------------------

ELSEWHERE = [
    "//evil.example/", "/\\evil.example/", "\\/evil.example", "https://evil.example/", "https:/x",
    "/\t/evil.example", "/\r\n/evil.example", "javascript:alert(1)", "/%0d%0aSet-Cookie:a=b",
    "@evil", "/\x00", "///evil.example", "/..//evil.example", "/.//evil.example",
    "/login?next=//evil.example",
    " //evil.example", "/lines\r\nSet-Cookie: stolen=1", "\u2028//evil.example", "/a\\..\\..//evil",
]  # fmt: skip


@pytest.mark.parametrize("following", ELSEWHERE)
def test_the_log_in_leads_nowhere_else(manager: Manager, following: str) -> None:
    visitor = Visitor(manager)
    page = visitor.get(f"/login?next={quote(following, safe='')}")
    answer = visitor.send(page, "/login", account="marie", password=PASSWORD, next=following)
    assert answer.status == 303
    place = answer.headers["location"]
    # As browsers read it: backslashes are slashes, tabs and line ends are ignored.
    seen = re.sub(r"[\t\r\n]", "", place).replace("\\", "/").strip()
    base = f"http://{HOST}:{manager.port}/login"
    assert urlsplit(urljoin(base, seen)).netloc == f"{HOST}:{manager.port}", place
    assert not any(cookie.startswith("stolen") for cookie in answer.cookies)


def test_nothing_typed_becomes_a_header(manager: Manager) -> None:
    visitor = Visitor(manager)
    for path in (
        "/lines?q=a%0d%0aSet-Cookie:%20stolen=1",
        "/login?lang=fr%0d%0aSet-Cookie:%20stolen=1",
        "/lines/%0d%0aSet-Cookie:%20stolen=1",
        "/%0d%0aSet-Cookie:%20stolen=1",
    ):
        answer = visitor.request("GET", path)
        assert not any("stolen" in cookie for cookie in answer.cookies)
        assert "\n" not in answer.headers.get("location", "")


# -- the log-in -------------------------------------------------------------------------------


def test_a_session_is_new_at_every_log_in(manager: Manager) -> None:
    """An attacker who set a cookie before the log-in does not share the session."""
    planted = "".join(random.Random(SEED).choices(string.ascii_letters, k=43))
    visitor = Visitor(manager)
    visitor.cookies["renvoi_session"] = planted
    assert visitor.log_in("marie").status == 200
    first = visitor.cookies["renvoi_session"]
    assert first != planted
    thief = Visitor(manager)
    thief.cookies["renvoi_session"] = planted
    assert thief.request("GET", "/lines").status == 303
    assert visitor.log_in("marie").status == 200
    assert visitor.cookies["renvoi_session"] != first


def test_an_account_that_does_not_exist_takes_as_long(
    manager: Manager, client: redis.Redis
) -> None:
    """The response time must not reveal whether a name exists: without a comparison of passwords an
    answer would take a tenth of the time. The kinds alternate, and the fastest of each is
    compared; on a busy machine it takes more rounds to measure it."""
    times: dict[str, float] = {}

    def alike() -> bool:
        return all(times[account] > 0.4 * times["marie"] for account in ("nobody", "<>"))

    for turn in range(40):
        if turn >= 8 and alike():
            break
        for key in client.scan_iter("manager:attempts:*"):
            client.delete(key)
        for account in ("marie", "nobody", "<>"):
            visitor = Visitor(manager)
            page = visitor.get("/login")
            begun = time.perf_counter()
            answer = visitor.send(page, "/login", account=account, password="wrong wrong wrong")
            took = time.perf_counter() - begun
            assert answer.status == 403
            times[account] = min(took, times.get(account, took))
    assert alike(), times


def test_guesses_are_counted_from_any_claimed_address(manager: Manager) -> None:
    visitor, statuses = Visitor(manager), []
    token = login_token(visitor.get("/login"))
    for n in range(12):
        fields = [("csrf", token), ("account", "marie"), ("password", "wrong wrong wrong")]
        claim = {"X-Forwarded-For": f"198.51.100.{n}", "Forwarded": f"for=198.51.100.{n}"}
        statuses.append(visitor.request("POST", "/login", fields, **claim).status)
    assert statuses[:10] == [403] * 10
    assert statuses[10:] == [429] * 2
    fields = [("csrf", token), ("account", "MARIE "), ("password", PASSWORD)]
    assert visitor.request("POST", "/login", fields).status == 429  # the same account


def test_a_count_of_guesses_ends(manager: Manager, client: redis.Redis) -> None:
    """Also if its key expired while the password was compared."""
    Visitor(manager).log_in("marie")
    for key in client.scan_iter("manager:attempts:*"):
        client.set(key, -1)  # the result of a decrement of a key that has just expired
    Visitor(manager).log_in("marie", "wrong wrong wrong")
    assert all(int(str(client.ttl(key))) > 0 for key in client.scan_iter("manager:attempts:*"))


def test_passwords_and_tokens_are_in_no_log(manager: Manager) -> None:
    token = manager.token("--fleet", "acme")
    visitor = Visitor(manager)
    Visitor(manager).log_in("marie", "wrong wrong wrong")
    visitor.log_in("marie")
    manager.request("GET", "/api/v1/lines", headers={"Authorization": f"Bearer {token}x"})
    deadline = time.monotonic() + within(3)
    while "login.refused" not in manager.log:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)  # the log is written in the background
    log = manager.log
    session = visitor.cookies["renvoi_session"]
    for secret in (PASSWORD, "wrong wrong wrong", token, session):
        assert secret not in log


@pytest.mark.parametrize("name", ["form.js", "list.js", "page.js", "style.css", "icon.svg"])
def test_scripts_and_styles_are_asked_for_again(manager: Manager, name: str) -> None:
    """Without a rule browsers keep a file for a tenth of its age: after an update the old one."""
    answer = manager.get(f"/static/{name}")
    assert answer.headers["cache-control"] == "no-cache"
    again = manager.request("GET", f"/static/{name}", None, {"If-None-Match": answer.etag})
    assert (again.status, again.headers["cache-control"]) == (304, "no-cache")
    assert is_guarded(answer)


@pytest.mark.parametrize("path", ["/lines", FORM, f"/lines/{quote(OWN)}"])
def test_pages_are_kept_by_no_cache(marie: Visitor, path: str) -> None:
    assert marie.get(path).headers["cache-control"] == "no-store"


@pytest.fixture(scope="module")
def behind(
    manager: Manager, tmp_path_factory: pytest.TempPathFactory, server: RedisServer
) -> Iterator[Manager]:
    """A manager behind a proxy that terminates TLS."""
    folder = tmp_path_factory.mktemp("behind")
    running = Manager(folder, server.url, https=True, trusted_proxies=["127.0.0.0/8"])
    running.start()
    yield running
    assert running.stop() == 0


def test_over_https_cookies_are_for_this_host_alone(behind: Manager) -> None:
    """And only such a proxy may set the client's address."""
    visitor = Visitor(behind)
    page = visitor.get("/login")
    assert page.headers["strict-transport-security"].startswith("max-age=")
    answer = visitor.send(page, "/login", account="marie", password=PASSWORD)
    assert answer.status == 303
    given = [*page.cookies, *answer.cookies]
    assert {cookie.partition("=")[0] for cookie in given} == {
        "__Host-renvoi_login", "__Host-renvoi_session",
    }  # fmt: skip
    for cookie in given:  # RFC 6265bis 4.1.3.2
        assert "Secure" in cookie
        assert "Path=/" in cookie
        assert "Domain" not in cookie
    assert visitor.get("/lines").status == 200
    fields = [("account", "marie"), ("password", "wrong wrong wrong")]
    stranger = Visitor(behind)
    fields.append(("csrf", login_token(stranger.get("/login"))))
    for n in range(15):  # each address is accepted, because it is the proxy's
        claim = {"X-Forwarded-For": f"203.0.113.9, 198.51.100.{n}"}
        assert stranger.request("POST", "/login", fields, **claim).status == 403


CLAIMS: dict[str, list[tuple[str, str]]] = {
    "two_lines": [("X-Forwarded-For", "198.51.100.{n}"), ("x-forwarded-for", "203.0.113.7")],
    "a_port": [("X-FORWARDED-FOR", "198.51.100.{n}, 203.0.113.8:4{n}")],
    "two_proxies": [("X-Forwarded-For", "198.51.100.{n}, 203.0.113.6,127.0.0.9")],
    "rfc_7239_beside": [("Forwarded", "for=198.51.100.{n}"), ("X-Forwarded-For", "203.0.113.5")],
    "rfc_7239": [("Forwarded", "for=198.51.100.{n}"), ("Forwarded", 'For="203.0.113.4:80";by=x')],
    "ipv6": [("X-Forwarded-For", '"[2001:DB8::{n}]:443"')],
    "ipv4_in_ipv6": [("X-Forwarded-For", "198.51.100.{n}, ::FFFF:203.0.113.3")],
    "no_address": [("X-Forwarded-For", "198.51.100.{n}, unknown")],
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_false_address_does_not_reset_the_count_of_guesses(
    behind: Manager, client: redis.Redis, claim: str
) -> None:
    """A client's own entries are left of the proxy's entry, or in a line above it."""
    stranger = Visitor(behind)
    token = login_token(stranger.get("/login"))
    cookies = "; ".join(f"{n}={v}" for n, v in stranger.cookies.items())
    fields = {"account": "marie", "password": "wrong wrong wrong", "csrf": token}
    statuses = []
    for n in range(12):
        connection = http.client.HTTPConnection(HOST, behind.port, timeout=within(10))
        body = urlencode(fields)
        connection.putrequest("POST", "/login")
        for name, value in (
            ("Cookie", cookies), ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Length", str(len(body))), *CLAIMS[claim],
        ):  # fmt: skip
            connection.putheader(name, value.format(n=n))
        connection.endheaders(body.encode())
        statuses.append(connection.getresponse().status)
        connection.close()
    assert statuses == [403] * 10 + [429] * 2


def login_token(page: Answer) -> str:
    token = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert token is not None
    return token[1]
