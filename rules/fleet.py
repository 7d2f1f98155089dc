"""A fleet: one customer's lines, what they may spend together, and the decoder of its document.

`fleet:<name>` is JSON: `{"name": "acme", "cap_seconds": 36000, "suspended": false}`. A fleet
without a document has no cap and is not suspended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rules.model import DocumentError, decode_document, encode_document

FLEET = "fleet:"
"""What the key of a fleet begins with; the rest is its name. No number begins so."""

_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet's document.

    Attributes:
        cap_seconds: seconds out of plan that all its lines together may use in a month; None = any.
        suspended: all its lines are.
    """

    name: str
    label: str = ""
    cap_seconds: int | None = None
    suspended: bool = False


class _Document(msgspec.Struct):
    name: str
    label: str | None = None
    cap_seconds: Annotated[int, Meta(ge=0, le=10**9)] | None = None
    suspended: bool = False


_decoder = msgspec.json.Decoder(_Document)


def is_name(text: str) -> bool:
    """Whether a fleet of this name can have a document, and usage of its own. Braces would decide
    on which node of a Redis Cluster a key lives."""
    return bool(text) and len(text) <= _LONGEST_NAME and text.isprintable() and _is_plain(text)


def _is_plain(text: str) -> bool:
    return text == text.strip() and "{" not in text and "}" not in text


def load_fleet(raw: bytes | str, name: str | None) -> Fleet:
    """Read a fleet document. Fields that are not known are ignored.

    Args:
        raw: the JSON text, at most 64 KiB.
        name: the name of the key it was stored under; None takes the document's own.

    Raises:
        DocumentError: naming the field and its value.
    """
    document = decode_document(_decoder, raw)
    if not is_name(document.name):
        problem = f"expected 1 to {_LONGEST_NAME} printable characters without braces"
        raise DocumentError("name", document.name, problem)
    if name is not None and document.name != name:
        raise DocumentError("name", document.name, f"differs from the key's {name}")
    return Fleet(document.name, document.label or "", document.cap_seconds, document.suspended)


def check_fleet(document: Mapping[str, Any], name: str | None = None) -> Fleet:
    """Check a document before it is written; the fleet that it describes. Raises DocumentError."""
    return load_fleet(encode_document(document), name)
