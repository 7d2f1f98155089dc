"""Redis as operators run it: unix socket, TLS, users with few rights, Sentinel."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from engine import config_values
from engine.changes.acks import in_force
from engine.changes.change import change_line
from engine.changes.worker_registry import WorkerHeartbeat
from engine.commands.check import _check_redis
from engine.commands.context import Failed
from engine.config import Limits, load
from engine.forwards import Forwards
from engine.leases import LiveCalls
from engine.records.recorder import ForwardRecord, Recorder
from store.client import close, connect, connect_blocking
from store.redis_errors import kind_of
from store.standby import Head, StandbyCalls
from store.url import read_url
from tests.patience import Stalls, within
from tests.redis.cluster import (
    HOST,
    ClusterServers,
    Node,
    SentinelServers,
    cluster,
    cluster_servers,
    folder,
    sentinel,
)
from tests.redis.servers import running_server
from tests.redis.stores import FRANCE, document, labelled, settled, store_on, until
from tests.redis.test_acks import heartbeat
from tests.redis.test_recorder import call as a_record
from tests.scenarios.sipp import free_port

__all__ = ["cluster", "cluster_servers", "sentinel"]

LINE = "+33972101001"


# -- the URL -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shape", "hosts", "settings"),
    [
        ("redis://h", "single", (), {}),
        ("redis://:p%40@h:6380/2", "single", (), {}),
        ("unix:///run/redis.sock?db=3", "single", (), {}),
        (
            "redis+sentinel://me:p%2Fw@a,b:1,[::1]:2,[::2]/main/3",
            "sentinel",
            (("a", 26379), ("b", 1), ("::1", 2), ("::2", 26379)),
            {"username": "me", "password": "p/w", "db": 3},
        ),
        ("redis+cluster://pw@a:1", "cluster", (("a", 1),), {"password": "pw"}),
        (
            "rediss+cluster://a?verify=false",
            "cluster",
            (("a", 6379),),
            {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False},
        ),
    ],
)
def test_every_form_of_url_is_read(
    url: str, shape: str, hosts: tuple[tuple[str, int], ...], settings: dict[str, Any]
) -> None:
    place = read_url(url)
    assert (place.shape, place.hosts, place.settings) == (shape, hosts, settings)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://h", "begins with"),
        ("redis://h:0", "port"),
        ("redis+cluster://a:x", "port"),
        ("redis+cluster://a/3", "no path"),
        ("redis+sentinel://a", "master's name"),
        ("redis+sentinel://a/m/x", "database"),
        ("redis://h?colour=red", "unknown option colour"),
        ("redis://h?verify=false", "rediss://"),
        ("rediss://h?verify=maybe", "true or false"),
        ("rediss://h?ca=/no/such/file", "ca="),
        ("unix://", "socket"),
        ("redis://", "host"),
    ],
)
def test_a_wrong_url_is_refused_by_name(url: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        config_values.redis_url(url)


def test_the_sentinels_may_have_a_password_of_their_own() -> None:
    place = read_url("redis+sentinel://u:p@a/m?sentinel_password=q")
    assert place.settings == {"username": "u", "password": "p", "db": 0}
    assert place.asking == {"password": "q"}


async def test_hundreds_of_commands_at_once_are_served() -> None:
    """As for a page about many fleets. Too many connections look as if Redis were away."""
    with running_server() as server:
        client: Any = connect(server.url)
        replies = await asyncio.gather(*(client.get(f"fleet:{n}") for n in range(300)))
        assert replies == [None] * 300
        await close(client)


# -- one server ----------------------------------------------------------------------------------


async def serves(url: str, other: redis.Redis) -> None:
    """A store and the live count work on this URL, and changes by another program are noticed."""
    other.set(f"line:{LINE}", document(LINE, label="one"))
    client = connect(url)
    live = LiveCalls(client, shared=True)
    async with store_on(client) as store:
        await settled(store, LINE)
        other.set(f"line:{LINE}", document(LINE, label="two"))
        await labelled(store, LINE, "two")
        await live.start()
        await until(lambda: not live._away, 2)
        live.add(LINE, "call", lease=True)
        await until(lambda: other.zcard(f"live:{LINE}") == 1, 3)
        await live.close()
    with connect_blocking(url) as blocking:
        assert blocking.get(f"line:{LINE}")


@pytest.fixture(scope="module")
def certificates() -> Iterator[Path]:
    """A CA, its certificates for a server and a client, and another CA."""
    with folder() as place:
        for name in ("ca", "stranger"):
            _openssl(
                place, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            )  # fmt: skip
        # From Python 3.13 on a certificate must have all extensions (RFC 5280 4.2.1).
        (place / "ext").write_text(
            f"subjectAltName=IP:{HOST}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        for name in ("server", "client"):
            _openssl(
                place, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.csr",
            )  # fmt: skip
            _openssl(
                place, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-days", "2", "-extfile", "ext", "-out", f"{name}.pem",
            )  # fmt: skip
        yield place


def _openssl(place: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=place, check=True, capture_output=True)


class TlsServer:
    """A redis-server with TLS only, which requires a client certificate."""

    def __init__(self, place: Path, certificates: Path) -> None:
        self.port = free_port(socket.SOCK_STREAM)
        self._plain = Node(
            place,
            "--tls-port", str(self.port),
            "--tls-cert-file", str(certificates / "server.pem"),
            "--tls-key-file", str(certificates / "server.key"),
            "--tls-ca-cert-file", str(certificates / "ca.pem"),
        )  # fmt: skip

    def __enter__(self) -> redis.Redis:
        self._plain.start()
        self._client = self._plain.client()
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._plain.kill()


async def test_tls_by_options_of_the_url(certificates: Path) -> None:
    c = certificates
    with folder() as place:
        server = TlsServer(place, c)
        with server as other:
            good = f"ca={c}/ca.pem&cert={c}/client.pem&key={c}/client.key"
            await serves(f"rediss://{HOST}:{server.port}?{good}", other)
            nameless = f"rediss://{HOST}:{server.port}?cert={c}/client.pem&key={c}/client.key"
            await serves(nameless + "&verify=false", other)
            for bad in (nameless, f"{nameless}&ca={c}/stranger.pem"):
                client = connect(bad)
                with pytest.raises(redis.ConnectionError) as refused:
                    await client.ping()
                assert kind_of(refused.value) == "away"
                await client.aclose()


async def changes(url: str, other: redis.Redis) -> None:
    """As by a star code: the line and its log are written, and the workers acknowledge."""
    other.set(f"line:{LINE}", document(LINE))
    client = connect(url)

    def edit(found: dict[str, object]) -> None:
        found["forwards"] = {"busy": {"on": True, "to": {"kind": "voicemail"}}}

    async with store_on(client) as store:
        here = WorkerHeartbeat(client, heartbeat(0))
        store.on_probe = here.on_probe
        await here.start()
        assert (await change_line(client, LINE, edit, FRANCE, who="x", how="phone")).written
        assert (await in_force(client, LINE, within_s=10)).complete
        await here.close()
    assert other.xlen("audit:acme") == 1


async def bills(url: str, other: redis.Redis, place: Path) -> None:
    """A call under limits and a fleet's cap can be counted and recorded."""
    client = connect(url)
    forwards = Forwards(client)
    forwards.workers = 9
    await forwards.start()
    assert await forwards.ask(LINE, "call", Limits()) is None
    assert other.zcard(f"forwards:{LINE}") == 1
    await forwards.close()
    recorder = Recorder(client, timezone="UTC", worker="0-a", spool=place / "spool")
    await recorder.start()
    paid = ForwardRecord(LINE, "busy", "number", "+33612345678", "out_of_plan", 7, "acme")
    recorder.add(msgspec.structs.replace(a_record(1, seconds=7), forwards=[paid]))
    await until(lambda: recorder.backlog == 0, 3)
    await recorder.close()
    await client.aclose()
    assert other.xlen("cdr") == 1
    assert [other.hget(key, "out_of_plan") for key in other.keys("usage:fleet:acme:*")] == ["7"]


