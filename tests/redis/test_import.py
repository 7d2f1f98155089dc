"""Many lines at once: read, checked, switched in one step; a failure leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from engine.changes.import_step import ImportRefused
from engine.changes.line_file import COLUMNS, RowError, from_cells, read_rows, to_cells
from engine.changes.line_import import LineImport
from engine.cli import main
from rules.numbers import Numbering
from store.client import connect, connect_blocking
from tests.patience import Stalls, within
from tests.redis.cluster import ClusterServers, Node, cluster, cluster_servers, folder
from tests.redis.servers import RedisServer, running_server
from tests.redis.stores import labelled, settled, store_on, until

__all__ = ["cluster", "cluster_servers"]

FRANCE = Numbering("FR")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def server(shared: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    with shared.client() as client:
        client.flushall()
    monkeypatch.setenv("RENVOI_REDIS_URL", shared.url)
    return shared


def number(n: int) -> str:
    return f"+3397{n:07d}"


def line(n: int, label: str = "one", **more: Any) -> dict[str, Any]:
    return {"number": number(n), "fleet": "acme", "label": label} | more


def write(path: Path, documents: Sequence[object]) -> str:
    path.write_text("".join(json.dumps(each) + "\n" for each in documents))
    return str(path)


def labels(client: Any) -> set[str]:
    """The labels of all lines, read in one step."""
    keys = client.keys("line:*")
    return {json.loads(raw)["label"] for raw in client.mget(keys)} if keys else set()


# -- files ---------------------------------------------------------------------------------------

FULL = {
    "number": number(1),
    "fleet": "acme",
    "label": 'Accueil, "été"',
    "max_calls": 2,
    "suspended": False,
    "offer": {"fax": True, "mobile": "hours", "mobile_hours": 2.5},
    "credentials": {"user": "accueil", "ha1": "0123", "ha1_sha256": "4567"},
    "forwards": {
        "unconditional": {"on": False},
        "busy": {"on": True, "to": {"kind": "number", "number": "+33612345678"}, "note": "x"},
        "no_answer": {"on": True, "after_s": 20, "to": {"kind": "voicemail"}},
        "unreachable": {"on": False, "to": {"kind": "fax", "number": number(2)}},
    },
    "billing": {"account": [1, 2]},
}


def test_a_document_goes_through_csv_without_loss() -> None:
    cells = dict(zip(COLUMNS, to_cells(FULL), strict=True))
    assert cells["busy"] == "on number:+33612345678"
    assert cells["no_answer"] == "on voicemail"
    assert cells["unreachable"] == f"off fax:{number(2)}"
    assert cells["unconditional"] == "off"
    assert json.loads(cells["more"]) == {
        "forwards": {"busy": {"note": "x"}},
        "billing": {"account": [1, 2]},
    }
    assert from_cells(cells) == FULL


@pytest.mark.parametrize("text", [" Accueil", "Accueil\n", "\xa0", ""])
def test_blanks_around_a_text_go_through_csv(text: str) -> None:
    """A user with one has another password without it."""
    document = FULL | {"label": text, "credentials": {"user": text, "ha1": "0123"}}
    cells = dict(zip(COLUMNS, to_cells(document), strict=True))
    assert from_cells(cells) == document


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("x,acme,,,,maybe", "fax"),
        ("x,acme,,many", "max_calls"),
        ("x,acme,,,perhaps", "suspended"),
        ("x,acme,,,,,,much", "mobile_hours"),
        ("x,acme" + "," * 10 + "on pigeon:1", "unconditional"),
        ("x,acme" + "," * 15 + "{", "more"),
    ],
)
def test_a_wrong_cell_is_named(row: str, field: str) -> None:
    file = io.BytesIO(f"{','.join(COLUMNS)}\n\n{row}\n".encode())
    ((place, error),) = read_rows(file, "csv")
    assert place == 3
    assert isinstance(error, RowError)
    assert error.field == field


def test_a_header_that_is_none_is_the_only_error() -> None:
    ((place, error),) = read_rows(io.BytesIO(b"nom,flotte\na,b\nc,d\n"), "csv")
    assert (place, str(error)[:4]) == (1, "nom:")


# -- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_export_and_import_go_round(
    form: str, server: RedisServer, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    documents = [FULL, line(2, offer={"fax": True}), line(3, forwards={})]
    with server.client() as client:
        for each in documents:
            client.set(f"line:{each['number']}", json.dumps(each))
        assert main(["line", "export", "--format", form]) == 0
        file = tmp_path / f"lines.{form}"
        file.write_bytes(capfdbinary.readouterr().out)
        client.flushall()
        assert main(["line", "import", str(file), "--json"]) == 0
        summary = json.loads(capfdbinary.readouterr().out)
        assert (summary["lines"], summary["added"]) == (3, 3)
        expected = [FULL, line(2, offer={"fax": True}), line(3)]
        stored = [json.loads(str(client.get(f"line:{number(n)}"))) for n in (1, 2, 3)]
        assert [{k: v for k, v in each.items() if v != {}} for each in stored] == expected
        assert main(["line", "import", str(file), "--json"]) == 0
        assert json.loads(capfdbinary.readouterr().out)["unchanged"] == 3


def logged(client: redis.Redis, stream: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    entries: Any = client.xrange(stream)
    return [
        (fields["how"], fields["line"], fields["what"], json.loads(fields["to"]))
        for _, fields in entries
        if fields["who"] and json.loads(fields["from"]) == {}
    ]


def test_the_log_of_changes_has_an_import(server: RedisServer, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [line(1), line(2), line(3, fleet="globex"), line(4)])
    assert main(["line", "import", one]) == 0
    with server.client() as client:
        entry = {"file": one, "added": 4, "updated": 0, "deleted": 0}
        assert logged(client, "audit:") == [("cli", "", "import", {**entry, "fleets": 2})]
        assert logged(client, "audit:acme") == [("cli", "", "import", {**entry, "added": 3})]
        assert logged(client, "audit:globex") == [("cli", "", "import", {**entry, "added": 1})]
        # One changed, one moved to another fleet, one the same, one deleted.
        documents = [line(1, "two"), line(2), line(3)]
        two = write(tmp_path / "two.jsonl", documents)
        assert main(["line", "import", two, "--replace", "--check"]) == 0
        assert client.xlen("audit:") == 1
        assert main(["line", "import", two, "--replace"]) == 0
        entry = {"file": two, "added": 0, "updated": 2, "deleted": 1}
        assert logged(client, "audit:")[1:] == [("cli", "", "import", {**entry, "fleets": 2})]
        assert logged(client, "audit:acme")[1][3] == entry
        assert logged(client, "audit:globex")[1][3] == {**entry, "updated": 0}
        assert main(["line", "import", two]) == 0  # changes nothing
        assert client.xlen("audit:") == 2


def test_every_fault_is_reported_with_its_line_and_nothing_is_written(
    server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to_three = {"busy": {"on": True, "to": {"kind": "voicemail", "number": number(3)}}}
    to_nine = {"busy": {"on": True, "to": {"kind": "fax", "number": number(9)}}}
    documents: list[object] = [
        line(1),
        line(2, max_calls=0),
        [],
        line(3, forwards={}, fleet="globex"),
        line(4, forwards=to_three),
        line(5, forwards=to_nine),
        line(1),
        line(6, offer={"mobile": "hours"}),
    ]
    file = write(tmp_path / "lines.jsonl", documents)
    assert main(["line", "import", file]) == 2
    errors = capsys.readouterr().err.splitlines()
    places = [text.partition(", line ")[2].partition(":")[0] for text in errors[:-1]]
    assert places == ["2", "3", "7", "8", "5", "6"]
    assert "max_calls" in errors[0]
    assert "forwards.busy.to.number" in errors[4]
    assert errors[-1] == f"renvoi: {file}: 6 faults; nothing was written"
    with server.client() as client:
        assert client.dbsize() == 0
        client.set(f"line:{number(9)}", json.dumps(line(9, offer={"fax": True})))
    # Existing lines count as targets, unless the import deletes them.
    good = write(tmp_path / "good.jsonl", [line(5, forwards=to_nine)])
    assert main(["line", "import", good, "--replace"]) == 2
    assert main(["line", "import", good]) == 0


def test_many_faults_are_counted_and_some_shown(
    server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "lines.jsonl", [line(n, max_calls=0) for n in range(50)])
    assert main(["line", "import", file]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 21
    assert "50 faults, 30 of them not shown" in errors[-1]


def test_replace_deletes_what_is_not_in_the_file_and_add_does_not(
    server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server.client() as client:
        for n in range(5):
            client.set(f"line:{number(n)}", json.dumps(line(n)))
        client.zadd(f"reg:{number(0)}", {"sip:a@h": time.time() + 60})
        file = write(tmp_path / "lines.jsonl", [line(1, "two"), line(7)])
        assert main(["line", "import", file, "--check", "--replace"]) == 0
        assert "1 added, 1 updated, 0 unchanged, 4 deleted" in capsys.readouterr().out
        assert client.exists(f"line:{number(0)}")
        assert main(["line", "import", file]) == 0
        assert len(client.keys("line:*")) == 6
        assert main(["line", "import", file, "--replace"]) == 0
        assert sorted(client.keys("line:*")) == [f"line:{number(n)}" for n in (1, 7)]
        assert client.exists(f"reg:{number(0)}")  # a phone is not a line
        (tmp_path / "empty.jsonl").write_text("\n")
        assert main(["line", "import", str(tmp_path / "empty.jsonl"), "--replace"]) == 2
        assert len(client.keys("line:*")) == 2


def test_readers_see_all_old_or_all_new(server: RedisServer) -> None:
    count, seen, stop = 3000, set[frozenset[str]](), threading.Event()

    def watch() -> None:
        with server.client() as reader:
            keys = [f"line:{number(n)}" for n in range(0, count, 7)]
            while not stop.is_set():
                values: Any = reader.mget(keys)
                seen.add(frozenset(json.loads(raw)["label"] if raw else "-" for raw in values))

    with connect_blocking(server.url) as client:
        carry_out(client, [line(n, "old") for n in range(count)])
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for round_ in range(5):
                carry_out(client, [line(n, f"new{round_}") for n in range(count)])
        finally:
            stop.set()
            watcher.join()
    assert all(len(labels) == 1 for labels in seen), seen
    assert len(seen) > 1


def carry_out(client: redis.Redis, documents: Sequence[object], parts: int = 0) -> float:
    file = io.BytesIO("".join(json.dumps(each) + "\n" for each in documents).encode())
    with LineImport(client, FRANCE) as work:
        plan = work.check(file, "jsonl")
        assert not plan.fault_count, plan.faults
        return work.carry_out(parts)


def test_an_import_that_is_killed_while_it_sends_leaves_nothing(
    server: RedisServer, tmp_path: Path
) -> None:
    """SIGKILL after the first part was sent to Redis and before the switch."""
    file = write(tmp_path / "lines.jsonl", [line(n) for n in range(3000)])
    code = (
        "import os, signal, sys\n"
        "from engine.changes import import_step as bulk\n"
        "from engine.cli import main\n"
        "sent = bulk._grouped\n"
        "def some(*arguments):\n"
        "    for n, command in enumerate(sent(*arguments)):\n"
        "        if n == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield command\n"
        "bulk._grouped = some\n"
        f"main(['line', 'import', {file!r}])\n"
    )
    environment = {**os.environ, "RENVOI_REDIS_URL": server.url, "TMPDIR": str(tmp_path)}
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    with server.client() as client:
        assert client.dbsize() == 0  # no line, no entry in the log
        deadline = time.monotonic() + within(5)
        while client.info("clients")["connected_clients"] != 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert os.listdir(tmp_path) == ["lines.jsonl"]


def test_a_full_redis_refuses_all_of_it(server: RedisServer) -> None:
    with server.client() as client:
        client.set("line:" + number(1), json.dumps(line(1, "old")))
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 500_000)
        try:
            with (
                connect_blocking(server.url) as writer,
                pytest.raises(redis.OutOfMemoryError),
            ):
                carry_out(writer, [line(n, "n" * 100) for n in range(10_000)])
            assert labels(client) == {"old"}
        finally:
            client.config_set("maxmemory", 0)


def test_what_would_cut_off_a_replica_is_refused_and_goes_in_parts() -> None:
    with folder() as place:
        master = Node(place, "--client-output-buffer-limit", "replica 1mb 1mb 60")
        replica = Node(place, "--replicaof", f"127.0.0.1 {master.port}")
        try:
            master.start()
            replica.start()
            with master.client() as client:
                deadline = time.monotonic() + within(10)
                while client.info("replication")["connected_slaves"] != 1:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                url = f"redis://127.0.0.1:{master.port}"
                with connect_blocking(url) as writer:
                    documents = [line(n, "n" * 100) for n in range(8000)]
                    with pytest.raises(ImportRefused, match="--parts"):
                        carry_out(writer, documents)
                    assert client.dbsize() == 0
                    carry_out(writer, documents, parts=1000)
                assert len(client.keys("line:*")) == 8000
                assert client.info("replication")["connected_slaves"] == 1
        finally:
            replica.kill()
            master.kill()


async def test_an_engine_learns_of_a_large_import_at_once_and_forgets_instead_of_counting(
    server: RedisServer, stalls: Stalls
) -> None:
    import asyncio

    stalls.watch(server.pid)
    count = 5_000  # more than are processed one by one
    with connect_blocking(server.url) as writer:
        carry_out(writer, [line(n) for n in range(count)])
        async with store_on(connect(server.url), cache_lines=count) as store:
            known = [number(n) for n in range(0, count, 10)]
            await settled(store, *known)
            begun = time.monotonic()
            await asyncio.to_thread(carry_out, writer, [line(n, "two") for n in range(count)])
            written = time.monotonic()
            await labelled(store, known[-1], "two")
            assert time.monotonic() - written < 1.0 + stalls.total_s, written - begun
            for each in known[:50]:
                assert store.peek(each) is None
                await labelled(store, each, "two")
            await until(lambda: store.age_s() == 0)


def test_on_a_cluster_each_slot_is_switched_in_one_step(
    cluster: ClusterServers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RENVOI_REDIS_URL", cluster.url)
    to_box = {"busy": {"on": True, "to": {"kind": "voicemail", "number": number(0)}}}
    file = write(tmp_path / "lines.jsonl", [line(n, forwards=to_box) for n in range(1, 500)])
    with cluster.client() as client:
        client.set(f"line:{number(0)}", json.dumps(line(0)))
        client.set(f"line:{number(999)}", json.dumps(line(999)))
        assert main(["line", "import", file, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["added"] == 499
        assert main(["line", "export"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 501
        both = write(tmp_path / "two.jsonl", [line(n, "two") for n in range(500)])
        assert main(["line", "import", both, "--replace", "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert (summary["updated"], summary["deleted"]) == (500, 1)
        assert client.xlen("audit:") == client.xlen("audit:acme") == 2
        assert json.loads(client.get(f"line:{number(499)}"))["label"] == "two"
        assert not client.exists(f"line:{number(999)}")
