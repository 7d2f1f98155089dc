"""Records reach Redis once, through every kind of interruption."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from engine.records import writing_once as batches
from engine.records.record import FIELDS, Months, to_entry
from engine.records.recorder import (
    CallRecord,
    Entry,
    ForwardRecord,
    LegRecord,
    Recorder,
    read_entry,
)
from engine.records.spool import Spool, spool_of, spools_beyond
from tests.patience import Stalls, within
from tests.redis.servers import RedisServer, running_server
from tests.redis.stores import until

LINE = "+33972101001"
NOON = datetime(2026, 11, 10, 12, tzinfo=ZoneInfo("Europe/Paris")).timestamp()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


def call(
    number: int = 0, *, answered: float = NOON, seconds: int = 10, why: str = ""
) -> CallRecord:
    forward = ForwardRecord(LINE, "busy", "number", "+33612345678", "deducted", seconds)
    leg = LegRecord(
        "number", "+33612345678", "sip:x@h", 200, None, answered, None, answered, answered, "busy"
    )
    return CallRecord(
        id=f"call-{number}",
        call_id=f"{number}@peer",
        caller="+33140000000",
        called=LINE,
        received=answered - 2,
        rang=None,
        answered=answered,
        ended=answered + seconds,
        condition="busy",
        destination="number",
        target="+33612345678",
        outcome="answered",
        code=200,
        q850=None,
        why=why,
        seconds=seconds,
        payer=LINE,
        billing="deducted",
        forwards=[forward],
        legs=[leg],
    )


@asynccontextmanager
async def recorder(
    server: RedisServer,
    spool: Path,
    *,
    spill_after_s: float = 5.0,
    memory: int = 50_000,
    spool_bytes: int = 1 << 28,
    timezone: str = "Europe/Paris",
) -> AsyncIterator[Recorder]:
    redis = server.connect()
    made = Recorder(
        redis,
        timezone=timezone,
        worker="w0",
        spool=spool,
        spill_after_s=spill_after_s,
        memory=memory,
        spool_bytes=spool_bytes,
    )
    await made.start()
    try:
        yield made
    finally:
        await made.close()
        await redis.aclose()


def written(server: RedisServer) -> Counter[str]:
    with server.client() as client:
        return Counter(fields["id"] for _, fields in client.xrange("cdr"))


def usage(server: RedisServer, month: str = "2026-11") -> dict[str, str]:
    with server.client() as client:
        return dict(client.hgetall(f"usage:{LINE}:{month}"))


def expect(server: RedisServer, count: int) -> None:
    assert written(server) == Counter({f"call-{n}": 1 for n in range(count)})
    assert usage(server) == {"deducted": str(10 * count)}


# Entries


def test_an_entry_is_flat_text_and_reads_back() -> None:
    record = call()
    entry = dict(zip(FIELDS, to_entry(record, Months("UTC")).values, strict=True))
    assert entry["rang"] == ""
    assert entry["received"] == f"{NOON - 2:.3f}"
    assert read_entry(entry) == record
    with pytest.raises(ValueError, match="code"):
        read_entry(entry | {"code": "many"})
    for name in ("received", "ended", "answered"):
        for wrong in ("nan", "inf", "-1", "1e300"):
            with pytest.raises(ValueError, match=f"{name}: expected unix seconds"):
                read_entry(entry | {name: wrong})
    # Python 3.11 gives up before the end, later ones find that it is no list of legs.
    with pytest.raises(ValueError, match="cdr entry: "):
        read_entry(entry | {"legs": "[" * 5000 + "]" * 5000})


def test_bytes_that_are_no_text_are_escaped() -> None:
    entry = to_entry(call(why="caf\udce9"), Months("UTC"))
    assert entry.values[FIELDS.index("why")] == "caf\\udce9"


PARIS = ZoneInfo("Europe/Paris")
MIDNIGHT = datetime(2026, 12, 1, tzinfo=PARIS).timestamp()
MARCH = datetime(2026, 3, 1, tzinfo=PARIS).timestamp()
OCTOBER = datetime(2026, 10, 1, tzinfo=PARIS).timestamp()


@pytest.mark.parametrize(
    ("zone", "start", "seconds", "shares"),
    [
        ("Europe/Paris", MIDNIGHT - 30, 30, [("2026-11", 30)]),
        ("Europe/Paris", MIDNIGHT - 30, 100, [("2026-11", 30), ("2026-12", 70)]),
        ("Europe/Paris", MIDNIGHT - 30.4, 100, [("2026-11", 30), ("2026-12", 70)]),
        ("Europe/Paris", MIDNIGHT - 0.4, 2, [("2026-12", 2)]),
        ("Europe/Paris", MIDNIGHT, 1, [("2026-12", 1)]),
        ("UTC", MIDNIGHT - 30, 100, [("2026-11", 100)]),  # 23:00 in UTC
        (
            "Europe/Paris",
            MIDNIGHT + 30 * 86400,
            86400 * 2,
            [("2026-12", 86400), ("2027-01", 86400)],
        ),
        ("Europe/Paris", MIDNIGHT, 0, []),
        # March has an hour less and October an hour more: 31 calendar days, not 31 x 86,400 s.
        ("Europe/Paris", MARCH - 10, 40, [("2026-02", 10), ("2026-03", 30)]),
        (
            "Europe/Paris",
            MARCH,
            32 * 86400,
            [("2026-03", 31 * 86400 - 3600), ("2026-04", 86400 + 3600)],
        ),
        (
            "Europe/Paris",
            OCTOBER,
            31 * 86400 + 3601,
            [("2026-10", 31 * 86400 + 3600), ("2026-11", 1)],
        ),
    ],
)
def test_months_share_the_seconds(
    zone: str, start: float, seconds: int, shares: list[tuple[str, int]]
) -> None:
    months = Months(zone)
    months.split(NOON, 5)
    assert months.split(start, seconds) == shares


# The writer


async def test_a_first_record_is_written_at_once(
    server: RedisServer, tmp_path: Path, stalls: Stalls
) -> None:
    stalls.watch(server.pid)
    async with recorder(server, tmp_path / "spool") as made:
        made.add(call(0))
        begin = time.monotonic()
        await until(lambda: made.backlog == 0)
        assert time.monotonic() - begin < 0.5 + stalls.total_s
        expect(server, 1)


async def test_many_records_and_a_close_without_waiting(
    server: RedisServer, tmp_path: Path
) -> None:
    async with recorder(server, tmp_path / "spool") as made:
        for n in range(1001):
            made.add(call(n))
    expect(server, 1001)
    assert made.lost == 0
    with server.client() as client:
        assert client.ttl(client.keys("{cdr}:done:*")[0]) > 86400


async def test_a_call_across_the_month_counts_in_both(server: RedisServer, tmp_path: Path) -> None:
    async with recorder(server, tmp_path / "spool") as made:
        made.add(call(0, answered=MIDNIGHT - 4, seconds=10))
    assert usage(server) == {"deducted": "4"}
    assert usage(server, "2026-12") == {"deducted": "6"}


async def test_the_stream_is_capped(server: RedisServer, tmp_path: Path) -> None:
    redis = server.connect()
    made = Recorder(redis, timezone="UTC", worker="w", spool=tmp_path / "s", maxlen=300)
    await made.start()
    for n in range(3000):
        made.add(call(n))
    await made.close()
    assert await redis.xlen("cdr") < 600
    await redis.aclose()


async def test_a_usage_key_of_a_wrong_type_stops_nothing(
    server: RedisServer, tmp_path: Path
) -> None:
    with server.client() as client:
        client.set(f"usage:{LINE}:2026-11", "garbage")
    async with recorder(server, tmp_path / "spool") as made:
        made.add(call(0))
        made.add(call(1))
    assert written(server) == Counter({"call-0": 1, "call-1": 1})


async def test_a_stream_of_a_wrong_type_keeps_the_records(
    server: RedisServer, tmp_path: Path
) -> None:
    with server.client() as client:
        client.set("cdr", "garbage")
        async with recorder(server, tmp_path / "spool") as made:
            made.add(call(0))
            await asyncio.sleep(0.3)
            assert made.backlog == 1
            assert usage(server) == {}
            client.delete("cdr")
            await until(lambda: made.backlog == 0)
        expect(server, 1)


async def test_a_record_that_cannot_be_written_spoils_no_other(
    server: RedisServer, tmp_path: Path
) -> None:
    broken = call(7)
    broken.received = None  # type: ignore[assignment]
    async with recorder(server, tmp_path / "spool") as made:
        made.add(broken)
        made.add(call(0))
    expect(server, 1)
    assert made.lost == 1


# Twice is once


async def test_a_batch_sent_twice_is_written_once(server: RedisServer) -> None:
    redis = server.connect()
    months = Months("Europe/Paris")
    sent = [batches.Batch(1, list(FIELDS), [to_entry(call(n), months)]) for n in range(3)]
    for each in [*sent, sent[2], sent[0], *sent]:
        await batches.write(redis, each, 1000)
    await redis.aclose()
    expect(server, 3)


async def test_a_reply_lost_while_redis_is_paused(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.records.recorder._REPLY_S", 0.2)
    async with recorder(server, tmp_path / "spool") as made:
        made.add(call(0))
        await until(lambda: made.backlog == 0)
        server.pause()
        for n in range(1, 500):
            made.add(call(n))
        await asyncio.sleep(1.2)  # several attempts are now buffered in the sockets of the server
        assert made.backlog == 499
        server.resume()
        await until(lambda: made.backlog == 0)
        await asyncio.sleep(0.2)
        expect(server, 500)


async def test_a_close_while_redis_is_paused_and_a_replay(
    server: RedisServer, tmp_path: Path, stalls: Stalls
) -> None:
    async with recorder(server, tmp_path / "spool") as made:
        made.add(call(0))
        # Written and checked: the next command to Redis is the next batch.
        await until(lambda: made.backlog == 0 and not made._wake.is_set())
        server.pause()
        for n in range(1, 500):
            made.add(call(n))
        await asyncio.sleep(0.1)
        begin = time.monotonic()
        await made.close(0.5)
        assert time.monotonic() - begin < 2 + stalls.total_s
    server.resume()
    await until(lambda: len(written(server)) == 201)  # the batch under way arrived after all
    async with recorder(server, tmp_path / "spool") as again:
        await until(lambda: again.backlog == 0)
    expect(server, 500)
    assert made.lost == again.lost == 0


async def test_a_writer_cancelled_from_outside_loses_nothing(
    server: RedisServer, tmp_path: Path
) -> None:
    async with recorder(server, tmp_path / "spool") as made:
        for n in range(450):
            made.add(call(n))
        await asyncio.sleep(0.001)
        assert made._task is not None
        made._task.cancel()
    async with recorder(server, tmp_path / "spool") as again:
        await until(lambda: again.backlog == 0)
    expect(server, 450)


def _replay_and_die(socket: str, spool: Path) -> None:
    """A worker that replays its spool and is killed after a write, before the reply."""
    from redis.asyncio import Redis

    writes = 0

    async def replay() -> None:
        class Deaf(Redis):
            async def execute_command(self, *args: object, **options: object) -> object:
                nonlocal writes
                reply = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
                writes += 1
                if writes == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                return reply

        redis = Deaf(unix_socket_path=socket)
        made = Recorder(redis, timezone="Europe/Paris", worker="w0", spool=spool)
        await made.start()
        await asyncio.sleep(within(20))  # it ends before

    asyncio.run(replay())


async def test_a_process_killed_between_write_and_reply(
    server: RedisServer, tmp_path: Path
) -> None:
    server.kill()
    async with recorder(server, tmp_path / "spool") as made:
        for n in range(1000):
            made.add(call(n))
        await asyncio.sleep(0.1)
    server.start()
    context = multiprocessing.get_context("spawn")
    victim = context.Process(target=_replay_and_die, args=(str(server.socket), tmp_path / "spool"))
    victim.start()
    await asyncio.to_thread(victim.join, within(12))
    assert victim.exitcode == -signal.SIGKILL
    assert 0 < len(written(server)) < 1000
    async with recorder(server, tmp_path / "spool") as again:
        assert again.backlog == 1000
        await until(lambda: again.backlog == 0)
    expect(server, 1000)


# Redis away


async def test_redis_killed_and_restarted(server: RedisServer, tmp_path: Path) -> None:
    async with recorder(server, tmp_path / "spool") as made:
        made.add(call(99))
        await until(lambda: made.backlog == 0)
        server.kill()
        for n in range(300):
            made.add(call(n))
            await asyncio.sleep(0.001)
        assert made.backlog == 300
        server.start()  # empty, and without the script
        await until(lambda: made.backlog == 0)
        expect(server, 300)
        assert made.lost == 0


async def test_memory_full_goes_to_disk_and_comes_back(server: RedisServer, tmp_path: Path) -> None:
    server.kill()
    async with recorder(server, tmp_path / "spool", memory=1000) as made:
        for n in range(2500):
            made.add(call(n))
            if n % 10 == 0:
                await asyncio.sleep(0.01)
        assert made.backlog == 2500
        assert (tmp_path / "spool").stat().st_size > 100_000
        server.start()
        made.add(call(2500))
        await until(lambda: made.backlog == 0)
        made.add(call(2501))
        await until(lambda: made.backlog == 0)
        expect(server, 2502)
        assert made.lost == 0
        assert (tmp_path / "spool").stat().st_size == 0


async def test_a_disk_that_is_slow_to_empty_the_spool_delays_nobody(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis fails again, and the writer is closed, while the disk is still busy."""
    monkeypatch.setattr("engine.records.recorder._REPLY_S", 0.5)
    emptying, on_disk = threading.Event(), threading.Event()
    truncate, threads = os.ftruncate, []

    def slow(fd: int, size: int) -> None:
        threads.append(threading.current_thread())
        emptying.set()
        on_disk.wait(within(10))
        truncate(fd, size)

    server.kill()
    async with recorder(server, tmp_path / "spool", spill_after_s=0.1) as made:
        made.add(call(0))
        await until(lambda: (tmp_path / "spool").stat().st_size > 0)
        monkeypatch.setattr(os, "ftruncate", slow)
        server.start()
        await until(emptying.is_set)
        assert threading.main_thread() not in threads
        server.pause()
        made.add(call(1))
        threading.Timer(0.5, on_disk.set).start()
        await made.close(deadline_s=0.1)
    monkeypatch.undo()
    assert (tmp_path / "spool").stat().st_size > 0
    server.resume()
    async with recorder(server, tmp_path / "spool") as again:
        await until(lambda: again.backlog == 0)
    expect(server, 2)
    assert made.lost == again.lost == 0


