"""Calls as OpenTelemetry traces: a span for the call, one for its decision, each leg and the
conversation, sent by OTLP over HTTP (JSON encoding) when the call is over.

A call's record has all its times, so this measures nothing on the call path. A thread turns records
into spans and sends them. Spans are lost and counted while the collector is away.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

import orjson

from engine import __version__
from engine.records.record import CallRecord, LegRecord
from engine.telemetry.log import get_logger, numbers
from engine.telemetry.masking import Policy, mask, without_secrets

BUFFER = 20_000  # calls
BATCH = 200  # calls in one request
SEND_INTERVAL_S = 1.0
WAIT_S = 5.0  # for the collector's answer
END_S = 4.0  # for the last spans; less than worker_pool.HAND_OVER_S, in which a worker is replaced
TRIES = 3
INTERNAL, SERVER, CLIENT = 1, 2, 3  # kinds of span
ERROR = 2  # status code
HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"  # name=value,name=value; keeps keys out of files

Span = dict[str, object]
Value = str | int | float | bool | None
_log = get_logger("spans")


def spans_of(record: CallRecord, policy: Policy = "full") -> list[Span]:
    """The spans of one call, its own first. `log.numbers` applies to numbers."""
    values: dict[str, Value] = {
        "sip.call_id": record.call_id,
        "renvoi.call": record.id,
        "renvoi.caller": record.caller,
        "renvoi.called": record.called,
        "renvoi.condition": record.condition,
        "renvoi.destination": record.destination,
        "renvoi.target": record.target,
        "renvoi.outcome": record.outcome,
        "renvoi.why": record.why,
        "renvoi.payer": record.payer,
        "renvoi.billing": record.billing,
        "renvoi.seconds": record.seconds,
        "sip.code": record.code,
        "q850.cause": record.q850,
    }
    root = _span(record, "call", record.received, record.ended, SERVER)
    root |= {
        "parentSpanId": "",
        "attributes": _attributes(values, policy),
        "events": _stages(record.rang, record.answered) + _forwards(record, policy),
    }
    if record.outcome == "failed":
        root["status"] = {"code": ERROR, "message": record.why}
    spans = [root]
    if record.decided is not None:
        spans.append(_span(record, "decision", record.received, record.decided))
    spans += [_leg(record, place, leg, policy) for place, leg in enumerate(record.legs)]
    if record.answered is not None:
        spans.append(_span(record, "conversation", record.answered, record.ended))
    return spans


def _span(
    record: CallRecord, name: str, start: float, end: float, kind: int = INTERNAL, place: int = 0
) -> Span:
    """One span of a call; all others are children of the call's own."""
    return {
        "traceId": _hash(record.id)[:32],
        "spanId": _hash(f"{record.id} {name} {place}")[:16],
        "parentSpanId": _hash(f"{record.id} call 0")[:16],
        "name": name,
        "kind": kind,
        "startTimeUnixNano": _nano(start),
        "endTimeUnixNano": _nano(max(start, end)),
    }


def _leg(record: CallRecord, place: int, leg: LegRecord, policy: Policy) -> Span:
    values: dict[str, Value] = {
        "sip.uri": leg.uri,
        "sip.code": leg.code,
        "q850.cause": leg.q850,
        "renvoi.number": leg.number,
        "renvoi.condition": leg.condition,
    }
    end = leg.ended if leg.ended is not None else record.ended
    return _span(record, f"leg {leg.role}", leg.started, end, CLIENT, place) | {
        "attributes": _attributes(values, policy),
        "events": _stages(leg.rang, leg.answered),
    }


def _stages(rang: float | None, answered: float | None) -> list[Span]:
    stages = (("rang", rang), ("answered", answered))
    return [_event(name, at) for name, at in stages if at is not None]


def _forwards(record: CallRecord, policy: Policy) -> list[Span]:
    events = []
    for forward in record.forwards:
        values: dict[str, Value] = {
            "renvoi.line": forward.line,
            "renvoi.condition": forward.condition,
            "renvoi.kind": forward.kind,
            "renvoi.number": forward.number,
            "renvoi.billing": forward.billing,
        }
        at = record.received if forward.at is None else forward.at
        events.append(_event("forward", at) | {"attributes": _attributes(values, policy)})
    return events


