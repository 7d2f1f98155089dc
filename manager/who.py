"""The client of a request, and its errors. Each error has its own texts."""

from __future__ import annotations

from dataclasses import dataclass, field

ROLES = ("operator", "fleet", "line")


@dataclass(frozen=True, slots=True)
class Who:
    """The account or token behind a request.

    Attributes:
        name: of the account or token, as the audit log shows it.
        fleet: the one fleet it may see and touch; None = an operator, who may all.
        how: "page" or "api".
        line: the one line that a user of one line may see and touch; None = all of the fleet.
        read_only: an operator who sees the page as a customer, and may change nothing.
    """

    name: str
    fleet: str | None
    how: str
    line: str | None = None
    read_only: bool = False

    @property
    def operator(self) -> bool:
        return self.fleet is None

    @property
    def colleague(self) -> Who:
        """A user of the same fleet, for what all its users may see: names and numbers."""
        return Who(self.name, self.fleet, self.how)

    def may(self, fleet: str, number: str) -> bool:
        """Whether this line exists for them. The only rule of access."""
        return self.may_fleet(fleet) and self.line in (None, number)

    def may_fleet(self, fleet: str) -> bool:
        """Whether this fleet exists for them."""
        return self.fleet is None or self.fleet == fleet

    @property
    def role(self) -> str:
        """ "operator", "fleet" (its administrator) or "line" (the user of one)."""
        return "operator" if self.operator else "fleet" if self.line is None else "line"

    def check_writes(self) -> None:
        """Raises Forbidden."""
        if self.read_only:
            raise Forbidden("who sees the page as a customer does may change nothing")


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
