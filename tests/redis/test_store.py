"""The store on a real Redis: which rules are in force, kept or never used."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis
import uvloop

from rules.model import Condition, DocumentError
from rules.numbers import Numbering
from store.cache import Span
from store.connection import Command
from store.lines import Entry, Store, Unavailable
from tests.month import this_month
from tests.patience import Stalls, within
from tests.redis.stores import until

if TYPE_CHECKING:
    from tests.redis.conftest import DurableServer

FRANCE = Numbering("FR")
LINE, PEER, NEW, GHOST = (f"+3397210100{n}" for n in (1, 2, 3, 9))


def document(number: str = LINE, **fields: Any) -> str:
    return json.dumps({"number": number, "fleet": "acme"} | fields)


@pytest.fixture
def other(durable: DurableServer) -> Iterator[redis.Redis]:
    """Another program that reads and writes."""
    with durable.client() as client:
        client.set(f"line:{LINE}", document(label="one"))
        yield client


@asynccontextmanager
async def running(
    server: DurableServer, cache_lines: int = 1000, stale_max_s: float = 3600
) -> AsyncIterator[Store]:
    client = server.connect()
    store = Store(
        client,
        numbering=FRANCE,
        cache_lines=cache_lines,
        stale_max_s=stale_max_s,
        timezone="Europe/Paris",
        canary="test-1",
    )
    try:
        await store.start()
        yield store
    finally:
        await store.close()
        await client.aclose()


def label(entry: Entry | None) -> str | None:
    return entry.line.label if entry is not None and entry.line is not None else None


async def labelled(store: Store, expected: str, number: str = LINE, limit_s: float = 1.0) -> float:
    """Wait until the rules in force are the expected ones; the seconds it took."""
    start = time.monotonic()
    while label(store.peek(number) or await store.look_up(number)) != expected:
        assert time.monotonic() - start < within(limit_s), f"{expected} is not in force"
        await asyncio.sleep(0.002)
    return time.monotonic() - start


def kill_stream(client: redis.Redis) -> None:
    client.client_kill_filter(_type="pubsub")


async def settled(store: Store, number: str = LINE) -> Entry:
    """Look a number up until it is current in memory."""
    await until(lambda: store.redis_up and store.age_s() == 0)
    deadline = time.monotonic() + within(5)
    while True:
        with suppress(Unavailable):  # on a busy machine Redis may take too long
            entry = await store.look_up(number)
            if store.peek(number) is entry:
                return entry
        assert time.monotonic() < deadline, "never current"
        await asyncio.sleep(0.002)


# -- what is read ------------------------------------------------------------------------------


async def test_a_number_that_is_only_checked_is_not_cached(
    durable: DurableServer, other: redis.Redis
) -> None:
    found: dict[str, bool] = {}
    async with running(durable) as store:
        for number in (LINE, GHOST):
            store.ask_if_line(number, partial(found.__setitem__, number))
        await until(lambda: len(found) == 2)
        assert found == {LINE: True, GHOST: False}
        assert store.peek(LINE) is store.peek(GHOST) is None
        durable.kill()
        await until(lambda: not store.redis_up)
        store.ask_if_line(PEER, partial(found.__setitem__, PEER))
    assert PEER not in found


async def test_a_line_is_read_once_and_then_known(
    durable: DurableServer, other: redis.Redis
) -> None:
    other.zadd(f"reg:{LINE}", {"sip:a@10.0.0.1": time.time() + 60, "sip:b@10.0.0.1": 1.0})
    async with running(durable) as store:
        assert store.redis_up
        assert store.peek(LINE) is None
        entry = await store.look_up(LINE)
        assert label(entry) == "one"
        assert [c.uri for c in entry.contacts] == ["sip:a@10.0.0.1"]
        assert store.peek(LINE) is entry
        reads = other.info("commandstats")["cmdstat_get"]["calls"]
        for _ in range(100):
            assert await store.look_up(LINE) is entry
        assert other.info("commandstats")["cmdstat_get"]["calls"] == reads


@pytest.mark.usefixtures("patient")
async def test_look_ups_of_one_moment_share_one_read(
    durable: DurableServer, other: redis.Redis
) -> None:
    numbers = [f"+331234560{n:02}" for n in range(50)]
    for number in numbers:
        other.set(f"line:{number}", document(number))
    async with running(durable) as store:
        before = other.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"]
        entries = await asyncio.gather(*(store.look_up(n) for n in numbers * 3))
        assert [e.line.number for e in entries if e.line] == numbers * 3
        assert other.info("commandstats")["cmdstat_get"]["calls"] == before + len(numbers)


@pytest.mark.usefixtures("patient")
async def test_an_unknown_number_is_remembered_and_appears_when_written(
    durable: DurableServer, other: redis.Redis, stalls: Stalls
) -> None:
    async with running(durable) as store:
        stalls.watch(durable.pid)
        assert (await settled(store, NEW)).line is None
        assert store.peek(NEW) is not None
        other.set(f"line:{NEW}", document(NEW, label="new"))
        assert await labelled(store, "new", NEW) < 0.5 + stalls.total_s
        other.delete(f"line:{NEW}")
        await until(lambda: store.peek(NEW) is None, 1)
        assert (await store.look_up(NEW)).line is None


async def test_memory_is_bounded(durable: DurableServer, other: redis.Redis) -> None:
    async with running(durable, cache_lines=10) as store:
        for n in range(100):
            number = f"+331234560{n:02}"
            other.set(f"line:{number}", document(number))
            await store.look_up(number)
            await store.look_up(f"+339234560{n:02}")
        assert len(store._cache) <= 10 + 16


@pytest.mark.usefixtures("patient")
async def test_targets_are_the_lines_that_forwards_name(
    durable: DurableServer, other: redis.Redis
) -> None:
    forwards = {
        "busy": {"on": True, "to": {"kind": "number", "number": PEER}},
        "no_answer": {"on": True, "to": {"kind": "number", "number": "0612345678"}},
        "unreachable": {"on": True, "to": {"kind": "voicemail"}},
    }
    other.set(f"line:{LINE}", document(forwards=forwards))
    other.set(f"line:{PEER}", document(PEER))
    async with running(durable) as store:
        entry = await settled(store)
        assert store.targets(entry) is None
        loaded = await store.load_targets(entry)
        assert {n: line and line.number for n, line in loaded.items()} == {
            PEER: PEER,
            "+33612345678": None,
        }
        assert store.targets(entry) == loaded
        other.set(f"line:{PEER}", document(PEER, fleet="globex"))
        await until(lambda: store.targets(entry) is None, 1)
        moved = (await store.load_targets(entry))[PEER]
        assert moved is not None
        assert moved.fleet == "globex"
        assert store.targets(await store.look_up(GHOST)) == {}


@pytest.mark.usefixtures("patient")
async def test_plan_use_is_read_for_lines_with_hours_and_follows_its_key(
    durable: DurableServer, other: redis.Redis
) -> None:
    month = this_month()
    hours = {"mobile": "hours", "mobile_hours": 2}
    other.set(f"line:{LINE}", document(offer=hours))
    other.set(f"line:{PEER}", document(PEER))
    other.hset(f"usage:{LINE}:{month}", "deducted", "600")
    other.hset(f"usage:{LINE}:2001-01", "deducted", "999")
    other.hset(f"usage:{PEER}:{month}", "deducted", "600")
    async with running(durable) as store:
        entry = await settled(store)
        assert (entry.plan_used_s, entry.plan_left_s()) == (600, 6600)
        peer = await settled(store, PEER)
        assert (peer.plan_used_s, peer.plan_left_s()) == (0, None)
        other.hincrby(f"usage:{LINE}:{month}", "deducted", 60)
        other.hincrby(f"usage:{PEER}:{month}", "standard", 60)
        await until(lambda: store.peek(LINE) is None, 1)
        assert (await store.look_up(LINE)).plan_used_s == 660
        assert store.peek(PEER) is peer


async def test_the_latest_serves_those_who_cannot_wait_and_is_read_again(
    durable: DurableServer, other: redis.Redis
) -> None:
    async with running(durable, stale_max_s=0) as store:
        assert store.latest(LINE) is None
        entry = await settled(store)
        other.zadd(f"reg:{LINE}", {"sip:phone@192.0.2.1": time.time() + 600})
        await until(lambda: store.recall(LINE) == (None, False), 1)
        assert store.latest(LINE) is entry
        await until(lambda: store.recall(LINE)[1], 1)
        latest = store.latest(LINE)
        assert latest is not None
        assert len(latest.contacts) == 1


async def test_a_changed_line_that_is_read_at_once_is_current_then(
    durable: DurableServer, other: redis.Redis
) -> None:
    """As `MaxCalls` does for a line with calls. A read from before the change does not count."""
    async with running(durable) as store:
        await settled(store)

        def on_line(number: str | None) -> None:
            if number is not None:
                store.latest(number)

        store.on_line = on_line
        before = store._read(LINE)
        before.waiting += 1  # it has no answers yet
        other.set(f"line:{LINE}", document(label="two"))
        await until(lambda: store.recall(LINE)[1] and label(store.recall(LINE)[0]) == "two", 1)
        assert before.overtaken


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
async def test_a_refused_line_is_reported_until_it_is_repaired_without_a_call(
    durable: DurableServer, other: redis.Redis
) -> None:
    async with running(durable) as store:
        for repair in (
            lambda: other.set(f"line:{LINE}", document(label="two")),
            lambda: other.delete(f"line:{LINE}"),
            other.flushall,
        ):
            other.set(f"line:{LINE}", document(max_calls=0))
            await until(lambda: store.peek(LINE) is None, 1)
            await store.look_up(LINE)
            assert store.bad_lines == {LINE}
            repair()
            await until(lambda: not store.bad_lines, 1)
        other.set(f"line:{LINE}", document(max_calls=0))
        await until(lambda: store.peek(LINE) is None, 1)
        await store.look_up(LINE)
        durable.kill()
        await until(lambda: not store.redis_up)
        durable.start()
        other.set(f"line:{LINE}", document(label="three"))
        await until(lambda: not store.bad_lines)


async def test_targets_that_are_refused_in_a_profile_are_reported(
    durable: DurableServer, other: redis.Redis
) -> None:
    told: list[tuple[str, ...]] = []
    to = {"on": True, "to": {"kind": "number", "number": "+4990012345670"}}
    profiles = {"a": {"forwards": {"busy": to}}, "unused": {"forwards": {"unconditional": to}}}
    async with running(durable) as store:
        store.on_refused_target = lambda *given: told.append(given)
        other.set(f"line:{NEW}", document(NEW, profiles=profiles, profile="a"))
        await settled(store, NEW)
    assert told == [(NEW, "busy", "+4990012345670", "premium")]


@pytest.mark.usefixtures("patient")
async def test_a_bad_document_is_counted_once_and_the_last_good_one_serves(
    durable: DurableServer, other: redis.Redis
) -> None:
    async with running(durable) as store:
        met: list[tuple[str, DocumentError]] = []
        store.on_refused = lambda key, error: met.append((key, error))
        await settled(store)
        other.set(f"line:{LINE}", document(max_calls=0))
        await until(lambda: store.peek(LINE) is None, 1)
        entry = await store.look_up(LINE)
        assert label(entry) == "one"
        assert entry.refused is not None
        assert entry.refused.field == "max_calls"
        other.zadd(f"reg:{LINE}", {"sip:a@10.0.0.1": time.time() + 60})
        await until(lambda: store.peek(LINE) is None, 1)
        entry = await store.look_up(LINE)
        assert (label(entry), len(entry.contacts)) == ("one", 1)
        assert store.refused == {"line": 1, "reg": 0}
        assert [(key, error.field) for key, error in met] == [(f"line:{LINE}", "max_calls")]
        other.set(f"line:{LINE}", document(label="two"))
        await labelled(store, "two")
        assert (await store.look_up(LINE)).refused is None


@pytest.mark.parametrize("raw", [b"{", b"\xff\x00", b"[]", b"{}", b'{"number":1}'])
async def test_a_line_that_never_had_a_good_document(
    durable: DurableServer, other: redis.Redis, raw: bytes
) -> None:
    other.set(f"line:{NEW}", raw)
    async with running(durable) as store:
        entry = await settled(store, NEW)
        assert entry.line is None
        assert entry.refused is not None
        assert store.refused["line"] == 1


async def test_keys_of_the_wrong_type_and_bad_contacts(
    durable: DurableServer, other: redis.Redis
) -> None:
    other.hset(f"line:{NEW}", "a", "b")
    other.set(f"reg:{LINE}", "text")
    later = time.time() + 60
    other.set(f"line:{PEER}", document(PEER))
    members = {"sip:ok@10.0.0.1": later, "sip:x@h?a=b": later, "sip:x@h\r\nEvil: 1": later}
    other.zadd(f"reg:{PEER}", members)
    async with running(durable) as store:
        wrong = await store.look_up(NEW)
        assert wrong.line is None
        assert wrong.refused is not None
        assert store.redis_up
        assert label(await store.look_up(LINE)) == "one"
        assert [c.uri for c in (await store.look_up(PEER)).contacts] == ["sip:ok@10.0.0.1"]
        assert store.refused == {"line": 1, "reg": 3}


# -- changes -----------------------------------------------------------------------------------


async def test_a_change_by_another_program_is_in_force_well_within_a_second(
    durable: DurableServer, other: redis.Redis, stalls: Stalls
) -> None:
    async with running(durable) as store:
        stalls.watch(durable.pid)
        await settled(store)
        took = []
        for n in range(30):
            other.set(f"line:{LINE}", document(label=f"n{n}"))
            took.append(await labelled(store, f"n{n}"))
        assert max(took) < 0.5 + stalls.total_s
        await until(lambda: 0 < store.invalidation_lag_s < 0.5, 3)


@pytest.mark.usefixtures("patient")
async def test_a_registration_is_in_force_at_once_and_expires_by_itself(
    durable: DurableServer, other: redis.Redis
) -> None:
    async with running(durable) as store:
        await settled(store)
        expiry = time.time() + 60
        other.zadd(f"reg:{LINE}", {"sip:a@10.0.0.1": expiry})
        await until(lambda: store.peek(LINE) is None, 1)
        entry = await store.look_up(LINE)
        assert len(entry.live_contacts(expiry - 1)) == 1
        assert entry.live_contacts(expiry) == ()


@pytest.mark.usefixtures("patient")
async def test_flushall_forgets_everything(durable: DurableServer, other: redis.Redis) -> None:
    async with running(durable) as store:
        await settled(store)
        other.flushall()
        await until(lambda: store.peek(LINE) is None, 1)
        assert (await store.look_up(LINE)).line is None


class Gate:
    """Delays the result of a read after Redis has answered it, until it is released."""

    def __init__(self, store: Store) -> None:
        self.answered = asyncio.Event()
        self.open = asyncio.Event()
        (shard,) = store._layout.shards
        self._ask = shard._ask
        shard._ask = self._held  # type: ignore[method-assign]

    async def _held(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._ask(commands)
        if any(command[0] == "GET" for command in commands):
            self.answered.set()
            await self.open.wait()
        return replies


def span_of(store: Store) -> Span | None:
    (shard,) = store._layout.shards
    return shard.span


@pytest.mark.usefixtures("patient")
async def test_a_read_that_a_change_overtakes_is_never_taken_for_current(
    durable: DurableServer, other: redis.Redis
) -> None:
    async with running(durable) as store:
        await until(lambda: store.age_s() == 0)
        gate = Gate(store)
        early = asyncio.create_task(store.look_up(LINE))
        await gate.answered.wait()
        read = store._reads[LINE]
        other.set(f"line:{LINE}", document(label="two"))
        await until(lambda: store._reads[LINE] is not read)
        gate.open.set()
        assert label(await early) == "one"
        assert label(store.peek(LINE) or await store.look_up(LINE)) == "two"


async def waits_for_redis_and_its_phone(store: Store, gate: Gate | None = None) -> None:
    """A look-up is not answered from the copy in memory, which has no phone."""
    gate = gate or Gate(store)
    call = asyncio.create_task(store.look_up(LINE))
    await gate.answered.wait()
    await asyncio.sleep(0.1)  # after which known lines do not wait for Redis
    assert store.peek(LINE) is None
    assert not call.done()
    gate.open.set()
    assert len((await call).contacts) == 1


async def test_a_slow_redis_makes_no_phone_that_has_registered_unreachable(
    durable: DurableServer, other: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last good copy has none; a line that had one is served from it."""
    monkeypatch.setattr("store.shard.PATIENCE_S", within(10))
    monkeypatch.setattr("store.lines._PATIENCE_UNKNOWN_S", within(10))
    async with running(durable) as store:
        assert (await settled(store)).contacts == ()
        other.zadd(f"reg:{LINE}", {"sip:phone@192.0.2.1": time.time() + 600})
        await until(lambda: store.peek(LINE) is None, 1)
        await waits_for_redis_and_its_phone(store)
        other.zadd(f"reg:{LINE}", {"sip:another@192.0.2.2": time.time() + 600})
        await until(lambda: not store.recall(LINE)[1], 1)
        gate = Gate(store)
        assert len((await store.look_up(LINE)).contacts) == 1
        gate.open.set()