def _event(name: str, at: float) -> Span:
    return {"name": name, "timeUnixNano": _nano(at)}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _nano(seconds: float) -> str:
    return str(int(seconds * 1e9))  # 64-bit numbers are strings in protobuf's JSON


def _attributes(values: Mapping[str, Value], policy: Policy) -> list[Span]:
    return [{"key": k, "value": _value(k, v, policy)} for k, v in values.items() if v is not None]


def _value(key: str, value: Value, policy: Policy) -> Span:
    if isinstance(value, int):
        return {"intValue": str(value)}
    text = str(value).encode("utf-8", "backslashreplace").decode()
    if key not in ("sip.call_id", "renvoi.call"):
        text = mask(without_secrets(text), policy)
    return {"stringValue": text}


def request_body(records: Iterable[CallRecord], worker: int, policy: Policy = "full") -> bytes:
    """An ExportTraceServiceRequest in JSON."""
    resource: dict[str, Value] = {
        "service.name": "renvoi",
        "service.version": __version__,
        "service.instance.id": f"{os.uname().nodename}-{worker}",
    }
    spans = [span for record in records for span in spans_of(record, policy)]
    scope = {"scope": {"name": "renvoi"}, "spans": spans}
    whole = {"resource": {"attributes": _attributes(resource, "full")}, "scopeSpans": [scope]}
    return orjson.dumps({"resourceSpans": [whole]})


class Spans:
    """The sender. `url` is the collector's, without /v1/traces. `dropped` counts lost calls: the
    buffer was full, or the collector did not accept them."""

    def __init__(self, url: str, worker: int) -> None:
        self.dropped = 0
        self._url = url.rstrip("/") + "/v1/traces"
        self._worker = worker
        self._headers = {"Content-Type": "application/json"} | _headers_given()
        self._records: deque[CallRecord] = deque()
        self._closing = threading.Event()
        self._is_away_logged = False  # that the collector is away
        self._thread = threading.Thread(target=self._run, name="span-sender", daemon=True)
        self._thread.start()

    def put(self, record: CallRecord) -> None:
        """Add the record of an ended call. Never waits."""
        if len(self._records) >= BUFFER:
            self.dropped += 1
        else:
            self._records.append(record)

    def close(self) -> None:
        """Send the rest, if the collector accepts it soon, and end the thread."""
        self._closing.set()
        self._thread.join(END_S)

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(SEND_INTERVAL_S)
            while self._records:
                batch: list[CallRecord] = []
                with contextlib.suppress(IndexError):
                    while len(batch) < BATCH:
                        batch.append(self._records.popleft())
                if not self._send(batch):
                    self.dropped += len(batch)
                    if self._closing.is_set():
                        self.dropped += len(self._records)
                        return

    def _send(self, batch: list[CallRecord]) -> bool:
        request = urllib.request.Request(
            self._url, request_body(batch, self._worker, numbers()), self._headers, method="POST"
        )
        for again in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=WAIT_S):
                    self._is_away_logged = False
                    return True
            except urllib.error.HTTPError as error:
                with error:
                    reason = f"HTTP {error.code}"
                if error.code not in (429, 502, 503, 504):  # those may be tried again
                    break
            except (OSError, http.client.HTTPException) as error:
                reason = str(error)
            except ValueError:  # from http.client; its text has the key
                reason = f"a header of {HEADERS_VARIABLE} cannot be sent"
                break
            if self._closing.is_set():
                break
            time.sleep(0.2 * (again + 1))
        if not self._is_away_logged:
            self._is_away_logged = True
            _log.warning("spans.not_taken", url=self._url, reason=reason)
        return False


def _headers_given() -> dict[str, str]:
    pairs = (item.partition("=") for item in os.environ.get(HEADERS_VARIABLE, "").split(","))
    return {name.strip(): unquote(value.strip()) for name, equals, value in pairs if equals}
