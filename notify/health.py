"""The pages of `renvoi notify` for operators, on `notify.admin_listen`: what is sent and what is
not, by closed sets of labels."""

from __future__ import annotations

from collections.abc import Callable

from engine.admin import Admin
from engine.config import Config
from engine.telemetry.exposition import (
    Counters,
    Family,
    Histograms,
    build_info,
    gauge,
    process_families,
    render,
)
from notify.attempts import Drop, Reason
from rules.notify import EVENTS

_CHANNELS = ("webhook", "email")
_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Health:
    """Counts, and serves the pages. What is read at a scrape is set by the process."""

    def __init__(self, config: Config) -> None:
        self.away = "starting"  # why it does not work; "" = it does
        self.is_active = False
        self.waiting: Callable[[], float] = lambda: 0
        self.failing: Callable[[], float] = lambda: 0
        self.oldest_s: Callable[[], float] = lambda: 0
        self.lag_s: Callable[[], float] = lambda: 0
        self.watched: Callable[[], float] = lambda: 0
        self._sent = Counters(
            "renvoi_notify_sent_total", "Notifications delivered.", ("channel", "event"),
            [(channel, event) for channel in _CHANNELS for event in EVENTS],
        )  # fmt: skip
        self._failed = Counters(
            "renvoi_notify_failed_total", "Attempts that failed.", ("channel", "reason"),
            [(channel, reason.value) for channel in _CHANNELS for reason in Reason],
        )  # fmt: skip
        self._dropped = Counters(
            "renvoi_notify_dropped_total", "Notifications that are not sent.", ("channel", "why"),
            [(channel, why.value) for channel in _CHANNELS for why in Drop],
        )  # fmt: skip
        self._seconds = Histograms(
            "renvoi_notify_send_seconds", "From the begin of a successful attempt to its end.",
            _BOUNDS_S, "channel", _CHANNELS,
        )  # fmt: skip
        self._families: list[Family] = [
            self._sent,
            self._failed,
            self._dropped,
            self._seconds,
            gauge("renvoi_notify_active", "1 while this process reads and sends, 0 while another"
                     " one does.", lambda: self.is_active),
            gauge("renvoi_notify_redis_up", "1 while Redis answers.", lambda: not self.away),
            gauge("renvoi_notify_waiting", "Notifications that wait.", lambda: self.waiting()),
            gauge("renvoi_notify_failing_targets", "URLs and addresses whose last attempt"
                     " failed.", lambda: self.failing()),
            gauge("renvoi_notify_oldest_seconds", "How long ago the oldest that waits has"
                     " happened.", lambda: self.oldest_s()),
            gauge("renvoi_notify_lag_seconds", "How old the oldest record is that has not been"
                     " read.", lambda: self.lag_s()),
            gauge("renvoi_notify_prevented_forwards", "Forwards that are on, have been due and"
                     " do not happen.", lambda: self.watched()),
            build_info("renvoi_notify_build_info"),
            *process_families(),
        ]  # fmt: skip
        self.admin = Admin(
            config.notify.admin_listen,
            self._metrics,
            lambda: self.away or None,
            key="notify.admin_listen",
            remark=lambda: None if self.is_active else "another process is the active one",
        )

    def sent(self, channel: str, event: str, took_s: float) -> None:
        self._sent.counts[channel, event] += 1
        self._seconds[channel].observe(took_s)

    def failed(self, channel: str, reason: Reason) -> None:
        self._failed.counts[channel, reason.value] += 1

    def dropped(self, channel: str, why: Drop) -> None:
        self._dropped.counts[channel, why.value] += 1

    async def _metrics(self) -> bytes:
        return await render(self._families)
