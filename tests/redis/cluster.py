"""Groups of redis-servers: a cluster, and a master with its sentinels."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis
from redis.crc import key_slot

from store.client import Client, connect, connect_blocking
from tests.child import started
from tests.patience import within
from tests.redis.servers import PROGRAM
from tests.scenarios.sipp import free_port, part_of

HOST = "127.0.0.1"
SLOTS = 16384
START_S = within(6)
BUS_PORTS = part_of(range(1_100, 2_000))


class Inside(Protocol):
    """A network namespace: what to put before a command, and its address."""

    prefix: list[str]
    inside: str


class Node:
    """One redis-server process on a TCP port of its own."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        port: int = 0,
        sentinel: bool = False,
        inside: Inside | None = None,
    ) -> None:
        """`inside`: the network namespace to run in."""
        self._inside = inside
        self.host = inside.inside if inside is not None else HOST
        self.port = port or free_port(socket.SOCK_STREAM)
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        self._options = options
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [PROGRAM, *self._options, "--port", str(self.port), "--bind", self.host]
        command += ["--protected-mode", "no"]
        if self._inside is not None:
            command = [*self._inside.prefix, *command]
        command += ["--dir", str(self.folder)]
        command += ["--sentinel"] if self._sentinel else ["--save", ""]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        with started(self.kill), self.client() as client:
            until(lambda: _answers(client), f"redis-server on port {self.port}")

    def client(self) -> redis.Redis:
        """A blocking client of this node alone; close it."""
        return redis.Redis(self.host, self.port, decode_responses=True, socket_timeout=5)

    def signal(self, number: signal.Signals) -> None:
        """Pause it (SIGSTOP) or continue it (SIGCONT)."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill it; it can be started again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class ClusterServers:
    """Masters that share the slots, each with a number of replicas."""

    def __init__(self, folder: Path, masters: int = 3, replicas: int = 0, timeout_ms: int = 3000):
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(timeout_ms)]
        # In units of the ping time of the cluster's bus: short, for tests.
        options += ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]
        options += ["--cluster-require-full-coverage", "no", "--appendonly", "no"]
        self.masters = [Node(folder, *options, port=bus_port()) for _ in range(masters)]
        self.replicas = [Node(folder, *options, port=bus_port()) for _ in range(masters * replicas)]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.masters)

    def start(self) -> None:
        """Start the nodes and make them one cluster."""
        nodes = [*self.masters, *self.replicas]
        for node in nodes:
            node.start()
        first = self.masters[0]
        for place, node in enumerate(self.masters):
            begin = place * SLOTS // len(self.masters)
            end = (place + 1) * SLOTS // len(self.masters) - 1
            with node.client() as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", begin, end)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", place + 1)
        for node in nodes[1:]:
            with node.client() as client:
                client.execute_command("CLUSTER MEET", HOST, first.port)
        until(lambda: all(_knows(node, len(nodes)) for node in nodes), "the cluster")
        for place, node in enumerate(self.replicas):
            with self.masters[place % len(self.masters)].client() as client:
                master_id = client.execute_command("CLUSTER MYID")
            with node.client() as client:
                until(lambda c=client, m=master_id: _replicates(c, m), "a replica")  # type: ignore[misc]
        until(lambda: all(map(self._is_whole, nodes)), "the cluster's state")
        until(lambda: all(map(_follows, self.replicas)), "the replicas' copies")

    def restart(self) -> None:
        """Start nodes that were killed; they keep the cluster's configuration."""
        nodes = [*self.masters, *self.replicas]
        for node in nodes:
            node.start()
        until(lambda: all(map(self._is_whole, nodes)), "the cluster's state")
        until(lambda: all(map(_follows, self.replicas)), "the replicas' copies")

    def stop(self) -> None:
        for node in (*self.masters, *self.replicas):
            node.kill()

    def connect(self, **options: Any) -> Client:
        """A client as the engine uses it; close it."""
        return connect(self.url, **options)

    def client(self) -> Any:
        """A blocking client, for writes by another program. Close it."""
        return connect_blocking(self.url, decode_responses=True)

    def flush(self) -> None:
        for node in self.masters:
            with node.client() as client:
                client.flushall()

    def master_of(self, key: str) -> Node:
        """The master that has a key's slot, by the initial assignment."""
        slot = key_slot(key.encode())
        place = next(
            i
            for i in range(len(self.masters))
            if i * SLOTS // len(self.masters) <= slot < (i + 1) * SLOTS // len(self.masters)
        )
        return self.masters[place]

    def _is_whole(self, node: Node) -> bool:
        """Whether a node knows who holds each slot, and who follows whom: it is "ok" before it
        does."""
        info = _info(node)
        found = (info["cluster_state"], info["cluster_slots_assigned"], info["cluster_size"])
        with node.client() as client:
            nodes: Any = client.execute_command("CLUSTER NODES")
        replicas = sum("slave" in each["flags"] for each in nodes.values())
        whole = ("ok", str(SLOTS), str(len(self.masters)))
        return found == whole and replicas == len(self.replicas)