async def test_records_that_waited_long_move_to_disk(server: RedisServer, tmp_path: Path) -> None:
    server.kill()
    async with recorder(server, tmp_path / "spool", spill_after_s=0.2) as made:
        made.add(call(0))
        await until(lambda: (tmp_path / "spool").stat().st_size > 0)
        made.add(call(1))
        server.start()
        await until(lambda: made.backlog == 0)
        expect(server, 2)


async def test_records_are_lost_only_when_memory_and_disk_are_full(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.records.recorder._REPLY_S", 0.1)
    server.kill()
    async with recorder(server, tmp_path / "spool", memory=300, spool_bytes=300_000) as made:
        made.add(call(0))
        await until(lambda: made._away_since is not None)
        added = 1
        while made.lost < 50:
            for _ in range(50):
                made.add(call(added))
                added += 1
            await asyncio.sleep(0.05)
        kept = added - made.lost
        assert made.backlog == kept
        size = (tmp_path / "spool").stat().st_size
        assert 100_000 < size <= 300_000
        server.start()
        await until(lambda: made.backlog == 0)
        found = written(server)
        assert len(found) == kept
        assert set(found.values()) == {1}


async def test_without_a_spool_memory_still_serves(server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with recorder(server, tmp_path / "file" / "spool") as made:
        made.add(call(0))
    expect(server, 1)


# The spool


def lines(spool: Spool) -> list[bytes]:
    found = []
    while (line := spool.head()) is not None:
        found.append(line)
        spool.drop_head()
    return found


def opened(path: Path, limit_bytes: int = 1000) -> Spool:
    spool = Spool(path, limit_bytes=limit_bytes, size_of=lambda line: 1)
    spool.open()
    return spool


def test_half_a_line_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"one\ntwo\nthr")
    spool = opened(tmp_path / "s")
    assert spool.append(b"four", 1)
    assert lines(spool) == [b"one", b"two", b"four"]
    spool.close()


def test_a_full_spool_refuses_and_empties(tmp_path: Path) -> None:
    spool = opened(tmp_path / "s", 10)
    assert spool.append(b"12345678", 1)
    assert not spool.append(b"12", 1)
    assert spool.full
    assert lines(spool) == [b"12345678"]
    assert spool.append(b"12", 1)
    spool.close()


def test_a_line_that_cannot_be_set_aside_stays_and_those_after_it_are_whole(tmp_path: Path) -> None:
    """The disk is full, or the file cannot be written."""
    (tmp_path / "s.bad").mkdir()
    spool = opened(tmp_path / "s")
    assert spool.append(b"garbage", 1)
    assert spool.append(b"one", 1)
    with pytest.raises(OSError, match="directory"):
        spool.drop_head(aside=True)
    assert spool.head() == b"garbage"
    (tmp_path / "s.bad").rmdir()
    spool.drop_head(aside=True)
    assert (tmp_path / "s.bad").read_bytes() == b"garbage\n"
    assert lines(spool) == [b"one"]
    spool.close()


def test_two_processes_keep_apart_and_the_next_takes_over(tmp_path: Path) -> None:
    old, new = opened(tmp_path / "s"), opened(tmp_path / "s")
    assert new.path.name == "s.1"
    old.append(b"old", 1)
    new.append(b"new", 1)
    old.close()
    new.close()
    last = opened(tmp_path / "s")
    assert lines(last) == [b"old", b"new"]
    last.close()


def test_workers_that_are_no_more_leave_theirs_to_the_others(tmp_path: Path) -> None:
    """An engine that had four workers starts again with two."""
    for name in ("cdr-1.spool", "cdr-2.spool", "cdr-3.spool.1", "cdr-10.spool", "cdr-2.spool.bad"):
        (tmp_path / name).write_bytes(name.encode() + b"\n")
    others = spools_beyond(tmp_path, 2)
    assert [path.name for path in others] == ["cdr-10.spool", "cdr-2.spool", "cdr-3.spool.1"]
    in_use = opened(tmp_path / "cdr-10.spool")  # by a process that still ends
    path = spool_of(tmp_path, 0)
    taker = Spool(path, limit_bytes=1000, size_of=lambda line: 1, others=others)
    taker.open()
    assert lines(taker) == [b"cdr-2.spool", b"cdr-3.spool.1"]
    assert lines(in_use) == [b"cdr-10.spool"]
    again = opened(tmp_path / "cdr-2.spool")
    assert len(again) == 0
    for spool in (taker, in_use, again):
        spool.close()
    assert spools_beyond(tmp_path / "missing", 2) == []


async def test_lines_nobody_can_read_are_set_aside(server: RedisServer, tmp_path: Path) -> None:
    good = batches.Batch(1, list(FIELDS), [to_entry(call(0), Months("UTC"))]).to_line()
    older = batches.Batch(1, ["id", "old"], [Entry(["call-x", "1"], [])]).to_line()
    narrow = batches.Batch(1, ["id", "old"], [Entry(["call-y"], [])]).to_line()
    (tmp_path / "s").write_bytes(b"garbage\n" + good + b"\n" + older + b"\n" + narrow + b"\n")
    async with recorder(server, tmp_path / "s") as made:
        await until(lambda: set(written(server)) == {"call-0", "call-x"})
        await until(lambda: made.backlog == 0)
    assert (tmp_path / "s.bad").read_bytes() == b"garbage\n" + narrow + b"\n"


# Twice is once, by id


async def test_two_writers_of_one_call_make_one_record(server: RedisServer, tmp_path: Path) -> None:
    """A supervisor writes a record that a killed worker had already written: the first is kept."""
    async with recorder(server, tmp_path / "a") as worker:
        worker.add(call(0))
        worker.add(call(2))
    async with recorder(server, tmp_path / "b") as supervisor:
        for n in range(4):
            supervisor.add(call(n, seconds=10, why="worker_died"))
    with server.client() as client:
        found = {fields["id"]: fields["why"] for _, fields in client.xrange("cdr")}
    assert found["call-0"] == found["call-2"] == ""
    assert found["call-1"] == found["call-3"] == "worker_died"
    expect(server, 4)


async def test_ids_of_any_form_are_written_once(server: RedisServer, tmp_path: Path) -> None:
    ids = ["a", "-1", "0-5f2c-17", "0-5f2c-65553", "0-5f2c-1-x", "w-99999999999999999999", "é-3"]
    for _ in range(2):
        async with recorder(server, tmp_path / "s") as made:
            for each in ids:
                made.add(replace(call(0), id=each))
    assert written(server) == Counter(ids)


async def test_safe_is_reported_for_redis_and_for_disk(server: RedisServer, tmp_path: Path) -> None:
    safe: list[str] = []
    async with recorder(server, tmp_path / "s", spill_after_s=0.1) as made:
        made.on_safe = safe.extend
        made.add(call(0))
        await until(lambda: safe == ["call-0"])
        server.kill()
        made.add(call(1))
        await until(lambda: safe == ["call-0", "call-1"])
        assert (tmp_path / "s").stat().st_size > 0


async def test_what_redis_lost_is_written_again_even_when_nothing_follows(
    server: RedisServer, tmp_path: Path
) -> None:
    """As after a fail-over to a replica that lagged behind: the newest records are missing."""
    async with recorder(server, tmp_path / "s") as made:
        for n in range(450):
            made.add(call(n))
        await until(lambda: made.backlog == 0)
        with server.client() as client:
            client.flushall()
        await until(lambda: len(written(server)) == 450)
        await until(lambda: made.backlog == 0)
        expect(server, 450)


async def test_an_older_version_s_spool_is_replayed(server: RedisServer, tmp_path: Path) -> None:
    entry = to_entry(call(0), Months("UTC"))
    known = list(FIELDS[:20])
    older = batches.Batch(1, known, [Entry(entry.values[:20], entry.usage, entry.day)])
    (tmp_path / "s").write_bytes(older.to_line() + b"\n")
    async with recorder(server, tmp_path / "s") as made:
        await until(lambda: made.backlog == 0)
    expect(server, 1)


# Plans


async def test_what_is_beyond_the_plan_is_out_of_plan(server: RedisServer, tmp_path: Path) -> None:
    """A plan of 25 s: calls of 10 s use it up in the middle of the third."""
    async with recorder(server, tmp_path / "s") as made:
        for n in range(4):
            planned = call(n)
            planned.forwards[0].plan_s = 25
            planned.forwards[0].fleet = "acme"
            made.add(planned)
    assert usage(server) == {"deducted": "25", "out_of_plan": "15"}
    with server.client() as client:
        assert client.hgetall("usage:fleet:acme:2026-11") == usage(server)
        beyond = [fields["out_of_plan_s"] for _, fields in client.xrange("cdr")]
    assert beyond == ["0", "0", "5", "10"]


async def test_a_plan_is_used_up_exactly_by_many_writers_at_once(
    server: RedisServer, tmp_path: Path
) -> None:
    async def write(worker: int) -> None:
        async with recorder(server, tmp_path / f"s{worker}") as made:
            for n in range(100):
                planned = call(1000 * worker + n, seconds=7)
                planned.forwards[0].plan_s = 1000
                made.add(planned)
                if n % 9 == 0:
                    await asyncio.sleep(0)

    await asyncio.gather(*map(write, range(4)))
    assert usage(server) == {"deducted": "1000", "out_of_plan": str(4 * 700 - 1000)}
    with server.client() as client:
        assert sum(int(f["out_of_plan_s"]) for _, f in client.xrange("cdr")) == 4 * 700 - 1000


async def test_a_month_s_end_gives_each_month_its_own_plan(
    server: RedisServer, tmp_path: Path
) -> None:
    planned = call(0, answered=MIDNIGHT - 6, seconds=10)
    planned.forwards[0].plan_s = 5
    async with recorder(server, tmp_path / "s") as made:
        made.add(planned)
    assert usage(server) == {"deducted": "5", "out_of_plan": "1"}
    assert usage(server, "2026-12") == {"deducted": "4"}


async def test_an_error_of_ours_does_not_end_the_writer(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one while records go to the disk because Redis is away."""
    monkeypatch.setattr("store.background_tasks._PAUSE_S", 0.0)
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )
    async with recorder(server, tmp_path / "spool", spill_after_s=0) as made:
        whole, broken = made._form, [KeyError("writing"), KeyError("spilling")]

        def form(entries: Iterable[Entry]) -> batches.Batch:
            if broken:
                raise broken.pop(0)
            return whole(entries)

        monkeypatch.setattr(made, "_form", form)
        made.add(call())
        await until(lambda: written(server) == Counter({"call-0": 1}))
    assert [str(error) for error in reported] == ["'spilling'"]
    expect(server, 1)
