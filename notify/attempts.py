"""How an attempt to send may fail, and why notifications are dropped: closed sets."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why an attempt failed. `fault`: by a fault of this program."""

    NAME = "name"
    FORBIDDEN = "forbidden"
    CONNECTION = "connection"
    TLS = "tls"
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"
    STATUS = "status"
    SMTP = "smtp"
    FAULT = "fault"


class Drop(StrEnum):
    """Why a notification is not sent.

    expired: older than `notify.give_up_s`; full: too many wait for its target; refused: the
    receiver wants it neither now nor later; withdrawn: the setting no longer asks for it; rate:
    more e-mails in an hour than one address gets; off: no SMTP server is configured.
    """

    EXPIRED = "expired"
    FULL = "full"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    RATE = "rate"
    OFF = "off"


class Failure(Exception):
    """An attempt failed. `final`: another attempt would fail too."""

    def __init__(self, reason: Reason, text: str, *, final: bool = False) -> None:
        self.reason = reason
        self.final = final
        super().__init__(" ".join(text.split())[:200])
