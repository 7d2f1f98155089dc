"""SIP messages for the scenarios: parsed leniently, kept byte for byte.

This is deliberately an independent parser: it shares nothing with `sip/`, so that a fault there is
not repeated here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COMPACT = {
    "v": "via",
    "f": "from",
    "t": "to",
    "i": "call-id",
    "m": "contact",
    "c": "content-type",
    "l": "content-length",
    "k": "supported",
    "s": "subject",
}


@dataclass(frozen=True)
class Message:
    """One SIP request or response: its start line, headers in order, body and raw bytes."""

    start: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    raw: bytes

    @property
    def code(self) -> int:
        """The status code, 0 for a request."""
        return int(self.start.split()[1]) if self.start.startswith("SIP/2.0 ") else 0

    @property
    def method(self) -> str:
        """The request's method, or the CSeq method of a response."""
        return self.cseq[1] if self.code else self.start.split()[0]

    @property
    def uri(self) -> str:
        """The Request-URI; empty for a response."""
        return "" if self.code else self.start.split()[1]

    @property
    def user(self) -> str:
        """The user part of the Request-URI, without parameters."""
        return user_of(self.uri)

    @property
    def cseq(self) -> tuple[int, str]:
        """The CSeq number and method."""
        number, method = self.one("CSeq").split()
        return int(number), method

    @property
    def call_id(self) -> str:
        """The Call-ID."""
        return self.one("Call-ID")

    @property
    def from_tag(self) -> str:
        """The From tag, empty when there is none."""
        return tag_of(self.one("From"))

    @property
    def to_tag(self) -> str:
        """The To tag, empty when there is none."""
        return tag_of(self.one("To"))

    @property
    def branch(self) -> str:
        """The branch of the topmost Via."""
        found = re.search(r";\s*branch=([^;,\s]+)", self.one("Via"))
        return found.group(1) if found else ""

    def every(self, name: str) -> list[str]:
        """Each header line of that name, in order, unsplit."""
        wanted = name.lower()
        return [value for key, value in self.headers if key == wanted]

    def values(self, name: str) -> list[str]:
        """Each value of that name, in order, comma lists split (never inside <> or quotes)."""
        return [part for line in self.every(name) for part in split_commas(line)]

    def has(self, name: str) -> bool:
        """Whether a header of that name is present."""
        return bool(self.every(name))

    def one(self, name: str) -> str:
        """The first header of that name. Raises KeyError with the name if there is none."""
        lines = self.every(name)
        if not lines:
            raise KeyError(f"no {name} in: {self.start}")
        return lines[0]

    def __repr__(self) -> str:
        return f"<{self.start} {self.cseq[0]} {self.cseq[1]}>"


def parse(raw: bytes) -> Message:
    """Read one datagram. The body follows the empty line, limited by Content-Length."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = re.sub(rb"\r\n[ \t]+", b" ", head).decode("utf-8", "surrogateescape").split("\r\n")
    headers = []
    for line in lines[1:]:
        name, _, value = line.partition(":")
        name = name.strip().lower()
        headers.append((COMPACT.get(name, name), value.strip()))
    length = dict(headers).get("content-length", "")
    if length.isdigit():
        body = body[: int(length)]
    return Message(lines[0], tuple(headers), body, raw)


def build(start: str, headers: list[tuple[str, str]], body: bytes = b"") -> bytes:
    """Write one message; Content-Length is added."""
    lines = [start, *(f"{name}: {value}" for name, value in headers)]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body


def split_commas(line: str) -> list[str]:
    """Split a header line at its commas, except in quoted strings and <...>."""
    parts = re.findall(r'(?:"(?:\\.|[^"\\])*"|<[^>]*>|[^,"<])+', line)
    return [part.strip() for part in parts if part.strip()]


def user_of(uri: str) -> str:
    """The user part of a SIP URI or name-addr, with '+' unescaped."""
    found = re.search(r"(?:sips?|tel):([^@;>?]+)", uri)
    return found.group(1).replace("%2B", "+").replace("%2b", "+") if found else ""


def tag_of(value: str) -> str:
    """The tag parameter of a From or To value."""
    found = re.search(r";\s*tag=([^;\s]+)", value)
    return found.group(1) if found else ""


def address_of(value: str) -> str:
    """The URI of a name-addr or addr-spec header value."""
    found = re.search(r"<([^>]*)>", value)
    return found.group(1) if found else value.split(";")[0].strip()


def untagged(value: str) -> str:
    """A From or To value without its tag: this part must cross the engine unchanged."""
    return re.sub(r";\s*tag=[^;\s]+", "", value)


def parameters(value: str) -> dict[str, str]:
    """The header parameters after the closing bracket: names in lower case, quotes removed."""
    tail = value.rpartition(">")[2] if "<" in value else value
    found = re.findall(r';\s*([^=;\s]+)(?:=("[^"]*"|[^;]*))?', tail)
    return {name.lower(): text.strip().strip('"') for name, text in found}