async def stands_by(url: str) -> None:
    """A process stores its calls, another takes them over, a third replaces it."""
    client = connect(url)
    calls, place = StandbyCalls(client, 60), "192.0.2.10:5060;transport=udp"
    await calls.announce(place)
    assert await calls.places() == [place]
    written = await calls.write(place, "a", Head(1, 1.0, 1.0), {"0-a-1": b"one"}, ["0-a-2"])
    assert written.calls == 1
    claimed = await calls.claim(place, "a", "b", 0, 1, tell=True)
    assert claimed is not None
    await calls.forget(place, claimed.name)
    await calls.give_back(place, "a", ["0-a-2"])
    assert await calls.replace(place, "a") == ["0-a-1"]
    assert await calls.processes(place) == []
    await calls.withdraw(place)
    await close(client)


async def test_a_user_with_the_rights_that_are_needed_and_no_more() -> None:
    rights = (
        "on >secret ~line:* ~reg:* ~live:* ~forwards:* ~usage:* ~fleet:* ~cdr ~{cdr}:* ~once:*"
        " ~canary:* ~registrar:* ~worker:* ~workers ~probe:* ~ack:* ~audit:* ~standing:*"
        " ~standby:* ~transfer:* &__redis__:invalidate +@read +@write +@connection +@scripting"
        " +@pubsub +@transaction +info -@dangerous +client|tracking +client|id +info +time"
    )
    with folder() as place:
        server = Node(place)
        server.start()
        try:
            with server.client() as other:
                raw: Any = other
                raw.execute_command("ACL", "SETUSER", "engine", *rights.split())
                await serves(f"redis://engine:secret@{HOST}:{server.port}", other)
                await changes(f"redis://engine:secret@{HOST}:{server.port}", other)
                await bills(f"redis://engine:secret@{HOST}:{server.port}", other, place)
                await stands_by(f"redis://engine:secret@{HOST}:{server.port}")
                wrong = connect(f"redis://engine:wrong@{HOST}:{server.port}")
                async with store_on(wrong) as store:
                    assert not store.redis_up
                    met: list[str] = []
                    store.on_trouble = lambda where, error, kind: met.append(kind)
                    await until(lambda: met, 3)
                    assert set(met) <= {"denied"}
        finally:
            server.kill()


