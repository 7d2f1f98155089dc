"""Counts and logs refusals outside calls: messages, connections, documents."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from engine.refusal_sources import Sources
from engine.telemetry.log import FilteringBoundLogger
from engine.telemetry.metrics import REJECTIONS, Metrics
from rules.model import DocumentError
from store.redis_errors import kind_of

LOG_EVERY_S = 1.0
SOURCES_EVERY_S = 60.0
MOST_LOGGED = 1000  # entries with a log limit of one a second each


class Rejections:
    """Counts each refusal. Of messages it logs at most one a second per reason, and once a minute
    their sources."""

    def __init__(self, metrics: Metrics, log: FilteringBoundLogger) -> None:
        self._metrics = metrics
        self._log = log
        self._logged: dict[str, float] = {}  # when a reason was last logged
        self._unlogged: Counter[str] = Counter()  # how often it occurred since
        self._sources = Sources()
        self._sources_logged = time.monotonic()

    def rejected(self, reason: str, detail: Callable[[], str], source: bytes = b"") -> None:
        """Count a refused message from the IP address `source`. `detail` is called only if it is
        logged."""
        self._metrics.rejected(reason)
        self._sources.count(reason, source)
        if count := self._may_log(reason):
            self._log.warning("request.rejected", reason=reason, detail=detail(), count=count)

    def _may_log(self, what: str) -> int:
        """How often something occurred since it was last logged; 0 while it may not be logged
        again."""
        self._unlogged[what] += 1
        now = time.monotonic()
        if now - self._logged.get(what, -LOG_EVERY_S) < LOG_EVERY_S:
            return 0
        self._logged[what] = now
        return self._unlogged.pop(what)

    def log_sources(self) -> None:
        """Log once a minute the refused sources and their counts. Called often."""
        now = time.monotonic()
        if now - self._sources_logged < SOURCES_EVERY_S:
            return
        seconds, self._sources_logged = round(now - self._sources_logged), now
        for counts in self._sources.take():
            self._log.warning("request.rejections", seconds=seconds, **vars(counts))

    def internal_error(self, error: BaseException, call_id: str) -> None:
        """An exception while a message was handled; its notes describe the message."""
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
        if count := self._may_log(f"error {where}" if len(self._logged) < MOST_LOGGED else "error"):
            shape = "\n".join(getattr(error, "__notes__", ()))
            self._log.error(
                "sip.error", call_id=call_id[:200], count=count, shape=shape, exc_info=error
            )

    def connection(self, what: str, detail: str) -> None:
        """A connection that could not be made or kept. `detail` begins with the transport and the
        address, as in "tcp 192.0.2.1:5060"."""
        if what in REJECTIONS:
            place = detail.partition(" ")[2].partition(" ")[0].rstrip(":")
            source = place.rpartition(":")[0].encode("ascii", "replace")
            self.rejected(what, lambda: detail, source)
            return
        self._metrics.connection_failed()
        if count := self._may_log(f"connection {what}"):
            self._log.warning("connection.failed", reason=what, detail=detail, count=count)

    def redis(self, where: str, error: BaseException, kind: str = "") -> None:
        """Count a failure of Redis; log one a second per kind."""
        kind = kind or kind_of(error)
        self._metrics.redis_error(kind)
        now = time.monotonic()
        if now - self._logged.get(f"redis {kind}", -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged[f"redis {kind}"] = now
            text = str(error) or type(error).__name__
            self._log.warning("redis.trouble", kind=kind, where=where, error=text)

    def target(self, number: str, condition: str, target: str, why: str) -> None:
        """Count a line with a forward that is on but leads to a refused number; log one a second
        per reason."""
        self._metrics.target_refused(why)
        now = time.monotonic()
        if now - self._logged.get(f"target {why}", -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged[f"target {why}"] = now
            self._log.warning(
                "target.refused", line=number, condition=condition, target=target, reason=why
            )

    def document(self, key: str, error: DocumentError) -> None:
        """A bad document in Redis."""
        self._metrics.documents_refused(key.partition(":")[0])
        self._log.warning("document.refused", key=key, field=error.field, error=str(error))
