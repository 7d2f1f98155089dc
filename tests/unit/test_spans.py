"""The sender of traces, without a collector."""

from __future__ import annotations

import socket
import time
from typing import cast

import pytest

from engine.changes.worker_registry import GOODBYE_S
from engine.processes.worker_pool import HAND_OVER_S
from engine.records.record import CallRecord
from engine.telemetry import spans
from engine.telemetry.spans import HEADERS_VARIABLE, Spans
from tests.patience import within


@pytest.mark.parametrize("given", ["api-key=a%0D%0Ab", "api key=a", "api-key=cl\u20acf"])
def test_headers_that_cannot_be_sent_lose_traces_and_not_the_sender(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv(HEADERS_VARIABLE, given)
    monkeypatch.setattr(spans, "request_body", lambda *_: b"{}")
    monkeypatch.setattr(spans, "SEND_INTERVAL_S", 0.01)
    sender = Spans("http://127.0.0.1:9", 0)
    deadline = time.monotonic() + within(5)
    for count in (1, 2):
        sender.put(cast(CallRecord, None))
        while sender.dropped < count:
            assert time.monotonic() < deadline, "the sender has ended"
            time.sleep(0.01)
    sender.close()


def test_a_collector_that_does_not_answer_gets_no_further_calls_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that is replaced waits for this, and is killed after HAND_OVER_S."""
    monkeypatch.setattr(spans, "request_body", lambda *_: b"{}")
    monkeypatch.setattr(spans, "SEND_INTERVAL_S", 0.01)
    monkeypatch.setattr(spans, "BATCH", 1)
    monkeypatch.setattr(spans, "WAIT_S", 600)
    monkeypatch.setattr(spans, "END_S", 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(within(5))
        sender = Spans(f"http://127.0.0.1:{server.getsockname()[1]}", 0)
        for _ in range(3):
            sender.put(cast(CallRecord, None))
        connection, _ = server.accept()  # the sender waits for the answer now
        sender.close()
        connection.close()
        sender._thread.join(within(5))
        assert not sender._thread.is_alive()
    assert sender.dropped == 3


def test_the_last_calls_leave_a_worker_the_time_to_hand_over() -> None:
    others_s = 2 + GOODBYE_S  # HEP and the heartbeat
    assert spans.END_S + others_s < HAND_OVER_S
