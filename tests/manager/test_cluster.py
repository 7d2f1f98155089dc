"""The page and the API on a Redis Cluster: every key is found on its node."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from manager.calls import Calls
from store.keys import RECORDS
from tests.manager.browser import PASSWORD, Visitor, text
from tests.manager.site import Api, Manager
from tests.patience import within
from tests.redis.cluster import ClusterServers, cluster, cluster_servers

__all__ = ["cluster", "cluster_servers"]

LINES = [f"+3397210{n:04}" for n in range(20)]


def test_the_journey_on_a_cluster(cluster: ClusterServers, tmp_path: Path) -> None:
    client = cluster.client()
    for number in LINES:
        document = {"number": number, "fleet": "acme", "label": f"Bureau {number[-2:]}"}
        client.set(f"line:{number}", json.dumps(document))
    manager = Manager(tmp_path, cluster.url)
    manager.start()
    try:
        manager.command("manager", "account", "add", "marie", "--fleet", "acme", typed=PASSWORD)
        acme = Api(manager, manager.token("--fleet", "acme"))
        for n in range(9):  # on every node
            manager.command("manager", "account", "add", f"u{n}", "--operator", typed=PASSWORD)
            manager.command("manager", "token", "add", f"t{n}", "--operator")
        for kind, names in (("account", ["marie", "u8"]), ("token", ["test", "t8"])):
            listed = manager.command("manager", kind, "list")
            assert listed.returncode == 0, listed.stderr
            assert all(name in listed.stdout for name in names)
        assert [item["number"] for item in acme.get("/lines").json["items"]] == LINES
        path = f"/lines/{LINES[0]}/forwards"
        forward = {"on": True, "to": {"kind": "voicemail", "number": LINES[1]}}
        put = acme.put(path + "/busy", forward)
        assert put.status == 200, put.text
        assert acme.put(path + "/busy", {"on": False}, if_match='"old"').status == 412
        assert len(acme.get(f"/lines/{LINES[0]}/changes").json["items"]) == 1
        for part in ("state", "usage", "records", "explain"):
            assert acme.get(f"/lines/{LINES[0]}/{part}").status == 200, part
        marie = Visitor(manager)
        marie.log_in("marie")
        page = text(marie.get(f"/lines/{LINES[0]}"))
        assert "messagerie du 09 72 10 00 01" in page
        client.set(f"line:{LINES[5]}", json.dumps({"number": LINES[5], "fleet": "globex"}))
        deadline = time.monotonic() + within(5)
        while acme.get("/lines").json["total"] != len(LINES) - 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        status = manager.stop()
        client.close()
    assert status == 0
    assert "Traceback" not in manager.log, manager.log


async def test_waiting_for_calls_keeps_its_connection(cluster: ClusterServers) -> None:
    client = cluster.connect(socket_timeout=5.0)
    calls = Calls(client)
    await calls.start()
    try:
        with cluster.master_of(RECORDS).client() as node:
            deadline = time.monotonic() + within(5)
            while not any("b" in one["flags"] for one in node.client_list()):
                assert time.monotonic() < deadline, "nobody waits for calls"
                await asyncio.sleep(0.05)
            before = node.info("stats")["total_connections_received"]
            await asyncio.sleep(2.5)
            assert node.info("stats")["total_connections_received"] == before
    finally:
        await calls.close()
        await client.aclose()