class SentinelServers:
    """A master, a replica, and three sentinels that watch them."""

    NAME = "renvoi"

    def __init__(self, folder: Path, *options: str, down_after_ms: int = 2000) -> None:
        self._down_after_ms = down_after_ms
        self._folder = folder
        quick = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
        self.master = Node(folder, *quick, *options)
        self.replica = Node(folder, *quick, *options, "--replicaof", f"{HOST} {self.master.port}")
        self.sentinels: list[Node] = []

    @property
    def url(self) -> str:
        places = ",".join(f"{HOST}:{node.port}" for node in self.sentinels)
        return f"redis+sentinel://{places}/{self.NAME}"

    def start(self) -> None:
        """Start all five and wait until every sentinel knows the others and the replica."""
        self.master.start()
        self.replica.start()
        for _ in range(3):
            port = free_port(socket.SOCK_STREAM)
            file = self._folder / f"sentinel-{port}.conf"
            file.write_text(
                f"sentinel monitor {self.NAME} {HOST} {self.master.port} 2\n"
                f"sentinel down-after-milliseconds {self.NAME} {self._down_after_ms}\n"
                f"sentinel failover-timeout {self.NAME} 3000\n"
            )
            node = Node(self._folder, str(file), port=port, sentinel=True)
            node.start()
            self.sentinels.append(node)
        until(lambda: _follows(self.replica), "the replica")
        until(lambda: all(map(self._sees_all, self.sentinels)), "the sentinels")

    def stop(self) -> None:
        for node in (*self.sentinels, self.replica, self.master):
            node.kill()

    def connect(self, **options: Any) -> Client:
        """A client as the engine uses it; close it."""
        return connect(self.url, **options)

    def client(self) -> Any:
        """A blocking client of the current master. Close it."""
        return connect_blocking(self.url, decode_responses=True)

    def current(self) -> int:
        """The port of the master, from the first sentinel."""
        with self.sentinels[0].client() as client:
            return int(client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self.NAME)[1])

    def _sees_all(self, sentinel: Node) -> bool:
        """Whether it could replace the master: it reaches the other sentinels, and knows that the
        replica has a copy. Before, a fail-over is given up and tried again six seconds later."""
        with sentinel.client() as client:
            said: Any = client.sentinel_master(self.NAME)
            replicas: Any = client.sentinel_slaves(self.NAME)
            try:
                client.execute_command("SENTINEL CKQUORUM", self.NAME)
            except redis.ResponseError:
                return False
        copies = [each for each in replicas if each["master-link-status"] == "ok"]
        return said["num-other-sentinels"] == 2 and len(copies) == 1


@contextmanager
def folder() -> Iterator[Path]:
    """Not pytest's directory: the path of a unix socket is at most 107 bytes long."""
    with tempfile.TemporaryDirectory(prefix="rc") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def cluster_servers() -> Iterator[ClusterServers]:
    """Three masters for a module. Each module that imports this has its own."""
    with folder() as place:
        servers = ClusterServers(place)
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()


@pytest.fixture
def cluster(cluster_servers: ClusterServers) -> ClusterServers:
    """The same, empty."""
    cluster_servers.flush()
    return cluster_servers


@pytest.fixture
def sentinel() -> Iterator[SentinelServers]:
    """A master, a replica and three sentinels, which a test may kill and pause."""
    with folder() as place:
        servers = SentinelServers(place)
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()


_given: set[int] = set()  # until they start, nodes do not occupy their ports


def bus_port() -> int:
    """A port whose 10,000th successor, the node's bus, is free too. Both are below the range from
    which the system assigns ports, and below those of tests/scenarios/sipp.py: a port from these
    ranges may be taken before the node starts."""
    for _ in range(1000):
        with socket.socket() as probe:
            port = random.choice(BUS_PORTS)
            if port in _given:
                continue
            try:
                probe.bind((HOST, port + 10000))
                with socket.socket() as other:
                    other.bind((HOST, port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise RuntimeError("no free port for a cluster's bus")


def until(condition: Callable[[], object], what: str, limit_s: float = START_S) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + within(limit_s)
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come up"
        time.sleep(0.02)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def _info(node: Node) -> dict[str, str]:
    with node.client() as client:
        said: Any = client.execute_command("CLUSTER INFO")
        return dict(said)


def _knows(node: Node, count: int) -> bool:
    return int(_info(node)["cluster_known_nodes"]) == count


def _follows(replica: Node) -> bool:
    """Whether it has a copy of its master's data, and gets every change."""
    with replica.client() as client:
        return bool(client.info("replication").get("master_link_status") == "up")


def _replicates(client: redis.Redis, master_id: str) -> bool:
    try:
        raw: Any = client
        return bool(raw.execute_command("CLUSTER REPLICATE", master_id))
    except redis.ResponseError:  # this sentinel does not know the master yet
        return False
