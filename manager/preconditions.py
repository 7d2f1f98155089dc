"""Whether a document is still as its client read it: ETag, If-Match, If-None-Match (RFC 9110 13).
What fails is a 412 (`Outdated`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from manager.failures import Outdated


def etag_of(raw: bytes | None) -> str:
    """The ETag of the stored text, which shows every change by any writer."""
    return hashlib.sha256(raw or b"").hexdigest()[:24]


def require(etag: str | None, present: str | None, what: str) -> None:
    """Raises Outdated if `what` has another etag at present. `etag` None: any will do."""
    if etag is not None and etag != present:
        raise Outdated(f"{what} was changed since it was read")


def if_match(headers: Mapping[str, str]) -> str | None:
    """The etag of If-Match; None without one, or for "*"."""
    given = headers.get("if-match", "*").strip()
    return None if given == "*" else _plain(given)


def unchanged(headers: Mapping[str, str]) -> str | None:
    """The same, for what a line or a fleet always has. Raises Outdated for `If-None-Match: *`,
    which asks to write only what is not there yet (RFC 9110 13.1.2)."""
    if must_be_new(headers):
        raise Outdated("this is there already")
    return if_match(headers)


def must_be_new(headers: Mapping[str, str]) -> bool:
    """Whether what is written may not be there yet: `If-None-Match: *`."""
    return headers.get("if-none-match", "").strip() == "*"


def must_exist(headers: Mapping[str, str]) -> bool:
    """Whether what is written has to be there already: `If-Match: *` (RFC 9110 13.1.1)."""
    return headers.get("if-match", "").strip() == "*"


def is_known(headers: Mapping[str, str], etag: str) -> bool:
    """Whether the client has it as it is now, so that the response is a 304: If-None-Match."""
    tags = headers.get("if-none-match", "").split(",")
    return must_be_new(headers) or etag in [_plain(tag) for tag in tags]


def _plain(tag: str) -> str:
    return tag.strip().removeprefix("W/").strip('"')
