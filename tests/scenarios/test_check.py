"""`renvoi check` and `renvoi serve` refuse the same configurations; a running engine is not a
fault."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from tests.scenarios.processes import Engine, RedisServer
from tests.scenarios.sipp import HOST, free_port
from tests.scenarios.worker_pool import WorkerPool

SIP = f"udp:{HOST}:{free_port()}"
ADMIN = f"{HOST}:{free_port(socket.SOCK_STREAM, several=4)}"
BASE: dict[str, Any] = {"sip": {"listen": [SIP]}, "admin": {"listen": ADMIN}}
NOT_OURS = "192.0.2.1"  # RFC 5737


def serve(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine.cli", "serve", "--config", str(config)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL
    )


Check = Callable[[Path], dict[str, tuple[bool, str]]]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """The results of `renvoi check`, by the name of the check."""
    monkeypatch.delenv("RENVOI_REDIS_URL", raising=False)

    def check(config: Path) -> dict[str, tuple[bool, str]]:
        capsys.readouterr()
        status = main(("check", "--config", str(config), "--json"))
        printed = capsys.readouterr()
        results = {each["check"]: (each["ok"], each["detail"]) for each in json.loads(printed.out)}
        assert status == (0 if all(ok for ok, _ in results.values()) else 1)
        assert "Traceback" not in printed.err
        return results

    return check


@contextmanager
def taken(transport: str, place: str) -> Iterator[None]:
    """Occupy this port, as another program would."""
    host, _, port = place.rpartition(":")
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind((host, int(port)))
        if transport == "tcp":
            other.listen()
        yield


def certificate(directory: Path, name: str, *options: str) -> tuple[str, str]:
    """A certificate and its key."""
    paths = str(directory / f"{name}.pem"), str(directory / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-days", "2", "-subj", "/CN=test", "-out", paths[0], "-keyout", paths[1]]
    subprocess.run([*command, *(options or ("-nodes",))], check=True, capture_output=True)
    return paths


def after(place: str, more: int) -> str:
    host, _, port = place.rpartition(":")
    return f"{host}:{int(port) + more}"


@pytest.mark.parametrize(
    ("change", "busy", "check", "key"),
    [
        ({"sip": {"listen": [f"udp:{NOT_OURS}:5080"]}}, "", "ports", "sip.listen"),
        ({"admin": {"listen": f"{NOT_OURS}:9100"}}, "", "ports", "admin.listen"),
        ({}, SIP, "ports", "sip.listen"),
        ({}, f"tcp:{ADMIN}", "ports", "admin.listen"),
        ({"workers": 2}, f"tcp:{after(ADMIN, 1)}", "ports", "admin.listen"),
        ({"workers": 2}, f"tcp:{after(ADMIN, 2)}", "ports", "admin.supervisor_listen"),
        ({"sip": {"listen": [SIP, f"tls:{HOST}:0"]}}, "", "tls", "sip.tls_certificate"),
        ({"tls": "of another"}, "", "tls", "sip.tls_key"),
        ({"tls": "no certificate"}, "", "tls", "sip.tls_certificate"),
        ({"tls": "with a passphrase"}, "", "tls", "sip.tls_key"),
    ],
    ids=[
        "SIP address of another machine", "HTTP address of another machine", "SIP port taken",
        "HTTP port taken", "second worker's port taken", "supervisor's port taken",
        "TLS without certificate", "key of another certificate", "no certificate",
        "key with a passphrase",
    ],
)  # fmt: skip
def test_what_serve_fails_at_fails_in_check(
    shared_redis: RedisServer,
    tmp_path: Path,
    checked: Check,
    change: dict[str, Any],
    busy: str,
    check: str,
    key: str,
) -> None:
    given = {**BASE, **change, "redis": {"url": shared_redis.url, "data_dir": str(tmp_path)}}
    if fault := given.pop("tls", ""):
        own, own_key = certificate(tmp_path, "own")
        _, other_key = certificate(tmp_path, "other")
        _, locked = certificate(tmp_path, "locked", "-passout", "pass:secret")
        sip = {"listen": [SIP, f"tls:{HOST}:0"], "tls_certificate": own, "tls_key": own_key}
        sip |= {
            "of another": {"tls_key": other_key},
            "no certificate": {"tls_certificate": own_key},
            "with a passphrase": {"tls_key": locked},
        }[fault]
        given["sip"] = sip
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(given), encoding="utf-8")

    def run() -> tuple[dict[str, tuple[bool, str]], subprocess.CompletedProcess[str]]:
        return checked(config), serve(config)

    if busy:
        transport, _, place = busy.partition(":")
        with taken(transport, place):
            results, served = run()
    else:
        results, served = run()
    assert [name for name, (ok, _) in results.items() if not ok] == [check], results
    detail = results[check][1]
    assert key in detail.partition(": ")[0], detail
    assert served.returncode == 1, served
    (said,) = (line for line in served.stderr.splitlines() if line.startswith("renvoi: "))
    assert key in said
    for text in (NOT_OURS, busy.partition(":")[2]):
        if text and text in said:
            assert text in detail


@pytest.mark.parametrize("workers", [1, 2])
def test_a_running_engine_is_reported_and_another_program_is_not_mistaken_for_it(
    shared_redis: RedisServer, tmp_path: Path, checked: Check, workers: int
) -> None:
    shared_redis.client.flushall()
    engine = (
        Engine(tmp_path, shared_redis.url)
        if workers == 1
        else WorkerPool(tmp_path, shared_redis.url, workers, None)
    )
    engine.start()
    try:
        ok, detail = checked(engine.config)["ports"]
        assert ok, detail
        assert "an engine runs here" in detail
        assert "does not listen" not in detail
        for worker in range(workers):
            assert f"worker {worker} (process " in detail
        config = json.loads(engine.config.read_text())
        other = f"{HOST}:{free_port(several=workers)}"
        config["sip"]["listen"].append(f"udp:{other}")
        changed = tmp_path / "changed.yaml"
        changed.write_text(json.dumps(config), encoding="utf-8")
        ok, detail = checked(changed)["ports"]
        assert ok
        missing = range(int(other.rpartition(":")[2]), int(other.rpartition(":")[2]) + workers)
        places = ", ".join(f"sip.listen[1] udp:{HOST}:{port}" for port in missing)
        assert detail.endswith(f"; it does not listen on {places}")
        with taken("udp", other):
            ok, detail = checked(changed)["ports"]
            assert not ok
            assert detail == f"sip.listen[1]: cannot listen on udp:{other}: port already in use"
    finally:
        assert engine.stop() == 0
    ok, detail = checked(engine.config)["ports"]
    assert ok
    assert "runs here" not in detail
