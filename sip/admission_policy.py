"""The interface that decides whether a new call is admitted; engine/admission.py implements it."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Rejection(NamedTuple):
    """A refused call: the reason for the counter, the code, Retry-After in seconds."""

    reason: str
    code: int
    retry_after_s: int


class AdmissionPolicy(Protocol):
    """While `draining`, no new call is admitted."""

    draining: bool

    def ask(self, source: bytes, target: bytes) -> Rejection | None:
        """Decide on a call from the IP address `source` to the Request-URI `target`. None admits
        and counts it."""

    def waited(self, seconds: float) -> None:
        """Called many times a second with the seconds that a message waits before it is handled."""
