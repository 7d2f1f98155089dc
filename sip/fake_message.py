"""Writes and reads the SIP messages of a scripted endpoint (`sip.fake`)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sip.message import Message

Fields = Iterable[tuple[str, str]]
PHRASES = {
    100: "Trying", 180: "Ringing", 183: "Session Progress", 200: "OK", 404: "Not Found",
    480: "Temporarily Unavailable", 481: "Call/Transaction Does Not Exist", 486: "Busy Here",
    487: "Request Terminated", 503: "Service Unavailable", 603: "Decline",
}  # fmt: skip


def build(start: str, fields: Fields, body: bytes = b"") -> bytes:
    """One message; Content-Type (SDP) and Content-Length are added."""
    lines = [start, *(f"{name}: {value}" for name, value in fields)]
    lines += ["Content-Type: application/sdp"] if body else []
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def status_line(code: int) -> str:
    """The start line of a response."""
    return f"SIP/2.0 {code} {PHRASES.get(code, 'Because')}"


def text(message: Message, name: bytes) -> str:
    """The first value of the header `name` (lower case), '' without one; bytes as Latin-1."""
    return (message.first(name) or b"").decode("latin-1")


def code_of(message: Message) -> int:
    """The status code of a response, 0 for a request."""
    word, _, rest = message.start_line.partition(b" ")
    return int(rest[:3]) if word == b"SIP/2.0" and rest[:3].isdigit() else 0


def uri_of(value: str) -> str:
    """The URI of a header value, with or without angle brackets around it."""
    found = re.search(r"<([^>]*)>", value)
    return found.group(1) if found else value.strip()


def user_of(request: Message) -> str:
    """The user part of a Request-URI."""
    found = re.match(r"sips?:([^@;>]+)@", request.target.decode("latin-1"))
    return found.group(1).replace("%2B", "+") if found else ""


def tag_of(value: str) -> str:
    """The tag of a From or To value, '' without one."""
    found = re.search(r";\s*tag=([^;\s]+)", value)
    return found.group(1) if found else ""


def transaction_of(request: Message) -> bytes:
    """Identifies a request and its repeats: branch and method."""
    found = re.search(rb"branch=([^;,\s]+)", request.first(b"via") or b"")
    return (found.group(1) if found else b"") + b" " + request.method
