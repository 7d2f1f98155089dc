"""The composition root of one worker: store, SIP, metrics and records; run, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from engine import log, redis_client, tls
from engine.admin import AddressInUse, Admin
from engine.call import Call
from engine.cdr import Recorder
from engine.config import Address as HttpAddress
from engine.config import Config
from engine.live import LiveCalls
from engine.metrics import REJECTIONS, Metrics
from engine.outcome import Over
from engine.probing import Probing
from engine.redis_server import EmbeddedRedis, EmbeddedRedisError
from engine.registrar import Registrar
from engine.story import telling
from rules.decide import ForwardTo
from rules.model import DocumentError, Line
from rules.numbers import Numbering
from rules.store import Store
from sip import headers
from sip.endpoint import Address, Endpoint, ListenError, Settings
from sip.incoming import Incoming
from sip.message import Message
from sip.pjsip import LayoutError

RETRY_AFTER_S = 5  # told to a caller who is refused for overload
LAG_PROBE_S = 0.25
TELL_EVERY_S = 1.0
CONNECT_S = 3.0


class StartError(RuntimeError):
    """The worker cannot start; the text is one line for the operator."""


class Worker:
    """Everything one process needs to route calls. `index` is added to each port."""

    def __init__(self, config: Config, index: int = 0) -> None:
        self.config = config
        self.index = index
        self.log = log.get_logger("engine", worker=index)
        self.numbering = Numbering(config.numbering.country)
        self.metrics = Metrics()
        self.calls: dict[str, Call] = {}
        self.forwards: Counter[str] = Counter()  # forwarded calls that stand, by forwarding line
        self.draining = False
        self._epoch = f"{int(time.time()):x}{secrets.token_hex(3)}"
        self._serial = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._told: dict[str, float] = {}  # when a reason for refusing was last logged
        self._tokens = 0.0
        self._tokens_at = 0.0
        self._lag_s = 0.0
        self._embedded: EmbeddedRedis | None = None

    # -- life cycle -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises StartError with one line that names the field and the value."""
        self.loop = asyncio.get_running_loop()
        try:
            if self.config.workers > 1:
                raise StartError(
                    f"workers: this version runs one worker (got {self.config.workers}); "
                    "start more engines, each with its own ports, and share Redis"
                )
            await self._start_redis()
            await self._start_rest()
        except (LayoutError, ListenError, AddressInUse, EmbeddedRedisError, tls.TlsError) as error:
            await self.close()
            raise StartError(str(error)) from error
        except StartError:
            await self.close()
            raise

    async def _start_redis(self) -> None:
        url = self.config.redis.url
        if self.config.redis.embedded:
            self._embedded = EmbeddedRedis(self.config.redis.data_dir)
            await self._embedded.start()
            url = self._embedded.url
        try:
            # Socket limits for the writers; the store bounds its own waits.
            self.redis: Redis = redis_client.connect(
                url, socket_connect_timeout=CONNECT_S, socket_timeout=10.0
            )
            await asyncio.wait_for(self.redis.ping(), CONNECT_S)
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            reason = str(error) or "no answer"
            raise StartError(
                f"redis.url: cannot reach {self.config.redis.safe_url}: {reason}"
            ) from error

    async def _start_rest(self) -> None:
        config = self.config
        self.store = Store(
            self.redis,
            numbering=self.numbering,
            cache_lines=config.rules.cache_lines,
            stale_max_s=config.rules.stale_max_s,
            timezone=config.numbering.timezone,
            canary=f"{os.getpid()}-{self._epoch}",
        )
        self.store.on_refused = self._on_document_refused
        self.live = LiveCalls(self.redis, shared=config.rules.live_count == "shared")
        self.recorder = Recorder(
            self.redis,
            timezone=config.numbering.timezone,
            worker=f"{self.index}-{self._epoch}",
            spool=config.redis.data_dir / f"cdr-{self.index}.spool",
        )
        self.registrar = Registrar(self)
        self.probing = Probing(self)
        self.endpoint = Endpoint(
            self._sip_settings(),
            on_invite=self.on_invite,
            gate=self._gate,
            on_rejected=self._on_rejected,
            on_register=self.registrar.on_register if config.sip.registrar else None,
            on_race=self.metrics.race,
            on_connection=self._on_connection,
            on_error=self._on_sip_error,
        )
        listen = config.admin.listen
        self.admin = Admin(
            HttpAddress(listen.host, listen.port + self.index if listen.port else 0),
            self.metrics,
            self.not_ready,
            lambda: [call.now() for call in self.calls.values()],
        )
        # The rules first: whoever is let in finds them.
        await self.store.start()
        await self.live.start()
        await self.recorder.start()
        await self.registrar.start()
        await self.endpoint.start()
        self._watch()
        self.probing.start()
        await self.admin.start()
        self._lag_task = self.loop.create_task(self._measure_lag())
        # The start-up's objects live for ever: keep the collector from walking them again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)

    def _sip_settings(self) -> Settings:
        sip = self.config.sip
        return Settings(
            listen=tuple(
                Address(item.transport, item.host, item.port + self.index) for item in sip.listen
            ),
            advertise=sip.advertise,
            trusted_peers=tuple(map(str, sip.trusted_peers)),
            registrar_peers=tuple(
                map(str, sip.trusted_peers if sip.registrar_peers is None else sip.registrar_peers)
            ),
            outbound_proxy=sip.outbound_proxy,
            nameservers=None
            if sip.nameservers is None
            else tuple((item.host, item.port) for item in sip.nameservers),
            connections=self.config.limits.connections,
            server_tls=tls.server_context(sip),
            client_tls=tls.client_context(sip),
        )

    def _watch(self) -> None:
        watch = self.metrics.watch
        watch("active_calls", lambda: len(self.calls))
        watch("redis_up", lambda: float(self.store.redis_up))
        watch("rules_age", self.store.age_s)
        watch("invalidation_lag", lambda: self.store.invalidation_lag_s)
        watch("loop_lag", lambda: self._lag_s)
        watch("cdr_backlog", lambda: self.recorder.backlog)
        watch("cdr_lost", lambda: self.recorder.lost)
        watch("log_dropped", log.dropped)
        watch("connections", lambda: len(self.endpoint.streams.connections))
        watch("legs", lambda: len(self.endpoint.legs))
        watch("dialogs", lambda: self.endpoint.dialogs)
        watch("transactions", lambda: self.endpoint.transactions)
        watch("tasks", lambda: len(self._tasks))
        self.metrics.sip_messages(lambda: self.endpoint.counts)
        self.metrics.destinations(lambda: self.probing.up)

    async def drain(self) -> None:
        """Refuse new calls and wait for the standing ones, at most `timers.drain_s`."""
        self.draining = True
        self.log.info("drain.start", calls=len(self.calls), deadline_s=self.config.timers.drain_s)
        loop = asyncio.get_running_loop()
        until = loop.time() + self.config.timers.drain_s
        while self.calls and loop.time() < until:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), min(10.0, until - loop.time()))
            except TimeoutError:
                self.log.info("drain.progress", calls=len(self.calls))
        self.log.info("drain.end", calls=len(self.calls))

    async def close(self) -> None:
        """End every call with its record, then everything else, in the reverse order of start."""
        self.draining = True
        for call in list(self.calls.values()):
            call.stop(503, "shutdown")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)
        if hasattr(self, "_lag_task"):
            self._lag_task.cancel()
        for name in ("registrar", "probing", "endpoint", "admin", "store", "live", "recorder"):
            part = getattr(self, name, None)
            if part is not None:
                await part.close()
        if hasattr(self, "redis"):
            await self.redis.aclose()
        if self._embedded is not None:
            await self._embedded.close()

    def not_ready(self) -> str | None:
        """Why no new call should be sent here, None when all is well (`/readyz`)."""
        if self.draining:
            return "draining"
        age_s = self.store.age_s()
        if age_s > self.config.rules.stale_max_s:
            return f"redis away for {age_s:.0f} s, rules.stale_max_s is passed"
        return None

    # -- calls ------------------------------------------------------------------------------------

    def on_invite(self, leg: Incoming) -> None:
        """A new call: into a coroutine of its own, by the number it calls."""
        assert leg.invite is not None
        called = self.numbering.quick(headers.user_of(leg.invite.target))
        if called is None:
            target = leg.invite.target
            self._on_rejected("bad_number", lambda: f"no number: {target!r} from {leg.source}")
            leg.reject(404)
            return
        try:
            call = Call(self, leg, called)
        except Exception:
            self.log.exception("call.error")
            leg.reject(500)
            return
        self.calls[call.story.id] = call
        task = self.loop.create_task(call.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._count_caller(call)

    def on_call_over(self, call: Call, over: Over) -> None:
        """The end of every call, on every path: counts down, counts, records, tells."""
        story = call.story
        self.calls.pop(story.id, None)
        self.live.leave(story.caller, caller_hold(story.id))
        record = story.record(over)
        self.metrics.call_ended(record.condition, record.destination, record.outcome)
        self.recorder.add(record)
        self.log.info("call.end", **telling(record))
        if not self.calls:
            self._idle.set()

    def release_forward(self, line: str) -> None:
        """One forwarded call of this line less."""
        self.forwards[line] -= 1
        if self.forwards[line] <= 0:
            del self.forwards[line]

    def _count_caller(self, call: Call) -> None:
        """A call that a line makes through the engine counts on that line too (domain.md 1.3)."""
        number = call.story.caller
        if not number:
            return
        entry = self.store.peek(number)
        if entry is None:
            task = self.loop.create_task(self._count_caller_later(call, number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif entry.line is not None:
            self._hold(call, entry.line)

    async def _count_caller_later(self, call: Call, number: str) -> None:
        try:
            entry = await self.store.look_up(number)
        except Exception:
            return  # Redis is away: whether the caller is a line of ours is not known
        if entry.line is not None and call.story.id in self.calls:
            self._hold(call, entry.line)

    def _hold(self, call: Call, line: Line) -> None:
        held = caller_hold(call.story.id)
        self.live.add(line.number, held, lease=line.max_calls is not None)

    def new_call_id(self) -> str:
        """Unique for ever: worker, start of the worker, number of the call."""
        self._serial += 1
        return f"{self.index}-{self._epoch}-{self._serial}"

    def caller_of(self, invite: Message) -> str | None:
        """The caller in E.164, by P-Asserted-Identity (only trusted peers send calls) or From."""
        for name in (b"p-asserted-identity", b"from"):
            for value in invite.values(name):
                number = self.numbering.quick(headers.user_of(value))
                if number is not None:
                    return number
        return None

    def uri_of(self, forward: ForwardTo) -> str:
        """The Request-URI of a forward's new leg."""
        template: str = getattr(self.config.destinations, forward.kind)
        uri = fill(template, forward.number)
        if forward.kind == "voicemail":
            # Always deposit: the mailbox and the reason are told, no caller lands inside one.
            uri += headers.voicemail_parameters(uri.partition(";")[0], forward.cause)
        return uri

    def _gate(self) -> tuple[str, int] | None:
        """Whether a new call may come in; (reason, Retry-After in seconds) if not."""
        limits = self.config.limits
        if self.draining:
            return "draining", RETRY_AFTER_S
        if limits.calls and len(self.calls) >= limits.calls:
            return "overload", RETRY_AFTER_S
        if limits.calls_per_second:
            now = self.loop.time()
            rate = limits.calls_per_second
            self._tokens = min(rate, self._tokens + (now - self._tokens_at) * rate)
            self._tokens_at = now
            if self._tokens < 1:
                return "overload", 1
            self._tokens -= 1
        return None

    # -- what the parts tell ----------------------------------------------------------------------

    def _on_rejected(self, reason: str, detail: Callable[[], str]) -> None:
        """Count a refused message; tell of one a second for each reason, whatever comes in."""
        self.metrics.rejected(reason)
        now = self.loop.time()
        if now - self._told.get(reason, -TELL_EVERY_S) >= TELL_EVERY_S:
            self._told[reason] = now
            self.log.warning("request.rejected", reason=reason, detail=detail())

    def _on_connection(self, what: str, detail: str) -> None:
        """A connection that could not be made or kept."""
        if what in REJECTIONS:
            self._on_rejected(what, lambda: detail)
        else:
            self.metrics.connection_failed()
            self.log.warning("connection.failed", reason=what, detail=detail)

    def _on_document_refused(self, key: str, error: DocumentError) -> None:
        self.metrics.documents_refused(key.partition(":")[0])
        self.log.warning("document.refused", key=key, field=error.field, error=str(error))

    def _on_sip_error(self, error: BaseException) -> None:
        self.log.error("sip.error", exc_info=error)

    async def _measure_lag(self) -> None:
        while True:
            due = self.loop.time() + LAG_PROBE_S
            await asyncio.sleep(LAG_PROBE_S)
            self._lag_s = max(0.0, self.loop.time() - due)


def caller_hold(call_id: str) -> str:
    """How a call counts on the line that makes it: apart from the line it reaches, which may be
    the same one."""
    return f"{call_id}:caller"


def fill(template: str, number: str) -> str:
    """A destination's URI: {number} in E.164 with +, {national} without it."""
    return template.replace("{number}", number).replace("{national}", number.lstrip("+"))
