"""What is refused outside calls, counted and told: messages, connections, documents."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.telemetry.log import FilteringBoundLogger
from engine.telemetry.metrics import REJECTIONS, Metrics
from rules.model import DocumentError
from rules.trouble import kind_of

TELL_EVERY_S = 1.0


class Refusals:
    """Counts each refusal; of messages it tells one a second for each reason, whatever comes in."""

    def __init__(self, metrics: Metrics, log: FilteringBoundLogger) -> None:
        self._metrics = metrics
        self._log = log
        self._told: dict[str, float] = {}  # when a reason was last logged

    def rejected(self, reason: str, detail: Callable[[], str]) -> None:
        """A message that is refused. `detail` is asked for only when it is told."""
        self._metrics.rejected(reason)
        now = time.monotonic()
        if now - self._told.get(reason, -TELL_EVERY_S) >= TELL_EVERY_S:
            self._told[reason] = now
            self._log.warning("request.rejected", reason=reason, detail=detail())

    def connection(self, what: str, detail: str) -> None:
        """A connection that could not be made or kept."""
        if what in REJECTIONS:
            self.rejected(what, lambda: detail)
        else:
            self._metrics.connection_failed()
            self._log.warning("connection.failed", reason=what, detail=detail)

    def redis(self, where: str, error: BaseException, kind: str = "") -> None:
        """Something is wrong with Redis: counted each time, told once a second for each kind."""
        kind = kind or kind_of(error)
        self._metrics.redis_error(kind)
        now = time.monotonic()
        if now - self._told.get(f"redis {kind}", -TELL_EVERY_S) >= TELL_EVERY_S:
            self._told[f"redis {kind}"] = now
            text = str(error) or type(error).__name__
            self._log.warning("redis.trouble", kind=kind, where=where, error=text)

    def target(self, number: str, condition: str, target: str, why: str) -> None:
        """A line was read with a forward that is on to a number that is refused: counted each time,
        told once a second for each reason."""
        self._metrics.target_refused(why)
        now = time.monotonic()
        if now - self._told.get(f"target {why}", -TELL_EVERY_S) >= TELL_EVERY_S:
            self._told[f"target {why}"] = now
            self._log.warning(
                "target.refused", line=number, condition=condition, target=target, reason=why
            )

    def document(self, key: str, error: DocumentError) -> None:
        """A bad document in Redis."""
        self._metrics.documents_refused(key.partition(":")[0])
        self._log.warning("document.refused", key=key, field=error.field, error=str(error))