async def test_a_phone_that_registers_while_its_line_is_read_is_not_unreachable(
    durable: DurableServer, other: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is older, and has no phone: the next call waits for another one."""
    monkeypatch.setattr("store.shard.PATIENCE_S", within(10))
    monkeypatch.setattr("store.lines._PATIENCE_UNKNOWN_S", within(10))
    async with running(durable) as store:
        await until(lambda: store.age_s() == 0)
        gate = Gate(store)
        early = asyncio.create_task(store.look_up(LINE))
        await gate.answered.wait()
        read, next_gate = store._reads[LINE], Gate(store)
        other.zadd(f"reg:{LINE}", {"sip:phone@192.0.2.1": time.time() + 600})
        await until(lambda: store._reads[LINE] is not read)
        gate.open.set()
        assert (await early).contacts == ()
        await waits_for_redis_and_its_phone(store, next_gate)


@pytest.mark.usefixtures("patient")
async def test_a_call_after_the_change_does_not_join_the_overtaken_read(
    durable: DurableServer, other: redis.Redis
) -> None:
    async with running(durable) as store:
        await until(lambda: store.age_s() == 0)
        gate = Gate(store)
        early = asyncio.create_task(store.look_up(LINE))
        await gate.answered.wait()
        read = store._reads[LINE]
        other.set(f"line:{LINE}", document(label="two"))
        await until(lambda: store._reads[LINE] is not read)  # notified before the answer
        late = asyncio.create_task(store.look_up(LINE))
        await asyncio.sleep(0)
        gate.open.set()
        assert label(await early) == "one"  # correct at the time of the question
        assert label(await late) == "two"
        assert label(store.peek(LINE)) == "two"


@pytest.mark.usefixtures("patient")
async def test_a_read_across_an_interruption_is_never_taken_for_current(
    durable: DurableServer, other: redis.Redis
) -> None:
    async with running(durable) as store:
        await until(lambda: store.age_s() == 0)
        span = span_of(store)
        gate = Gate(store)
        early = asyncio.create_task(store.look_up(LINE))
        await gate.answered.wait()
        kill_stream(other)
        await until(lambda: span_of(store) not in (span, None))  # lost, and connected again
        other.set(f"line:{LINE}", document(label="two"))
        gate.open.set()
        assert label(await early) == "one"
        assert store.peek(LINE) is None
        assert label(await store.look_up(LINE)) == "two"


@pytest.mark.parametrize("turns", [1, 4])
def test_a_loop_that_is_late_once_takes_the_current_line(
    durable: DurableServer, other: redis.Redis, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's loop runs timers before it sends and reads."""
    patience_s = within(0.05)  # also for Redis, which the machine may not run for a moment
    monkeypatch.setattr("store.lines._PATIENCE_KNOWN_S", patience_s)

    async def ask() -> None:
        async with running(durable) as store:
            for n in range(3):
                await settled(store)
                other.set(f"line:{LINE}", document(label=f"n{n}"))
                await until(lambda: store.peek(LINE) is None, within(1))
                asked = asyncio.create_task(store.look_up(LINE))
                for _ in range(turns):
                    await asyncio.sleep(0)
                time.sleep(2 * patience_s)  # noqa: ASYNC251  the loop is busy with other calls
                assert label(await asked) == f"n{n}"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask())


