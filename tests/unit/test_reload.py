"""What a change of each configuration key requires."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config import SECTIONS, Config, ConfigError, read
from engine.processes.control import (
    Beat,
    HandOver,
    Line,
    Reload,
    Started,
    ToSupervisor,
    ToWorker,
)
from engine.processes.supervised import Link, _obey
from engine.reload import Changes, changes, with_live
from tests.patience import within


def one(path: str, value: object) -> dict[str, Any]:
    section, _, key = path.partition(".")
    return {section: {key: value}} if key else {section: value}


@pytest.mark.parametrize(
    ("path", "value", "need"),
    [
        ("timers.max_call_s", 60, "live"),
        ("limits.calls", 7, "live"),
        ("limits.peer_calls", 7, "live"),
        ("destinations.number", "sip:{number}@192.0.2.1", "live"),
        ("sip.trusted_peers", ["192.0.2.0/24"], "live"),
        ("rules.when_unavailable", "ring", "live"),
        ("sip.listen", ["udp:127.0.0.1:5070"], "restart"),
        ("numbering.country", "BE", "restart"),
        ("numbering.forward_countries", ["FR"], "live"),
        ("numbering.also_valid", ["+33700"], "live"),
        ("rules.live_count", "local", "restart"),
        ("rules.cache_lines", 5, "restart"),
        ("limits.connections", 5, "restart"),
        ("workers", 3, "fixed"),
        ("manager.session_idle_s", 60, "live"),  # of no concern to an engine
        ("notify.queue", 7, "live"),
        ("admin.listen", "127.0.0.1:9200", "fixed"),
        ("redis.data_dir", "elsewhere", "fixed"),  # the data of the embedded Redis is there
        ("redis.url", "redis://127.0.0.1", "fixed"),
    ],
)
def test_a_key_needs(path: str, value: object, need: str) -> None:
    found = changes(Config(), read(one(path, value)))
    assert found == Changes(**{need: (path,)})


def test_without_an_embedded_redis_its_keys_need_new_processes() -> None:
    old, new = ({"redis": {"url": f"redis://127.0.0.1:{port}"}} for port in (1, 2))
    assert changes(read(old), read(new)) == Changes(restart=("redis.url",))


def test_nothing_changed() -> None:
    assert not changes(Config(), Config())


def test_only_live_keys_are_taken_over() -> None:
    new = read({"timers": {"drain_s": 1}, "sip": {"realm": "x", "listen": ["udp:127.0.0.1:1"]}})
    config = with_live(Config(), new)
    assert (config.timers.drain_s, config.sip.realm) == (1, "x")
    assert config.sip.listen == Config().sip.listen
    assert changes(config, new) == Changes(restart=("sip.listen",))


def test_every_key_says_what_a_change_needs() -> None:
    keys = [key for section in SECTIONS.values() for key in fields(section)]
    assert {key.metadata["change"] for key in keys} <= {"live", "restart", "fixed"}


def test_the_page_about_operation_names_the_keys_that_change_live() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "operation.md"
    (row,) = re.findall(r"^\| (.*) \| live: ", page.read_text("utf-8"), re.MULTILINE)
    documented: set[str] = set()
    for name, without in re.findall(r"`([\w.*]+)`(?: \(not (.*?)\))?", row):
        section, _, key = name.partition(".")
        keys = {each.name for each in fields(SECTIONS[section])} if key == "*" else {key}
        documented |= {f"{section}.{key}" for key in keys - set(re.findall(r"\w+", without))}
    live = {
        (section, key.name)
        for section, keys in SECTIONS.items()
        for key in fields(keys)
        if key.metadata["change"] == "live"
    }
    beside = ("manager", "notify")  # processes of their own
    assert documented == {f"{section}.{key}" for section, key in live if section not in beside}
    assert live >= {(section, key.name) for section in beside for key in fields(SECTIONS[section])}


def test_the_supervisors_port_is_the_one_after_the_workers() -> None:
    config = read({"workers": 3, "admin": {"listen": "127.0.0.1:9300"}})
    assert str(config.supervisor_listen) == "127.0.0.1:9303"
    named = read({"workers": 3, "admin": {"supervisor_listen": "127.0.0.1:9400"}})
    assert str(named.supervisor_listen) == "127.0.0.1:9400"
    with pytest.raises(ConfigError, match=r"admin.supervisor_listen: port already used"):
        read({"workers": 3, "admin": {"supervisor_listen": "127.0.0.1:9101"}})
    with pytest.raises(ConfigError, match=r"no port left"):
        read({"workers": 2, "admin": {"listen": "127.0.0.1:65535"}})


async def test_a_worker_accepts_commands_after_a_configuration_that_it_cannot_apply() -> None:
    """During a rolling restart a worker of an older version may get such a configuration."""
    loop = asyncio.get_running_loop()
    events: list[str] = []
    applied: list[Config] = []
    log = SimpleNamespace(
        info=lambda event, **_: events.append(event),
        error=lambda event, **_: events.append(event),
        exception=lambda event, **_: events.append(event),
    )
    worker: Any = SimpleNamespace(apply=applied.append, log=log, active_calls=0)
    ours, theirs = (Line(end, ToWorker) for end in socket.socketpair())
    await ours.open()
    await theirs.open()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    obeying = asyncio.ensure_future(_obey(theirs, worker))
    try:
        ours.say(Reload({"of": "a newer version"}))
        ours.say(Reload({"limits": {"calls": 7}}))
        await ours.flush()  # and it is removed
        async with asyncio.timeout(within(10)):
            await obeying
            await ended.wait()
    finally:
        obeying.cancel()
        theirs.close()
        loop.remove_signal_handler(signal.SIGTERM)
    assert [config.limits.calls for config in applied] == [7]
    assert events == ["reload.failed", "reload.done", "supervisor.gone"]


async def test_a_worker_whose_journal_has_just_become_full_drains_instead_of_handing_over() -> None:
    """The supervisor knows only its last heartbeat."""
    loop = asyncio.get_running_loop()
    handed_over: list[Any] = []
    worker: Any = SimpleNamespace(
        journal=SimpleNamespace(has_all=lambda: False),
        hand_over=handed_over.append,
        log=SimpleNamespace(warning=lambda *_, **__: None),
    )
    ours, theirs = (Line(end, ToWorker) for end in socket.socketpair())
    await ours.open()
    await theirs.open()
    drains = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, drains.set)
    obeying = asyncio.ensure_future(_obey(theirs, worker))
    try:
        ours.say(HandOver())
        async with asyncio.timeout(within(10)):
            await drains.wait()
        assert not handed_over
        assert not obeying.done()
    finally:
        obeying.cancel()
        ours.close()
        theirs.close()
        loop.remove_signal_handler(signal.SIGTERM)


async def test_a_supervisor_knows_that_a_worker_can_hand_over_when_it_takes_calls() -> None:
    """A rolling restart may come before its next heartbeat, and would drain it."""
    is_open = False
    worker: Any = SimpleNamespace(
        journal=SimpleNamespace(has_all=lambda: is_open),
        sockets={},
        active_calls=0,
        is_started=False,
        not_ready=lambda: "",
    )
    ends = socket.socketpair()
    ours, theirs = Line(ends[0], ToSupervisor), Line(ends[1], ToWorker)
    await ours.open()
    await theirs.open()
    link = Link(theirs, worker)
    beating = asyncio.ensure_future(link.beat())
    heard: list[Beat | Started] = []
    try:
        async with asyncio.timeout(within(10)):
            heard.append(await ours.hear())
            is_open = True
            link.started = Started([], "127.0.0.1:9101")
            link.say_started()
            while not isinstance(heard[-1], Started):
                heard.append(await ours.hear())
    finally:
        beating.cancel()
        ours.close()
        theirs.close()
    assert [each.has_all for each in heard if isinstance(each, Beat)] == [False, True]
