"""Who may see and change what: the account or token behind a request, and its role.

`Lines` asks `Who.may` before it reads or writes a line.
"""

from __future__ import annotations

from dataclasses import dataclass

from manager.failures import Forbidden

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