async def test_the_stream_killed_in_the_middle_of_changes(
    durable: DurableServer, other: redis.Redis, stalls: Stalls
) -> None:
    stalls.watch(durable.pid)
    async with running(durable) as store:
        for n in range(20):
            await settled(store)
            with other.pipeline(transaction=True) as both:
                # The notification of this change is lost.
                kill_stream(both)
                both.set(f"line:{LINE}", document(label=f"n{n}"))
                both.execute()
            assert await labelled(store, f"n{n}") < 0.9 + stalls.total_s
        assert store.redis_up


@pytest.mark.usefixtures("patient")
async def test_all_connections_killed_while_idle_fail_no_look_up(
    durable: DurableServer, other: redis.Redis
) -> None:
    async with running(durable) as store:
        await settled(store)
        other.set(f"line:{NEW}", document(NEW, label="new"))
        other.client_kill_filter(_type="normal", skipme=True)
        kill_stream(other)
        assert label(await store.look_up(NEW)) == "new"


async def test_a_stream_that_answers_pings_but_sends_nothing_is_replaced(
    durable: DurableServer, other: redis.Redis
) -> None:
    async with running(durable) as store:
        await settled(store)
        span = span_of(store)
        store._layout.shards[0]._stream._on_keys = lambda keys: None
        await until(lambda: store.invalidation_lag_s > 2, 5)
        await until(lambda: span_of(store) not in (span, None), 5)


