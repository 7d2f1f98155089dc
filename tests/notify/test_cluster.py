"""Notifications on a Redis Cluster, where the streams and documents are on several nodes."""

from __future__ import annotations

import json
from pathlib import Path

from store import audit
from tests.notify.site import Notifier, Receiver, add_record, until
from tests.redis.cluster import ClusterServers, cluster, cluster_servers

__all__ = ["cluster", "cluster_servers"]

FLEETS = [f"f{n}" for n in range(12)]


def test_records_and_changes_of_many_fleets(
    cluster: ClusterServers, receiver: Receiver, tmp_path: Path
) -> None:
    client = cluster.client()
    lines = {}
    for n, fleet in enumerate(FLEETS):
        notify = {"webhook": {"url": receiver.url(f"/{fleet}")}}
        client.set(f"fleet:{fleet}", json.dumps({"name": fleet, "notify": notify}))
        lines[fleet] = f"+3397210{3000 + n}"
        document = {"number": lines[fleet], "fleet": fleet}
        client.set(f"line:{lines[fleet]}", json.dumps(document))
    notifier = Notifier(tmp_path, cluster.url)
    notifier.start()
    try:
        notifier.active()
        for fleet, line in lines.items():
            add_record(client, line)
            after = {"forwards": {"busy": {"on": True}}, "number": line, "fleet": fleet}
            for log, fields in audit.of_line("marie", "page", line, b"{}", after):
                client.execute_command(*audit.command(log, fields))
        for fleet in FLEETS:
            receiver.one("missed_call", f"/{fleet}")
            receiver.one("forward_changed", f"/{fleet}")
        until(lambda: client.hlen("{notify}:waiting") == 0, "nothing waits")
    finally:
        status = notifier.stop()
        client.close()
    assert status == 0
    assert "Traceback" not in notifier.log, notifier.log
