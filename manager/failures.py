"""What a request may fail with: HTTP status, title, and the fields at fault. Each failure has its
own texts. `problems.py` makes the API's response of it, the pages show it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FieldError:
    """One refused field: its path, its value, and the fault."""

    field: str
    value: object
    problem: str


class Failure(Exception):
    """A failed request: HTTP status, short title, text."""

    status = 400
    title = "Bad request"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BadRequest(Failure):
    pass


class Unauthenticated(Failure):
    status, title = 401, "Not authenticated"


class Forbidden(Failure):
    status, title = 403, "Not allowed"


class NotFound(Failure):
    """It does not exist, or this account may not see it; the response is the same."""

    status, title = 404, "Not found"


class Broken(Failure):
    """The stored document of a line is invalid."""

    status, title = 409, "Line document refused"


class Outdated(Failure):
    """Somebody changed the line since it was read."""

    status, title = 412, "Changed meanwhile"


class TooLarge(Failure):
    status, title = 413, "Too large"


class TooSlow(Failure):
    status, title = 408, "Too slow"


@dataclass(slots=True)
class Refused(Failure):
    """The input is refused, with the fault of each field."""

    errors: list[FieldError] = field(default_factory=list)
    status, title = 422, "Refused"

    def __post_init__(self) -> None:
        Failure.__init__(self, "; ".join(f"{e.field}: {e.problem}" for e in self.errors))


class TooMany(Failure):
    """Too many attempts. `after_s`: when to try again."""

    status, title = 429, "Too many attempts"

    def __init__(self, detail: str, after_s: int) -> None:
        super().__init__(detail)
        self.after_s = after_s


class Unavailable(Failure):
    status, title = 503, "Not available"