async def test_the_lag_grows_while_redis_takes_no_writes_and_the_stream_is_left_alone(
    durable: DurableServer, other: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Redis also reports a canary that expires: that is not a write.
    monkeypatch.setattr("store.shard._CANARY_TTL_S", 2)
    async with running(durable) as store:
        await settled(store)
        span = span_of(store)
        other.config_set("min-replicas-to-write", 1)  # only writes are refused
        # Canaries expire meanwhile, and the stream is silent about new ones for long.
        await until(lambda: store.invalidation_lag_s > 3.8, 6)
        assert store.redis_up
        assert span_of(store) is span
        other.config_set("min-replicas-to-write", 0)
        await until(lambda: store.invalidation_lag_s < 0.5, 4)


async def test_the_lag_grows_while_redis_is_away(durable: DurableServer) -> None:
    async with running(durable) as store:
        await settled(store)
        durable.kill()
        await until(lambda: store.invalidation_lag_s > 2, 5)
        durable.start()
        await until(lambda: store.invalidation_lag_s < 0.5, 6)


# -- Redis away --------------------------------------------------------------------------------


async def test_no_redis_at_start_and_found_later(durable: DurableServer) -> None:
    durable.kill()
    async with running(durable) as store:
        assert not store.redis_up
        with pytest.raises(Unavailable, match=r"\+33972101001"):
            await store.look_up(LINE)
        durable.start()
        with durable.client() as other:
            other.set(f"line:{LINE}", document(label="one"))
        await until(lambda: store.redis_up and store.age_s() == 0, 5)
        assert label(await store.look_up(LINE)) == "one"


async def test_redis_killed_and_restarted(durable: DurableServer, other: redis.Redis) -> None:
    async with running(durable) as store:
        await settled(store)
        durable.kill()
        await until(lambda: not store.redis_up, 2)
        assert store.age_s() > 0
        assert label(store.peek(LINE)) == "one"  # the last good copy, without waiting
        assert label(await store.look_up(LINE)) == "one"
        with pytest.raises(Unavailable):
            await store.look_up(NEW)
        durable.start()
        with durable.client() as again:
            again.set(f"line:{LINE}", document(label="two"))
        await until(lambda: store.redis_up, 2)
        await labelled(store, "two")
        await until(lambda: store.age_s() == 0, 2)


async def test_calls_of_a_known_line_do_not_notice_a_restart(
    durable: DurableServer, other: redis.Redis, stalls: Stalls
) -> None:
    async with running(durable) as store:
        await settled(store)
        slowest = 0.0

        async def call_for(seconds: float) -> None:
            nonlocal slowest
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                start = time.monotonic()
                entry = store.peek(LINE) or await store.look_up(LINE)
                slowest = max(slowest, time.monotonic() - start)
                assert entry.line is not None
                await asyncio.sleep(0.001)

        calls = asyncio.create_task(call_for(2.0))
        await asyncio.sleep(0.2)
        durable.kill()
        await asyncio.sleep(0.8)
        await asyncio.to_thread(durable.start)
        await calls
        assert slowest < 0.3 + stalls.total_s


async def test_a_paused_redis_delays_no_call_of_a_known_line(
    durable: DurableServer, other: redis.Redis, stalls: Stalls
) -> None:
    other.set(f"line:{PEER}", document(PEER, label="peer"))
    async with running(durable) as store:
        await settled(store)
        await settled(store, PEER)
        # PEER has been changed, and Redis stops before the change was read.
        other.set(f"line:{PEER}", document(PEER, label="changed"))
        await until(lambda: store.peek(PEER) is None, 1)
        durable.pause()
        try:
            end = time.monotonic() + 3.5
            slowest = 0.0
            while time.monotonic() < end:
                for number in (LINE, PEER):
                    start = time.monotonic()
                    entry = store.peek(number) or await store.look_up(number)
                    slowest = max(slowest, time.monotonic() - start)
                    assert entry.line is not None
                await asyncio.sleep(0.01)
            assert slowest < 0.25 + stalls.total_s
            await until(lambda: not store.redis_up and store.age_s() > 1, 3)
            start = time.monotonic()
            with pytest.raises(Unavailable):
                await store.look_up(NEW)
            assert time.monotonic() - start < 0.25 + stalls.total_s
        finally:
            durable.resume()
        await until(lambda: store.redis_up, 3)
        await labelled(store, "changed", PEER)


async def test_a_silent_redis_is_noticed_within_about_two_seconds(
    durable: DurableServer, other: redis.Redis, stalls: Stalls
) -> None:
    async with running(durable) as store:
        await settled(store)
        durable.pause()
        try:
            noticed_s = await until(lambda: not store.redis_up and store.age_s() > 0, 5)
            assert noticed_s < 2.6 + stalls.total_s
        finally:
            durable.resume()


async def test_a_copy_that_is_too_old_serves_nobody(
    durable: DurableServer, other: redis.Redis
) -> None:
    async with running(durable, stale_max_s=0.5) as store:
        await settled(store)
        durable.kill()
        await until(lambda: not store.redis_up, 2)
        await until(lambda: store.age_s() > 0.6, 2)
        assert store.peek(LINE) is None
        with pytest.raises(Unavailable):
            await store.look_up(LINE)


@pytest.mark.usefixtures("patient")
async def test_a_caller_who_hangs_up_takes_no_read_with_him(
    durable: DurableServer, other: redis.Redis
) -> None:
    async with running(durable) as store:
        await until(lambda: store.age_s() == 0)
        gate = Gate(store)
        hasty = asyncio.create_task(store.look_up(LINE))
        patient = asyncio.create_task(store.look_up(LINE))
        await gate.answered.wait()
        hasty.cancel()
        gate.open.set()
        assert label(await patient) == "one"
        assert store.peek(LINE) is not None
        with pytest.raises(asyncio.CancelledError):
            await hasty


async def test_closing_leaves_nobody_waiting_and_nothing_behind(
    durable: DurableServer, other: redis.Redis
) -> None:
    before = asyncio.all_tasks()
    async with running(durable) as store:
        gate = Gate(store)
        waiting = asyncio.create_task(store.look_up(LINE))
        await gate.answered.wait()
    with pytest.raises(Unavailable):
        await waiting
    assert asyncio.all_tasks() == before


async def test_rules_of_all_four_conditions_come_through(
    durable: DurableServer, other: redis.Redis
) -> None:
    forwards = {c: {"on": True, "to": {"kind": "voicemail"}} for c in Condition}
    other.set(f"line:{LINE}", document(forwards=forwards))
    async with running(durable) as store:
        entry = await store.look_up(LINE)
        assert entry.line is not None
        assert list(entry.line.forwards) == list(Condition)