# -- Sentinel ------------------------------------------------------------------------------------


async def test_a_master_that_hangs_is_replaced_and_what_was_written_meanwhile_is_in_force(
    sentinel: SentinelServers, stalls: Stalls
) -> None:
    """SIGSTOP: connections stay open and silent, the most difficult kind of failure."""
    with sentinel.client() as other:
        other.set(f"line:{LINE}", document(LINE, label="one"))
        assert other.wait(1, round(1000 * within(2))) == 1  # the replica has it
    old = sentinel.current()
    for node in (sentinel.replica, *sentinel.sentinels):
        stalls.watch(node.pid)
    client = sentinel.connect(socket_timeout=1.0)
    live = LiveCalls(client, shared=True)
    async with store_on(client) as store:
        await live.start()
        await settled(store, LINE)
        live.add(LINE, "call", lease=True)
        sentinel.master.signal(signal.SIGSTOP)
        slowest, replaced, written = 0.0, 0.0, False
        deadline = time.monotonic() + within(20)
        while True:
            assert time.monotonic() < deadline, "no new master"
            start = time.monotonic()
            entry = store.peek(LINE) or await store.look_up(LINE)
            slowest = max(slowest, time.monotonic() - start)
            assert entry.line is not None
            if not written and await asyncio.to_thread(sentinel.current) != old:
                replaced = time.monotonic()
                with sentinel.replica.client() as other:
                    other.set(f"line:{LINE}", document(LINE, label="two"))
                written = True
            if entry.line.label == "two":
                break
            await asyncio.sleep(0.005)
        assert time.monotonic() - replaced < 1.0 + stalls.total_s
        assert slowest < 0.25 + stalls.total_s
        with sentinel.replica.client() as other:
            await until(lambda: other.zcard(f"live:{LINE}") == 1, 5)
            other.set(f"line:{LINE}", document(LINE, label="three"))
            await labelled(store, LINE, "three")
            # The old master comes back unchanged, and nothing uses it any more.
            sentinel.master.signal(signal.SIGCONT)
            await asyncio.sleep(0.5)
            other.set(f"line:{LINE}", document(LINE, label="four"))
            await labelled(store, LINE, "four")
        await until(lambda: store.redis_up and store.age_s() == 0, 5)
        await live.close()


async def test_a_planned_switch_of_the_master_is_followed(sentinel: SentinelServers) -> None:
    with sentinel.client() as other:
        other.set(f"line:{LINE}", document(LINE, label="one"))
    old = sentinel.current()
    async with store_on(sentinel.connect(socket_timeout=1.0)) as store:
        await settled(store, LINE)
        with sentinel.sentinels[0].client() as manager:
            raw: Any = manager
            raw.execute_command("SENTINEL FAILOVER", sentinel.NAME)
        await until(lambda: sentinel.current() != old, 20)
        with sentinel.replica.client() as other:
            other.set(f"line:{LINE}", document(LINE, label="two"))
        await labelled(store, LINE, "two", 1.5)
        await until(lambda: store.redis_up and store.age_s() == 0, 5)


# -- renvoi check --------------------------------------------------------------------------------


def checked(url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
    """The result of `renvoi check` for this Redis."""
    monkeypatch.setenv("RENVOI_REDIS_URL", url)
    config = load(None)
    try:
        return True, _check_redis(config)
    except Failed as failed:
        return False, failed.message


def test_check_reports_each_shape(
    sentinel: SentinelServers, cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, text = checked(sentinel.url, monkeypatch)
    assert good
    assert "master renvoi at 127.0.0.1" in text
    assert "by 3 sentinels, 1 replica" in text
    good, text = checked(cluster.url, monkeypatch)
    assert good
    assert "a cluster of 3 masters and 0 replicas, all slots served" in text
    replica = f"redis://{HOST}:{sentinel.replica.port}"
    good, text = checked(replica, monkeypatch)
    assert not good
    assert "is a replica of" in text
    with sentinel.master.client() as client:
        single = f"redis://{HOST}:{sentinel.master.port}"
        client.config_set("maxmemory", 1)
        assert checked(single, monkeypatch) == (
            False,
            f"redis.url: {single}: is full: used_memory has reached maxmemory (0 MB)",
        )
        client.config_set("maxmemory", "1gb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert "allkeys-lru (may throw lines" in checked(single, monkeypatch)[1]
    with cluster.masters[0].client() as client:
        raw: Any = client
        raw.execute_command("CLUSTER", "DELSLOTS", 0)
        try:
            assert "16383 of 16384 slots" in checked(cluster.url, monkeypatch)[1]
        finally:
            raw.execute_command("CLUSTER", "ADDSLOTS", 0)
