"""Decodes a JSON document with the struct that describes it, and names what is wrong with it."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from rules.expected import expected, locate
from rules.model import DocumentError

_T = TypeVar("_T", bound=msgspec.Struct)

_LARGEST_DOCUMENT = 65_536
_LONGEST_VALUE_SHOWN = 80
_PLACE = re.compile(r"^(?P<problem>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")


def decode_document(decoder: msgspec.json.Decoder[_T], raw: bytes | str) -> _T:
    """Decode a JSON document of at most 64 KiB. Raises DocumentError, naming the field."""
    if len(raw) > _LARGEST_DOCUMENT:
        raise DocumentError("document", f"{len(raw)} bytes", f"is over {_LARGEST_DOCUMENT} bytes")
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _named(str(error), raw, decoder.type) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        problem = "is nested too deeply" if isinstance(error, RecursionError) else "is not JSON"
        raise DocumentError("document", raw[:_LONGEST_VALUE_SHOWN], problem) from error


def encode_document(document: object) -> bytes:
    """Encode the document as JSON, so that there is one decoder and one wording of errors.

    Raises:
        DocumentError: it is not a JSON object, or cannot be encoded as one.
    """
    if not isinstance(document, Mapping):
        raise DocumentError("document", document, "is no JSON object")
    try:
        return msgspec.json.encode(document)
    except (TypeError, ValueError, UnicodeError, RecursionError) as error:
        raise DocumentError("document", None, f"cannot be JSON: {error}") from error


def _named(message: str, raw: bytes | str, kind: type[msgspec.Struct]) -> DocumentError:
    """Our error from msgspec's message, which ends in " - at `$.forwards.busy[...].when`"."""
    place = _PLACE.match(message)
    problem, path = (place["problem"], place["path"] or "") if place else (message, "")
    try:
        document: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return DocumentError(path or "document", raw[:_LONGEST_VALUE_SHOWN], expected(kind, path))
    named, value = locate(kind, path, document)
    missing = _MISSING.match(problem)
    if missing:
        return DocumentError(f"{named}.{missing[1]}" if named else missing[1], None, "is required")
    return DocumentError(named or "document", value, expected(kind, path))
