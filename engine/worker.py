"""The composition root of one worker: store, SIP, metrics and records; run, drain, stop."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from functools import partial

from engine import descriptors, tls
from engine.admin import AddressInUse, Admin
from engine.admission import Admission
from engine.calls import Calls, called_by
from engine.changes.worker_registry import WorkerHeartbeat, myself
from engine.collector import Collector, look
from engine.config import Address as HttpAddress
from engine.config import Config, Limits
from engine.forwards import Forwards
from engine.leases import Leases
from engine.live_calls import LiveCalls
from engine.marks import Marks
from engine.probing import Probing
from engine.processes.journal import Journal, directory_of
from engine.records.recorder import Recorder
from engine.records.spending_caps import SpendingCaps
from engine.redis_server import EmbeddedRedis, EmbeddedRedisError
from engine.referrals import Referrals
from engine.registration.bindings import Bindings, same_phone
from engine.registration.dialled import Dialled
from engine.registration.own_addresses import OwnAddresses
from engine.registration.registrar import Registrar
from engine.rejections import Rejections
from engine.reload import changes, with_live
from engine.takeovers import Takeovers
from engine.telemetry import log
from engine.telemetry.hep import Hep
from engine.telemetry.loop_lag import LoopLag
from engine.telemetry.metrics import Metrics
from engine.telemetry.spans import Spans
from engine.transfers import Transfers
from sip.address import Address
from sip.endpoint import Endpoint
from sip.settings import ListenError, Settings
from store.client import Client, connect
from store.fleets import Fleets
from store.keys import fleet_key
from store.lines import Store
from store.redis_errors import REDIS_ERRORS

PROGRESS_S = 10.0  # between two lines that say how far a drain is
CONNECT_S = 3.0
ANSWER_S = 2.0
TOLD_REFUSED = 5  # fleets that /readyz names
STEP_S = 1.0  # of the machine's clock, from which on it is told
CLOSE_S = 5.0  # for a part to end, each of which bounds its own waiting well below


class StartError(RuntimeError):
    """The worker cannot start; the text is one line for the operator."""


def per_source(limits: Limits) -> int:
    """How many connections one source may have: a quarter of all, unless it is said."""
    told = limits.connections_per_source
    if told is None:
        return max(1, limits.connections // 4)
    return told or limits.connections


class Worker:
    """Everything one process needs to route calls. `index` is added to each port. `redis_url` is
    where the embedded Redis is, when somebody else has it."""

    def __init__(self, config: Config, index: int = 0, redis_url: str | None = None) -> None:
        self.config = config
        self.index = index
        self._redis_url = redis_url
        log.of_worker(index)
        self.log = log.get_logger("engine")
        self.numbering = config.numbering.plan()
        self.metrics = Metrics()
        self.rejections = Rejections(self.metrics, self.log)
        self.epoch = f"{index}-{int(time.time()):x}{secrets.token_hex(3)}"  # this one, for ever
        self.journal = Journal(directory_of(config.redis.data_dir), self.epoch)
        self.calls = Calls(self, self.epoch)
        self.leases = Leases(self)
        self.transfers = Transfers(self)
        self.admission = Admission(
            config.limits, time.monotonic, lambda uri: called_by(uri, self.numbering)
        )
        self.on_drain: Callable[[int], None] = lambda left: None  # told how many calls are left
        self.resume: Callable[[], None] = lambda: None  # undoes a drain (serve.py)
        self.is_started = False
        self._lag = LoopLag()
        self._embedded: EmbeddedRedis | None = None
        self.hep: Hep | None = None
        self.spans: Spans | None = None

    async def start(self) -> None:
        """Raises StartError with one line that names the field and the value."""
        self.loop = asyncio.get_running_loop()
        self.collector = Collector(self.loop)
        try:
            await self._start_redis()
            await self._start_rest()
        except (ListenError, AddressInUse, EmbeddedRedisError, tls.TlsError) as error:
            await self.close()
            raise StartError(str(error)) from error
        except StartError:
            await self.close()
            raise

    async def _start_redis(self) -> None:
        url = self._redis_url or self.config.redis.url
        if url == "embedded":
            self._embedded = EmbeddedRedis(self.config.redis.data_dir)
            await self._embedded.start()
            url = self._embedded.url
        try:
            # Socket limits for the writers; the store bounds its own waits.
            self.redis: Client = connect(
                url, socket_connect_timeout=CONNECT_S, socket_timeout=ANSWER_S
            )
            await asyncio.wait_for(self.redis.ping(), CONNECT_S)
        except (*REDIS_ERRORS, ValueError) as error:
            reason = str(error) or "no answer"
            raise StartError(
                f"redis.url: cannot reach {self.config.redis.safe_url}: {reason}"
            ) from error

    async def _start_rest(self) -> None:
        config = self.config
        if os.environ.get("PYTHONHASHSEED", "random") not in ("", "random"):
            self.log.warning("hash_seed.fixed", seed=os.environ["PYTHONHASHSEED"])
        self.store = Store(
            self.redis,
            numbering=self.numbering,
            cache_lines=config.rules.cache_lines,
            stale_max_s=config.rules.stale_max_s,
            timezone=config.numbering.timezone,
            canary=f"{os.getpid()}-{self.epoch}",
        )
        self.store.on_refused = self.rejections.document
        self.store.on_refused_target = self.rejections.target
        self.fleets = Fleets(self.redis, timezone=config.numbering.timezone)
        self.fleets.on_refused = self.rejections.document
        self.store.on_fleet = self.fleets.changed
        self.store.on_line = self.leases.changed
        self.store.on_transfer = self.transfers.heard
        self.spending_caps = SpendingCaps(
            self.redis, self.fleets, self._plan_left_s, timezone=config.numbering.timezone
        )
        self.store.on_trouble = self.rejections.redis
        shared = config.rules.live_count == "shared"
        self.live = LiveCalls(self.redis, shared=shared)
        self.forwards = Forwards(self.redis if shared else None)
        self.forwards.workers = config.workers
        self.recorder = Recorder(
            self.redis,
            timezone=config.numbering.timezone,
            worker=self.epoch,
            spool=config.redis.data_dir / f"cdr-{self.index}.spool",
            on_safe=self.journal.safe,
        )
        for count in (self.live, *self.forwards.pools):
            count.on_error = partial(self.rejections.redis, "live")
        self.recorder.on_error = partial(self.rejections.redis, "cdr")
        places = OwnAddresses(config)
        self.store.leads_here = places.leads_here
        self.store.same_phone = same_phone
        self.registrar = Registrar(self, places)
        self.takeovers = Takeovers(self)
        self.probing = Probing(self)
        trace = config.trace
        if trace.hep is not None:
            self.hep = Hep(trace.hep, trace.hep_id, f"renvoi-{self.index}")
        if trace.otlp is not None:
            self.spans = Spans(trace.otlp, self.index)
        self.endpoint = Endpoint(
            self._sip_settings(),
            on_invite=self.calls.begin,
            policy=self.admission,
            on_rejected=self.rejections.rejected,
            on_register=self.registrar.on_register if config.sip.registrar else None,
            on_race=self.metrics.race,
            on_connection=self.rejections.connection,
            on_error=self.rejections.stumbled,
            on_message=self.hep.put if self.hep is not None else None,
            on_refer=Referrals(self).on_refer,
        )
        self.dialled = Dialled(config, places, lambda: self.endpoint.trusted)
        listen = config.admin.listen
        self.admin = Admin(
            HttpAddress(listen.host, listen.port + self.index if listen.port else 0),
            self.metrics.render,
            self.not_ready,
            self.calls.shown,
            remark=self.remark,
        )
        self.journal.open()
        left = await asyncio.to_thread(self.journal.take_over)
        # The rules first: whoever is let in finds them.
        await self.fleets.start()
        await self.store.start()
        await self.spending_caps.start()
        await self.live.start()
        await self.forwards.start()
        await self.recorder.start()
        await self.registrar.start()
        self.marks = Marks(await Bindings(self.redis).secret())
        await self.dialled.start()
        await self.endpoint.start()
        if config.workers > 1:
            try:
                self.endpoint.meet(directory_of(config.redis.data_dir))
            except OSError as error:  # each answers for its own calls only
                self.log.error("siblings.unusable", error=str(error))
        self._watch()
        self.probing.start()
        await self.admin.start()
        self._fit_descriptors()
        self.heartbeat = WorkerHeartbeat(self.redis, myself(self, self.epoch))
        self.heartbeat.on_error = partial(self.rejections.redis, "presence")
        self.heartbeat.on_workers = self._on_workers
        self.store.on_probe = self.heartbeat.on_probe
        await self.heartbeat.start()
        self._beating = self.loop.create_task(self._beat())
        self.is_started = True
        self._completing = self.loop.create_task(self.calls.complete(left))
        self.collector.start()

    def _plan_left_s(self, number: str) -> float | None:
        entry = self.store.peek(number)
        return entry.plan_left_s() if entry is not None else None

    def _fit_descriptors(self) -> None:
        """Let in no more connections than there are descriptors for, beside what the pages and
        Redis need."""
        wanted, room = self.config.limits.connections, self.endpoint.streams.room
        if not descriptors.streams_of(self.config):
            return
        limit = descriptors.raised(wanted)
        most, strangers = descriptors.fit(limit, descriptors.in_use(), wanted)
        room.limit(most, min(room.per_source, most), strangers)
        if most < wanted:
            self.log.warning("descriptors.few", limit=limit, wanted=wanted, connections=most)

    def _peers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The networks that requests may come from, and REGISTER."""
        sip = self.config.sip
        registrars = sip.trusted_peers if sip.registrar_peers is None else sip.registrar_peers
        return tuple(map(str, sip.trusted_peers)), tuple(map(str, registrars))

    def _sip_settings(self) -> Settings:
        """Raises TlsError."""
        sip = self.config.sip
        trusted_peers, registrar_peers = self._peers()
        return Settings(
            listen=tuple(
                Address(item.transport, item.host, item.port + self.index) for item in sip.listen
            ),
            advertise=sip.advertise,
            trusted_peers=trusted_peers,
            registrar_peers=registrar_peers,
            outbound_proxy=sip.outbound_proxy,
            nameservers=None
            if sip.nameservers is None
            else tuple((item.host, item.port) for item in sip.nameservers),
            connections=self.config.limits.connections,
            connections_per_source=per_source(self.config.limits),
            idle_connection_s=self.config.timers.idle_connection_s,
            message_bytes=self.config.limits.message_bytes,
            server_tls=tls.server_context(sip),
            client_tls=tls.client_context(sip),
        )

    def _watch(self) -> None:
        watch = self.metrics.watch
        watch("active_calls", lambda: len(self.calls))
        watch("calls_limit", lambda: self.config.limits.calls)
        watch("oldest_call", self.calls.oldest_s)
        watch("max_call", lambda: self.config.timers.max_call_s)
        watch("redis_up", lambda: float(self.store.redis_up))
        watch("rules_age", self.store.age_s)
        watch("invalidation_lag", lambda: self.store.invalidation_lag_s)
        watch("loop_lag", lambda: self._lag.worst_s)
        watch("cdr_backlog", lambda: self.recorder.backlog)
        watch("cdr_lost", lambda: self.recorder.lost)
        watch("log_dropped", log.dropped)
        tracers = [tracer for tracer in (self.hep, self.spans) if tracer is not None]
        watch("trace_dropped", lambda: sum(tracer.dropped for tracer in tracers))
        watch("connections", lambda: self.endpoint.streams.room.count)
        watch("live_unshared", lambda: self.live.local_decisions + self.forwards.local_decisions)
        watch("legs", lambda: len(self.endpoint.legs))
        watch("dialogs", lambda: self.endpoint.dialogs)
        watch("transactions", lambda: self.endpoint.transactions)
        watch("tasks", lambda: len(self.calls.tasks))
        self.metrics.sip_messages(lambda: self.endpoint.counts)
        self.metrics.destinations(lambda: self.probing.up)

    def apply(self, config: Config) -> tuple[str, ...]:
        """Bring the live keys of another configuration into force; the paths of those that differ.
        Calls read `config` at each use; here is what has to be told."""
        changed = changes(self.config, config).live
        self.config = with_live(self.config, config)
        self.admission.limit(self.config.limits)
        log.apply(self.config.log)
        self.endpoint.trust(*self._peers())
        if {"numbering.also_valid", "numbering.forward_countries"}.intersection(changed):
            self.numbering = self.config.numbering.plan()
            self.store.renumber(self.numbering)
        probed = ("destinations.", "sip.probe_s", "sip.outbound_proxy")
        if any(path.startswith(probed) for path in changed):
            self.probing.restart()
            self.dialled.apply(self.config)
        return changed

    async def drain(self) -> None:
        """Refuse new calls and wait for the standing ones, at most `timers.drain_s`."""
        self.admission.draining = True
        self.log.info("drain.start", calls=len(self.calls), deadline_s=self.config.timers.drain_s)
        loop = asyncio.get_running_loop()
        until = loop.time() + self.config.timers.drain_s
        while loop.time() < until:
            if await self.calls.none_left(min(PROGRESS_S, until - loop.time())):
                break
            left_s = round(until - loop.time())
            self.log.info("drain.progress", calls=len(self.calls), left_s=left_s)
            self.on_drain(len(self.calls))
        self.log.info("drain.end", calls=len(self.calls))

    async def close(self) -> None:
        """End every call with its record, then everything else, in the reverse order of start."""
        self.admission.draining = True
        await self.calls.stop(5.0)
        if hasattr(self, "_beating"):
            self._beating.cancel()
            await asyncio.wait([self._completing], timeout=5.0)
        parts = (
            "heartbeat registrar probing dialled endpoint admin "
            "spending_caps store fleets live forwards recorder"
        )
        for name in parts.split():
            part = getattr(self, name, None)
            if part is not None:
                try:
                    async with asyncio.timeout(CLOSE_S):
                        await part.close()
                except TimeoutError:  # the end of a process must not wait for ever
                    self.log.error("close.stuck", part=name)
        for tracer in (self.hep, self.spans):
            if tracer is not None:
                await asyncio.to_thread(tracer.close)
        self.journal.close()
        if hasattr(self, "redis"):
            await self.redis.aclose()
        if self._embedded is not None:
            await self._embedded.close()

    def not_ready(self) -> str | None:
        """Why no new call should be sent here, None when all is well (`/readyz`)."""
        if self.admission.draining:
            return "draining"
        if not self.is_started:
            return "starting"
        age_s = self.store.age_s()
        if age_s > self.config.rules.stale_max_s:
            return f"redis away for {age_s:.0f} s, rules.stale_max_s is passed"
        return None

    def remark(self) -> str | None:
        """What is wrong though calls are taken: they go on, and what they leave behind waits."""
        if refuses := self.store.redis_refuses:
            return f"redis takes no writes ({refuses}), {self.recorder.backlog} records wait"
        if not self.store.redis_up:
            return f"redis does not answer, {self.recorder.backlog} records wait"
        refused = self.fleets.refused.items()
        remarks = [f"{fleet_key(name)} is refused ({why})" for name, why in refused]
        if len(remarks) > TOLD_REFUSED:
            remarks[TOLD_REFUSED:] = [f"and {len(remarks) - TOLD_REFUSED} more fleets"]
        if bad := len(self.store.bad_lines):
            remarks.append(f"{bad} line documents are refused (document.refused in the log)")
        if trouble := self.recorder.trouble:
            remarks.append(f"cdr: {trouble}, {self.recorder.backlog} records wait")
        return "; ".join(remarks) or None

    def _on_workers(self, count: int) -> None:
        """So many share the limits on a line's forwards; those of this host may yet start."""
        self.forwards.workers = max(count, self.config.workers)

    async def _beat(self) -> None:
        offset = time.time() - time.monotonic()
        while True:
            await self._lag.probe()
            now = time.time() - time.monotonic()
            if abs(now - offset) > STEP_S:
                self.log.warning("clock.stepped", seconds=round(now - offset, 1))
                for count in (self.live, *self.forwards.pools):
                    count.renew()
            offset = now
            self.rejections.tell_sources()
            self.journal.beat()
            await self.journal.flush()
            look()
