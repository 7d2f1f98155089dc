"""Who asks, and what may go wrong with what is asked. Every error knows how it is told."""

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
        read_only: an operator who sees the page as a customer does, and may change nothing.
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
        """Somebody of the same fleet, for what all its people may know: names and numbers."""
        return Who(self.name, self.fleet, self.how)

    def may(self, fleet: str, number: str) -> bool:
        """Whether this line exists for them. The one rule of who sees what."""
        return self.may_fleet(fleet) and self.line in (None, number)

    def may_fleet(self, fleet: str) -> bool:
        """Whether this fleet exists for them."""
        return self.fleet is None or self.fleet == fleet

    @property
    def role(self) -> str:
        """"operator", "fleet" (its administrator) or "line" (the user of one)."""
        return "operator" if self.operator else "fleet" if self.line is None else "line"

    def check_writes(self) -> None:
        """Raises Forbidden."""
        if self.read_only:
            raise Forbidden("who sees the page as a customer does may change nothing")


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that is refused: its path, what stands there, what is wrong with it."""

    field: str
    value: object
    problem: str


class Failure(Exception):
    """A request that cannot be carried out: HTTP status, short title, what to tell."""

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
    """There is no such thing, or none that this account may know of: never told apart."""

    status, title = 404, "Not found"


class Broken(Failure):
    """The stored document of a line is refused, so that nobody can tell what it means."""

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
    """What was sent cannot work, field by field."""

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
