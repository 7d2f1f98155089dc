"""`renvoi notify` as a process, and its receivers: an HTTP server with configurable answers, and a
real SMTP server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import queue
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as mail_format
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import redis
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests import preloaded
from tests.child import Process, end, started
from tests.command import run
from tests.patience import within
from tests.scenarios.sipp import HOST, free_port

START_S = within(12)
WAIT_S = within(8)
Json = dict[str, Any]
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.M)


def until(condition: Callable[[], Any], what: str, wait_s: float = WAIT_S) -> Any:
    """Wait until the condition is true; returns its value."""
    deadline = time.monotonic() + wait_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
    return found


class Notifier:
    """`renvoi notify` with its own configuration."""

    def __init__(self, directory: Path, redis_url: str, name: str = "notify", **notify: Any):
        self.admin_port = free_port(socket.SOCK_STREAM)
        self._log = directory / f"{name}.log"
        self.config = directory / f"{name}.yaml"
        self.environment: dict[str, str] = {}
        self._process: Process | None = None
        settings = {
            "admin_listen": f"{HOST}:{self.admin_port}", "allow_networks": ["127.0.0.0/8"],
            "retry_s": 0.1, "retry_max_s": 1, "timeout_s": 15, "mail_from": "renvoi@example.com",
            **notify,
        }  # fmt: skip
        config = {
            "redis": {"url": redis_url, "data_dir": str(directory / "data")},
            "notify": settings,
        }
        self.config.write_text(json.dumps(config), encoding="utf-8")

    def start(self) -> None:
        self.spawn()
        with started(self.stop):
            until(self._serves, f"the notifier starts:\n{self.log}", START_S)

    def spawn(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RENVOI_")}
        with self._log.open("ab") as log:
            arguments = ["notify", "--config", str(self.config)]
            self._process = preloaded.start(arguments, log, environment | self.environment)

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the notifier did not start:\n{self.log}"
        try:
            return self.get("/readyz").startswith("ready")
        except OSError:
            return False

    def active(self) -> None:
        """Wait until it reads and sends."""
        until(lambda: self.metric("renvoi_notify_active") == 1, f"active:\n{self.log}", START_S)

    def stop(self) -> int:
        assert self._process is not None
        return end(self._process, signal.SIGTERM)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")[-8000:] if self._log.exists() else ""

    def events(self, name: str = "") -> list[Json]:
        """The log's events of this name, or all."""
        text = self._log.read_text("utf-8", "replace") if self._log.exists() else ""
        whole_lines, _, _ = text.rpartition("\n")  # the last one is being written
        lines = [line for line in whole_lines.splitlines() if line.startswith("{")]
        return [e for line in lines if (e := json.loads(line))["event"] == name or not name]

    def get(self, path: str) -> str:
        url = f"http://{HOST}:{self.admin_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=within(3)) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return f"{error.code} {error.read().decode()}"

    def metric(self, name: str, **labels: str) -> float:
        for found, text, value in _SAMPLE.findall(self.get("/metrics")):
            if found == name and dict(re.findall(r'(\w+)="([^"]*)"', text)) == labels:
                return float(value)
        raise AssertionError(f"no {name}{labels}")

    def command(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        return run(*arguments, "--config", str(self.config), typed=typed)


@dataclass(frozen=True)
class Posted:
    """One request that arrived. `headers` in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Json:
        return cast(Json, json.loads(self.body))

    def is_signed_with(self, secret: str) -> bool:
        """Checks the signature as a receiver does, by the specification of Standard Webhooks."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        content = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        digest = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        fresh = abs(time.time() - int(self.headers["webhook-timestamp"])) < within(60)
        return fresh and f"v1,{digest}" in self.headers["webhook-signature"].split()


Answer = Callable[["_Handler"], None]


def status(code: int, **headers: str) -> Answer:
    def answer(handler: _Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


class Receiver:
    """An HTTP server. `answers` has the answers by path; other paths get 204."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.got: list[Posted] = []
        self.closing = threading.Event()
        self._server = _Server((HOST, 0), _Handler)
        self._server.receiver = self
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._scheme = "http" if context is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def url(self, path: str = "/hook", host: str = HOST) -> str:
        return f"{self._scheme}://{host}:{self.port}{path}"

    def of(self, path: str = "/hook") -> list[Posted]:
        """What arrived at a path."""
        return [posted for posted in list(self.got) if posted.path == path]

    def one(self, kind: str, path: str = "/hook") -> Posted:
        """The only one of its type, as soon as it is there."""

        def found() -> list[Posted]:
            return [each for each in self.of(path) if each.json["type"] == kind]

        until(found, f"{kind} at {path}, of {[p.json for p in self.got]}")
        (posted,) = found()
        return posted

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    receiver: Receiver

    def handle_error(self, *_: object) -> None:
        """The sender may close the connection at any time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        receiver = self.server.receiver
        self.posted = Posted(self.path, headers, body)
        receiver.got.append(self.posted)
        receiver.answers.get(self.path, status(204))(self)

    def do_GET(self) -> None:
        """Would receive a redirect that was followed."""
        self.server.receiver.got.append(Posted(self.path, {}, b""))
        status(200)(self)

    def log_message(self, *_: object) -> None:
        pass


class SmtpServer:
    """A real SMTP server (aiosmtpd), in a thread with its own loop."""

    USER, PASSWORD = "renvoi", "hunter2"

    def __init__(self, context: ssl.SSLContext | None = None, *, auth: bool = False) -> None:
        self.got: queue.Queue[EmailMessage] = queue.Queue()
        self.messages: list[EmailMessage] = []
        self.refuses: dict[str, str] = {}  # by recipient: the answer to RCPT
        self.logins = 0
        self._controller = Controller(
            self,
            hostname=HOST,
            port=free_port(socket.SOCK_STREAM),
            tls_context=context,
            require_starttls=context is not None,
            authenticator=self._check if auth else None,
            auth_required=auth,
            auth_require_tls=context is not None,
            ready_timeout=within(5),
        )
        self._controller.start()
        self.port = self._controller.port

    def _check(self, _s: Any, _session: Any, _e: Any, _m: str, data: Any) -> AuthResult:
        good = (self.USER.encode(), self.PASSWORD.encode())
        is_good = isinstance(data, LoginPassword) and (data.login, data.password) == good
        self.logins += is_good
        return AuthResult(success=is_good)

    async def handle_RCPT(  # noqa: N802
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if address in self.refuses:
            return self.refuses[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, _server: Any, _session: Any, envelope: Any
    ) -> str:
        message = message_from_bytes(envelope.content, policy=mail_format)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        return "250 OK"

    def of(self, address: str) -> list[EmailMessage]:
        """What arrived for an address."""
        return [message for message in list(self.messages) if message["To"] == address]

    def one(self, address: str, event: str) -> EmailMessage:
        """The only message about such an event for an address, as soon as it is there."""

        def found() -> list[EmailMessage]:
            return [each for each in self.of(address) if each["X-Renvoi-Event"] == event]

        until(found, f"e-mail about {event} to {address}, of {list(map(str, self.messages))}")
        (message,) = found()
        return message

    def close(self) -> None:
        self._controller.stop()


def certificate(folder: Path, name: str = HOST) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context with a self-signed certificate, and the file that clients trust."""
    key, pem = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(pem), "-subj", f"/CN={name}",
         "-addext", f"subjectAltName=IP:{name}"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return context, pem


def write_fleet(client: redis.Redis, name: str, notify: Any = None, **fields: Any) -> None:
    """Write a fleet document as another program would."""
    client.set(f"fleet:{name}", json.dumps({"name": name, "notify": notify, **fields}))


def write_line(client: redis.Redis, number: str, fleet: str, **fields: Any) -> None:
    client.set(f"line:{number}", json.dumps({"number": number, "fleet": fleet, **fields}))


_serial = 0


def add_record(client: redis.Redis, called: str, **fields: Any) -> str:
    """Add a record of a call as an engine does; returns its id."""
    global _serial
    _serial += 1
    now = time.time()
    record: dict[Any, Any] = {
        "id": f"test-{_serial}", "call_id": f"c{_serial}@test", "caller": "+33140000000",
        "called": called, "received": now - 12, "rang": now - 11, "answered": "", "ended": now,
        "condition": "none", "destination": "line", "target": called, "outcome": "no_answer",
        "code": 480, "q850": "", "why": "", "seconds": 0, "payer": "", "billing": "",
        "forwards": "[]", "legs": "[]", **fields,
    }  # fmt: skip
    client.xadd("cdr", record)
    return str(record["id"])
