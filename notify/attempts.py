"""When an attempt to send is made again, how one may fail, and why notifications are dropped."""

from __future__ import annotations

import random
from enum import StrEnum

_JITTER = 0.1
_MOST_DOUBLINGS = 30


def pause_s(failures: int, first_s: float, most_s: float) -> float:
    """Seconds until the next attempt after so many failed ones in a row: twice as long after each,
    and not the same for all targets."""
    pause_s = min(most_s, first_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
    return pause_s * random.uniform(1 - _JITTER, 1 + _JITTER)


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
