"""The composition root of one worker: store, SIP, metrics and records; run, drain, stop."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import MappingProxyType
from typing import Protocol

from redis.asyncio import RedisCluster

from engine import descriptors, sip_settings, tls
from engine.admin import AddressInUse, Admin
from engine.admission import Admission
from engine.call_ends import CallEnds
from engine.call_entry import LeftCalls
from engine.call_facts import CallFacts
from engine.call_services import CallServices
from engine.call_tasks import CallTasks
from engine.calls import Calls, called_by
from engine.changes.worker_registry import WorkerHeartbeat, myself
from engine.collector import Collector, look
from engine.config import Address as HttpAddress
from engine.config import Config
from engine.continued_calls import ContinuedCalls
from engine.diversion_marks import Marks
from engine.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from engine.event_queue import Deadlines
from engine.forwards import Forwards
from engine.leases import LiveCalls
from engine.max_calls import MaxCalls
from engine.probing import Probing
from engine.processes.control import DRAINING
from engine.processes.journal import Journal, Left, directory_of
from engine.records.recorder import Recorder
from engine.records.spending_caps import SpendingCaps
from engine.records.spool import spool_of, spools_beyond
from engine.refer_targets import Referrals
from engine.registration.bindings import Bindings, same_phone
from engine.registration.dialled import Dialled
from engine.registration.own_addresses import OwnAddresses
from engine.registration.registrar import Registrar
from engine.rejections import Rejections
from engine.reload import changes, with_live
from engine.standby import Standby
from engine.telemetry import log
from engine.telemetry.hep import Hep
from engine.telemetry.loop_lag import LoopLag
from engine.telemetry.metrics import Metrics
from engine.telemetry.spans import Spans
from sip.endpoint import Endpoint
from sip.leg import Leg
from sip.settings import ListenError
from sip.state import ANSWERED
from store import background_tasks
from store.client import Client, close, connect
from store.fleets import Fleets
from store.keys import fleet_key
from store.lines import Store
from store.redis_errors import REDIS_ERRORS

PROGRESS_S = 10.0  # between two `drain.progress` events
CONNECT_S = 3.0
ANSWER_S = 2.0
TOLD_REFUSED = 5  # fleets that /readyz names
STEP_S = 1.0  # of the machine's clock that are logged
CLOSE_S = 5.0  # for a part to end; each part limits its own waiting to much less


class StartError(RuntimeError):
    """The worker cannot start; the message is one line for the operator."""


class Part(Protocol):
    """A part of the worker that runs beside the calls."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class Worker:
    """Everything one process needs to route calls. `index` is added to each port. `redis_url` is
    the address of the embedded Redis if another process owns it, `sockets` are the listening
    sockets of the process that this one replaces, by address, `connections` and `flows` what else
    it left (`hand_over`)."""

    def __init__(
        self,
        config: Config,
        index: int = 0,
        redis_url: str | None = None,
        sockets: Mapping[str, socket.socket] = MappingProxyType({}),
        connections: Mapping[str, socket.socket] = MappingProxyType({}),
        flows: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.index = index
        self._redis_url = redis_url
        self._sockets, self._connections, self._flows = sockets, connections, flows
        log.of_worker(index)
        self.log = log.get_logger(log.ENGINE)
        self.metrics = Metrics()
        self.rejections = Rejections(self.metrics, self.log)
        self.epoch = f"{index}-{int(time.time()):x}{secrets.token_hex(3)}"  # this process alone
        self.journal = Journal(directory_of(config.redis.data_dir), self.epoch)
        self.admission = Admission(
            config.limits, time.monotonic, lambda uri: called_by(uri, self.services.numbering)
        )
        self.on_drain: Callable[[int], None] = lambda left: None  # gets the number of calls left
        self.resume: Callable[[], None] = lambda: None  # undoes a drain (serve.py)
        self.is_started = False
        self._start_is_over = asyncio.Event()
        self.services: CallServices
        self.calls: Calls
        self._referrals: Referrals
        self._heartbeat: WorkerHeartbeat | None = None
        self._standby: Standby | None = None
        self._embedded: EmbeddedRedis | None = None
        self._lag = LoopLag()
        self._parts = AsyncExitStack()  # started parts, closed in reverse order

    @property
    def active_calls(self) -> int:
        """The number of calls; 0 before the start."""
        return len(self.calls) if self.is_started else 0

    # -- start and end ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises StartError with one line that names the field and the value."""
        if os.environ.get("PYTHONHASHSEED", "random") not in ("", "random"):
            self.log.warning("hash_seed.fixed", seed=os.environ["PYTHONHASHSEED"])
        try:
            redis, secret = await self._connect()
            self._make(redis, secret)
            await self._start_parts(redis)
        except (ListenError, AddressInUse, EmbeddedRedisError, tls.TlsError) as error:
            await self.close()
            raise StartError(str(error)) from error
        except StartError:
            await self.close()
            raise

    @property
    def sockets(self) -> dict[str, socket.socket]:
        """The listening sockets, by address."""
        return self.endpoint.transports.sockets

    async def hand_over(
        self, leave: Callable[[Mapping[str, int], Sequence[str]], Awaitable[None]]
    ) -> None:
        """Leave the calls to the next process: read nothing more, end nothing, and write everything
        to the journal, records that wait for Redis too. `leave` gets the TCP connections, by name
        with their descriptors, and the flows of phones. This process must end then at once, without
        `close`."""
        self.log.info("worker.handed_over", calls=self.active_calls)
        async with AsyncExitStack() as parts:
            if self._heartbeat is not None:
                parts.push_async_callback(self._heartbeat.close)
            if self.endpoint.siblings is not None:
                parts.callback(self.endpoint.siblings.close)
            for tracer in self._tracers:
                parts.push_async_callback(asyncio.to_thread, tracer.close)
        if self._embedded is not None:
            await self._embedded.close()
        self.endpoint.pause()
        await leave(self._kept_connections(), self.services.registrar.flows.keep_all())
        # Without a pause until the end, so that no call goes on after it was written.
        self._ends.report()
        self.journal.hand_over()

    def _kept_connections(self) -> dict[str, int]:
        """Copies of the TCP connections, as far as there are descriptors for them."""
        wanted = self.endpoint.streams.room.count
        most = descriptors.for_copies(wanted)
        kept = self.endpoint.streams.keep_all(most)
        if len(kept) == most < wanted:
            limit = descriptors.raised(0)
            self.log.warning("descriptors.few", limit=limit, wanted=wanted, connections=most)
        return kept

    async def close(self) -> None:
        """End every call with its record, then everything else, in reverse order of the start."""
        self.admission.draining = True
        await self._parts.aclose()

    async def _connect(self) -> tuple[Client, bytes]:
        """A client of the configured Redis, which is started if it is embedded, and the secret that
        all workers on it share."""
        url = self._redis_url or self.config.redis.url
        if url == "embedded":
            self._embedded = EmbeddedRedis(self.config.redis.data_dir)
            await self._embedded.start()
            self._parts.push_async_callback(self._embedded.close)
            url = self._embedded.url
        try:
            # Socket limits for the writers; the store limits its own waits.
            redis = connect(url, socket_connect_timeout=CONNECT_S, socket_timeout=ANSWER_S)
            self._parts.push_async_callback(close, redis)
            await asyncio.wait_for(redis.ping(), CONNECT_S)
            secret = await Bindings(redis).secret()
        except (*REDIS_ERRORS, ValueError) as error:
            reason = str(error) or "no answer"
            raise StartError(self.config.redis.cannot_reach(reason)) from error
        return redis, secret

    def _make(self, redis: Client, secret: bytes) -> None:
        """Make the parts; nothing runs yet. Raises TlsError."""
        config, loop = self.config, asyncio.get_running_loop()
        numbering, timezone = config.numbering.plan(), config.numbering.timezone
        self.collector = Collector(loop)
        places = OwnAddresses(config)
        self.store = Store(
            redis,
            numbering=numbering,
            cache_lines=config.rules.cache_lines,
            stale_max_s=config.rules.stale_max_s,
            timezone=timezone,
            canary=f"{os.getpid()}-{self.epoch}",
            on_refused=self.rejections.document,
            on_refused_target=self.rejections.target,
            on_trouble=self.rejections.redis,
            on_fleet=lambda name: self.fleets.changed(name),
            on_line=self._on_line,
            on_transfer=lambda key: self.calls.handovers.transfers.reported(key),
            on_probe=self._on_probe,
            leads_here=places.leads_here,
            same_phone=same_phone,
        )
        client: object = redis  # or a RedisCluster, see `Client`
        self.fleets = Fleets(
            redis,
            timezone=timezone,
            numbering=numbering,
            on_refused=self.rejections.document,
            ask=self.store.ask if isinstance(client, RedisCluster) else None,
        )
        shared = config.rules.live_count == "shared"
        of_live = partial(self.rejections.redis, "live")
        self.live = LiveCalls(redis, shared=shared, on_error=of_live)
        self.forwards = Forwards(
            redis if shared else None, workers=config.workers, on_error=of_live
        )
        self.recorder = Recorder(
            redis,
            timezone=timezone,
            worker=self.epoch,
            spool=spool_of(config.redis.data_dir, self.index),
            others=spools_beyond(config.redis.data_dir, config.workers),
            on_safe=self.journal.safe,
            on_error=partial(self.rejections.redis, "cdr"),
        )
        trace = config.trace
        hep = Hep(trace.hep, trace.hep_id, f"renvoi-{self.index}") if trace.hep else None
        spans = Spans(trace.otlp, self.index) if trace.otlp else None
        self._tracers = [tracer for tracer in (hep, spans) if tracer is not None]
        # Its events go to parts that are made from it; none arrive before it is started.
        self.endpoint = Endpoint(
            sip_settings.settings(config, self.index),
            on_invite=lambda leg: self.calls.begin(leg),
            policy=self.admission,
            on_rejected=self.rejections.rejected,
            on_register=(lambda request: self.services.registrar.on_register(request))
            if config.sip.registrar
            else None,
            on_race=self.metrics.race,
            on_connection=self.rejections.connection,
            on_error=self.rejections.internal_error,
            on_message=hep.put if hep is not None else None,
            on_refer=lambda leg, message: self._referrals.on_refer(leg, message),
            on_changed=self._on_changed,
            on_kept=self._on_kept,
        )
        self._tasks = CallTasks(loop)
        self.services = services = CallServices(
            loop=loop,
            config=config,
            numbering=numbering,
            log=self.log,
            metrics=self.metrics,
            rejections=self.rejections,
            redis=redis,
            store=self.store,
            fleets=self.fleets,
            endpoint=self.endpoint,
            live=self.live,
            forwards=self.forwards,
            max_calls=MaxCalls(
                loop, self.store, self.fleets, self.live, self._tasks, self._on_leased
            ),
            spending_caps=SpendingCaps(redis, self.fleets, self._plan_left_s, timezone=timezone),
            marks=Marks(secret),
            dialled=Dialled(config, places, lambda: self.endpoint.trusted),
            changed=self.journal.changed,
            deadlines=Deadlines(loop),
        )
        services.probing = Probing(services)
        services.registrar = Registrar(services, services.dialled, places, secret)
        self._ends = CallEnds(loop, self.log, self.metrics, self.journal, self.recorder, spans)
        self.calls = Calls(
            services,
            self._tasks,
            self._ends,
            journal=self.journal,
            admission=self.admission,
            collector=self.collector,
            prefix=self.epoch,
            index=self.index,
        )
        self._referrals = Referrals(services, self.calls.handovers)
        listen = config.admin.listen
        self.admin = Admin(
            HttpAddress(listen.host, listen.port + self.index if listen.port else 0),
            self.metrics.render,
            self.not_ready,
            self.calls.shown,
            remark=self.remark,
        )
        self._watch()

    async def _start_parts(self, redis: Client) -> None:
        """Start them, the rules first, so that the first call finds them."""
        config, services = self.config, self.services
        self.journal.open()
        self.journal.start()
        self._parts.callback(self.journal.close)
        for tracer in self._tracers:
            self._parts.push_async_callback(asyncio.to_thread, tracer.close)
        takeover_s, workers = config.timers.takeover_s, config.workers
        left = await asyncio.to_thread(self.journal.take_over, self.index, workers, takeover_s)
        await self._started("recorder", self.recorder)
        await self._started("fleets", self.fleets)
        await self._started("store", self.store)
        await self._started("spending_caps", services.spending_caps)
        await self._started("live", self.live)
        await self._started("forwards", self.forwards)
        await self._started("admin", self.admin)
        await self._started("dialled", services.dialled)
        await self.endpoint.open(self._sockets)
        serials = self.endpoint.streams.adopt(self._connections)
        services.registrar.flows.adopt(self._flows, serials)
        await self._continue_calls(redis, left)
        await self._started("endpoint", self.endpoint)
        self._parts.push_async_callback(self.calls.stop, 5.0)
        if config.workers > 1:
            try:
                self.endpoint.meet(directory_of(config.redis.data_dir), self.index)
            except OSError as error:  # each has only its own calls
                self.log.error("siblings.unusable", error=str(error))
        await self._started("probing", services.probing)
        await self._started("registrar", services.registrar)
        self._fit_descriptors()
        place = self.endpoint.transports.addresses, self.admin.address
        self._heartbeat = WorkerHeartbeat(
            redis,
            myself(self.epoch, self.index, *place),
            on_error=partial(self.rejections.redis, "presence"),
            on_workers=self._on_workers,
        )
        await self._started("heartbeat", self._heartbeat)
        beating = background_tasks.keep(self._beat, "worker: the heartbeat stopped")
        self.is_started = True
        self._start_is_over.set()
        completing = services.loop.create_task(self._ends.complete(left, self.live, self.forwards))

        async def end() -> None:
            beating.cancel()
            await asyncio.wait([completing], timeout=5.0)

        self._parts.push_async_callback(end)
        self.collector.start()

    async def _continue_calls(self, redis: Client, left: list[Left]) -> None:
        """Continue the calls of dead processes, of this host and of others."""
        continued = ContinuedCalls(self.services, self.calls, self.journal, self._tasks)
        if self.config.calls.standby == "none":
            await continued.take(left)
            return

        async def continue_calls(others: Sequence[LeftCalls]) -> None:
            await continued.take(others)
            await self._ends.complete(others, self.live, self.forwards)

        self._standby = Standby(
            redis,
            self.config,
            self.journal,
            self.calls,
            self.endpoint,
            self.epoch,
            continue_calls=continue_calls,
            on_error=partial(self.rejections.redis, "standby"),
        )
        others = await self._standby.begin(left)
        await continued.take([*left, *others])
        await self._ends.complete(others, self.live, self.forwards)
        await self._started("standby", self._standby)

    async def _started(self, name: str, part: Part) -> None:
        """Start a part, and close it at the end, with a time limit."""

        async def close() -> None:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await part.close()
            except TimeoutError:
                self.log.error("close.stuck", part=name)

        self._parts.push_async_callback(close)
        await part.start()

    # -- while it runs ----------------------------------------------------------------------------

    def _plan_left_s(self, number: str) -> float | None:
        entry = self.store.latest(number)
        return entry.plan_left_s() if entry is not None else None

    def _fit_descriptors(self) -> None:
        """Accept no more connections than there are descriptors, besides those for the pages and
        Redis."""
        wanted, room = self.config.limits.connections, self.endpoint.streams.room
        if not descriptors.streams_of(self.config):
            return
        limit = descriptors.raised(wanted)
        most, strangers = descriptors.fit(limit, descriptors.in_use(), wanted)
        room.limit(most, min(room.per_source, most), strangers)
        if most < wanted:
            self.log.warning("descriptors.few", limit=limit, wanted=wanted, connections=most)

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
        watch("trace_dropped", lambda: sum(tracer.dropped for tracer in self._tracers))
        watch("connections", lambda: self.endpoint.streams.room.count)
        watch("live_unshared", lambda: self.live.local_decisions + self.forwards.local_decisions)
        watch("standby_calls", lambda: self._standby.kept if self._standby else 0)
        watch("standby_waiting", lambda: self._standby.waiting if self._standby else 0)
        watch("legs", lambda: len(self.endpoint.legs))
        watch("dialogs", lambda: self.endpoint.dialogs)
        watch("transactions", lambda: self.endpoint.transactions)
        watch("tasks", lambda: len(self._tasks))
        self.metrics.sip_messages(lambda: self.endpoint.counts)
        self.metrics.destinations(lambda: self.services.probing.up)

    def apply(self, config: Config) -> tuple[str, ...]:
        """Apply the live keys of another configuration and return the paths of those that differ.
        Calls read `config` at each use; this updates the other parts."""
        changed = changes(self.config, config).live
        self.config = self.services.config = with_live(self.config, config)
        calls = ((call.source, call.facts.called) for call in self.calls)
        self.admission.limit(self.config.limits, calls)
        log.apply(self.config.log)
        self.endpoint.trust(*sip_settings.peers(self.config))
        if {"numbering.also_valid", "numbering.forward_countries"}.intersection(changed):
            self.services.numbering = self.config.numbering.plan()
            self.store.renumber(self.services.numbering)
            self.fleets.renumber(self.services.numbering)
        probed = ("destinations.", "sip.probe_s", "sip.outbound_proxy")
        if any(path.startswith(probed) for path in changed):
            self.services.probing.restart()
            self.services.dialled.apply(self.config)
        return changed

    async def drain(self) -> None:
        """Refuse new calls and wait for those in progress, at most `timers.drain_s`."""
        self.admission.draining = True
        await self._start_is_over.wait()  # it may continue calls of another process
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

    def not_ready(self) -> str | None:
        """Why no new call should be sent here; None if all is well (`/readyz`)."""
        if self.admission.draining:
            return DRAINING
        if not self.is_started:
            return "starting"
        age_s = self.store.age_s()
        if age_s > self.config.rules.stale_max_s:
            return f"redis away for {age_s:.0f} s, rules.stale_max_s is passed"
        return None

    def remark(self) -> str | None:
        """Problems while calls are taken, such as waiting records."""
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

    def _on_changed(self, leg: Leg) -> None:
        if isinstance(leg.owner, CallFacts):
            leg.owner.touch()

    def _on_leased(self, call_id: str) -> None:
        call = self.calls.find(call_id)
        if call is not None:
            call.facts.touch()

    def _on_kept(self, leg: Leg) -> None:
        """The next message must not be sent before the journal has this."""
        facts = leg.owner
        if isinstance(facts, CallFacts):
            if leg.is_caller and leg.state is ANSWERED:
                facts.talks()
            self.journal.write(facts)

    def _on_line(self, number: str | None) -> None:
        """A line's document has changed; None: any may have, and transfers may be missing too."""
        self.services.max_calls.changed(number)
        if number is None and self.is_started:
            self.calls.handovers.transfers.missed()

    def _on_probe(self, key: str) -> None:
        """A change has been written, and is in force here: say so, once there is a heartbeat."""
        if self._heartbeat is not None:
            self._heartbeat.on_probe(key)

    def _on_workers(self, count: int) -> None:
        """Set how many workers share the limits on a line's forwards; those of this host may not
        have started yet."""
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
                self.store.read_all_again()
            offset = now
            self.rejections.log_sources()
            self.journal.beat()
            look()
