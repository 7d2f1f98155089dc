"""A browser without a screen or JavaScript: cookies, forms as in the page, redirects."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from urllib.parse import urlencode, urlsplit

from tests.manager.site import Answer, Manager

PASSWORD = "correct horse battery"


class Forms(HTMLParser):
    """The forms of a page: action, and the fields with the values that would be sent."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.forms: list[tuple[str, list[tuple[str, str]]]] = []
        self._select = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((given.get("action", ""), []))
        elif tag == "input" and self.forms and "name" in given:
            picked = given.get("type") not in ("checkbox", "radio") or "checked" in given
            if picked:
                self.forms[-1][1].append((given["name"], given.get("value", "")))
        elif tag == "select":
            self._select = given.get("name", "")
        elif tag == "option" and "selected" in given and self.forms:
            self.forms[-1][1].append((self._select, given.get("value", "")))


class Visitor:
    """A visitor with a browser."""

    def __init__(self, manager: Manager, language: str = "fr") -> None:
        self.manager = manager
        self.cookies: dict[str, str] = {}
        self._language = language

    def request(
        self, method: str, path: str, fields: list[tuple[str, str]] | None = None, **headers: str
    ) -> Answer:
        given = {"Accept-Language": self._language, **headers}
        given["Cookie"] = "; ".join(f"{n}={v}" for n, v in self.cookies.items())
        body = None
        if fields is not None:
            body = urlencode(fields).encode()
            given["Content-Type"] = "application/x-www-form-urlencoded"
        answer = self.manager.request(method, path, body, given)
        for cookie in answer.cookies:
            name, _, value = cookie.partition(";")[0].partition("=")
            if "Max-Age=0" in cookie:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value.strip('"')
        return answer

    def get(self, path: str) -> Answer:
        """Get a page, and follow its redirects."""
        answer = self.request("GET", path)
        while answer.status == 303:
            answer = self.request("GET", answer.headers["location"])
        return answer

    def submit(self, page: Answer, action: str, **changes: str | None) -> Answer:
        """As `send`, and follow the redirect."""
        answer = self.send(page, action, **changes)
        while answer.status == 303:
            answer = self.request("GET", answer.headers["location"])
        return answer

    def send(self, page: Answer, action: str, **changes: str | None) -> Answer:
        """Send the page's form of that action. `changes` to its fields: "__" is "-" in their names,
        None = not ticked."""
        _, fields = next(form for form in Forms(page.text).forms if form[0] == action)
        wanted = {name.replace("__", "-"): value for name, value in changes.items()}
        sent = [(n, v) for n, v in fields if n not in wanted]
        sent += [(n, v) for n, v in wanted.items() if v is not None]
        return self.request("POST", action, sent)

    def log_in(self, name: str, password: str = PASSWORD) -> Answer:
        return self.submit(self.get("/login"), "/login", account=name, password=password)


def text(answer: Answer) -> str:
    """The text of the page, without tags."""
    body = re.sub(r"<(script|style|title)[^>]*>.*?</\1>", " ", answer.text, flags=re.DOTALL)
    bare = html.unescape(re.sub(r"<[^>]+>", " ", body)).replace("\u00a0", " ")
    return " ".join(bare.split())


def path_of(answer: Answer, otherwise: str | None = None) -> str:
    """The path that an answer redirects to; `otherwise` without a redirect."""
    if otherwise is not None and "location" not in answer.headers:
        return otherwise
    return urlsplit(answer.headers["location"]).path


def csrf_of(visitor: Visitor, path: str = "/account") -> str:
    """The CSRF token in the session's forms."""
    token = re.search(r'name="csrf" value="([^"]+)"', visitor.get(path).text)
    assert token is not None
    return token[1]
