"""Redis goes away and comes back: no partial changes, and no restart is needed."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.cli import main
from tests.manager.browser import PASSWORD, Visitor, text
from tests.manager.site import Api, Manager, write
from tests.patience import within
from tests.scenarios.processes import RedisServer

LINE = "+33972101001"


def soon(true: Callable[[], object], limit_s: float = 15) -> None:
    deadline = time.monotonic() + within(limit_s)
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_redis_goes_and_comes_back(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, keeps=True)
    server.start()
    manager = Manager(tmp_path, server.url)
    manager.start()
    try:
        write(server.client, LINE, label="Accueil")
        manager.command("manager", "account", "add", "marie", "--fleet", "acme", typed=PASSWORD)
        acme, marie = Api(manager, manager.token("--fleet", "acme")), Visitor(manager)
        assert marie.log_in("marie").status == 200
        assert manager.get("/healthz").status == 200
        server.kill()
        forward = {"on": True, "to": {"kind": "voicemail"}}
        refused = acme.put(f"/lines/{LINE}/forwards/busy", forward)
        assert refused.status == 503
        assert refused.json["title"] == "Not available"
        page = marie.request("GET", "/lines")
        assert page.status == 503
        assert "Rien n’a été modifié" in text(page)
        passwords = [("old", PASSWORD), ("new", "another long password")]
        for path in ("/account", "/login"):
            answer = marie.request("POST", path, passwords)
            assert answer.status in (403, 503)
            assert not any(password in answer.text for _, password in passwords), path
        assert manager.get("/healthz").status == 503
        server.start()
        soon(lambda: marie.request("GET", f"/lines/{LINE}").status == 200)
        write(server.client, "+33972101002", label="Nouvelle")
        soon(lambda: acme.get("/lines?q=nouvelle").json["total"] == 1)
        assert acme.put(f"/lines/{LINE}/forwards/busy", forward).status == 200
    finally:
        status = manager.stop()
        server.stop()
    assert status == 0
    assert "Traceback" not in manager.log


def test_started_without_redis_it_waits_for_it(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    manager = Manager(tmp_path, server.url)
    manager.start()
    try:
        assert manager.get("/healthz").status == 503
        soon(lambda: "redis.away" in manager.log)
        server.start()
        write(server.client, LINE, label="Accueil")
        acme = Api(manager, manager.token("--fleet", "acme"))
        soon(lambda: acme.get("/lines").json.get("total") == 1)
    finally:
        manager.stop()
        server.stop()


def test_started_while_redis_is_silent_it_serves_and_ends(tmp_path: Path) -> None:
    """It accepts connections and answers nothing, as a stopped process."""
    server = RedisServer(tmp_path)
    server.start()
    server.pause()
    manager = Manager(tmp_path, server.url)
    try:
        manager.start()
        assert manager.get("/healthz").status == 503
        assert manager.stop() == 0
    finally:
        server.stop()
    assert "Traceback" not in manager.log


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("account", "add", "x"), "--fleet: give either"),
        (("account", "add", "x", "--fleet", "a", "--operator"), "--fleet: give either"),
        (("account", "add", "<x>", "--fleet", "a"), "NAME: expected up to 64"),
        (
            ("account", "add", "x", "--fleet", "a", "--new-fleet"),
            "password: expected 10 to 200 characters",
        ),
        (("account", "password", "nobody"), "account nobody: unknown account"),
        (("account", "delete", "nobody"), "account nobody: unknown account"),
        (("token", "revoke", "nothing"), "token nothing: unknown token"),
        (("token", "add", "", "--operator"), "NAME: expected printable text"),
    ],
)
def test_wrong_commands_are_one_line_and_2(
    manager: Manager,
    arguments: tuple[str, ...],
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    assert main(["manager", *arguments, "--config", str(manager.config)]) == 2
    said = capsys.readouterr()
    assert error in said.err
    assert said.err.count("\n") == 1
    assert not said.out


def test_without_an_account_the_log_has_the_command_to_make_one(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    manager = Manager(tmp_path, server.url)
    try:
        manager.start()
        soon(lambda: "renvoi manager account add NAME --operator" in manager.log)
        manager.stop()
        manager.command("manager", "account", "add", "support", "--operator", typed=PASSWORD)
        before = len(manager.log)
        manager.start()
        soon(lambda: "the customer's page on" in manager.log[before:])
        manager.command("manager", "account", "list")  # time for further log lines
        assert "account add" not in manager.log[before:]
    finally:
        manager.stop()
        server.stop()


def test_a_port_in_use_is_one_line_and_1(manager: Manager) -> None:
    done = manager.fails()
    assert done.returncode == 1
    assert "manager.listen: cannot listen on 127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr
