"""What is asked before a new call comes in; the engine answers (engine/admission.py)."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Rejection(NamedTuple):
    """A call that may not come in: its reason for the counter, the code, Retry-After in seconds."""

    reason: str
    code: int
    retry_after_s: int


class AdmissionPolicy(Protocol):
    """`draining` says that no call comes in any more."""

    draining: bool

    def ask(self, source: bytes, target: bytes) -> Rejection | None:
        """Whether a call from the IP address `source` to the Request-URI `target` may come in;
        None lets it in, and counts it."""

    def waited(self, seconds: float) -> None:
        """Told many times a second how long a message waits before it is handled."""
