"""Configuration: frozen sections, one strict reader (the contract of config.yaml).

Every key is optional. An unknown key, a wrong type or a value out of range is a `ConfigError` that
names the key's path, the value and what was expected. Attribute names are the keys of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml

from engine import config_values as values
from engine.config_values import Address, Listen, Network
from rules import numbers
from sip.address import fits_family
from store.url import with_tls

__all__ = ["Address", "Config", "ConfigError", "Listen", "Network", "load", "read"]

DEFAULT_PATH = Path("config.yaml")
CONFIG_VARIABLE = "RENVOI_CONFIG"  # read by the command line
REDIS_URL_VARIABLE = "RENVOI_REDIS_URL"
SUPERVISOR = "admin.supervisor_listen"


class ConfigError(ValueError):
    """An invalid configuration.

    `path` is the key's path ("timers.pre_ringing_s") or the file's name, `value` its value (None if
    there is nothing to show), `problem` what was expected.
    """

    def __init__(self, path: str, value: object, problem: str) -> None:
        self.path = path
        self.value = value
        self.problem = problem
        got = "" if value is None else f" (got {values.shown(value)})"
        super().__init__(f"{path}: {problem}{got}")


Change = Literal["live", "restart", "fixed"]


def _key(default: object, read: Callable[[Any], object], change: Change = "restart") -> Any:
    """One key: its default as it would be written in the file, and the function that reads it.

    `change` says what a new value needs at SIGHUP (engine/reload.py): `live` nothing, `restart` a
    rolling restart of the workers, `fixed` a restart of the whole engine.
    """
    return field(default_factory=lambda: read(default), metadata={"read": read, "change": change})


@dataclass(frozen=True, slots=True)
class Sip:
    listen: tuple[Listen, ...] = _key(["udp:127.0.0.1:5080"], values.listens)
    advertise: str | None = _key(None, values.optional(values.host))
    trusted_peers: tuple[Network, ...] = _key(
        ["127.0.0.0/8", "::1/128"], values.networks, change="live"
    )
    outbound_proxy: str | None = _key(None, values.optional(values.sip_uri), change="live")
    nameservers: tuple[Address, ...] | None = _key(None, values.optional(values.nameservers))
    probe_s: float = _key(0, values.zero_or_seconds(1, 3600), change="live")
    registrar: bool = _key(True, values.flag)
    refer: Literal["checked", "passed"] = _key(
        "checked", values.one_of("checked", "passed"), change="live"
    )
    registrar_peers: tuple[Network, ...] | None = _key(
        None, values.optional(values.networks), change="live"
    )
    register_min_s: int = _key(60, values.whole(1, 86400), change="live")
    register_max_s: int = _key(7200, values.whole(1, 7 * 86400), change="live")
    tls_certificate: Path | None = _key(None, values.optional(values.file))
    tls_key: Path | None = _key(None, values.optional(values.file))
    tls_ca: Path | None = _key(None, values.optional(values.file))
    tls_verify_client: bool = _key(False, values.flag)
    tls_verify_server: bool = _key(True, values.flag)
    realm: str = _key("renvoi", values.quotable, change="live")


@dataclass(frozen=True, slots=True)
class Destinations:
    """URI templates: {number} = the target in E.164 with +, {national} = without it."""

    voicemail: str = _key("sip:{number}@127.0.0.1:5091", values.template, change="live")
    fax: str = _key("sip:{number}@127.0.0.1:5092", values.template, change="live")
    number: str = _key("sip:{number}@127.0.0.1:5093", values.template, change="live")


@dataclass(frozen=True, slots=True)
class Numbering:
    country: str = _key("FR", values.country)
    also_valid: tuple[str, ...] = _key([], values.several(values.number_prefix), change="live")
    forward_countries: tuple[str, ...] | None = _key(
        None, values.optional(values.countries), change="live"
    )
    timezone: str = _key("Europe/Paris", values.timezone)
    identity: Literal["asserted", "from"] = _key(
        "asserted", values.one_of("asserted", "from"), change="live"
    )
    star_codes: bool = _key(True, values.flag, change="live")
    voicemail_codes: tuple[str, ...] = _key(
        ["123", "888"], values.several(values.short_number), change="live"
    )

    def plan(self) -> numbers.Numbering:
        """The numbering plan for the rules."""
        return numbers.Numbering(
            self.country, self.also_valid, self.forward_countries, self.timezone
        )


@dataclass(frozen=True, slots=True)
class Timers:
    """All in seconds."""

    pre_ringing_s: float = _key(5, values.seconds(0.05, 120), change="live")
    next_server_s: float = _key(2, values.seconds(0.05, 120), change="live")
    group_ring_s: float = _key(10, values.seconds(0.05, 120), change="live")
    max_ring_s: float = _key(180, values.seconds(0.05, 3600), change="live")
    session_expires_s: int = _key(1800, values.zero_or(90, 86400), change="live")
    max_call_s: float = _key(14400, values.seconds(0.05, 7 * 86400), change="live")
    drain_s: float = _key(3600, values.seconds(0, 7 * 86400), change="live")
    hung_s: float = _key(10, values.seconds(1, 3600), change="live")
    takeover_s: float = _key(30, values.seconds(0, 3600))
    idle_connection_s: float = _key(60, values.seconds(1, 86400))


@dataclass(frozen=True, slots=True)
class Calls:
    standby: Literal["none", "redis"] = _key("none", values.one_of("none", "redis"))


@dataclass(frozen=True, slots=True)
class Limits:
    """0 = no limit."""

    max_diversions: int = _key(5, values.whole(0, 70), change="live")
    calls: int = _key(20000, values.whole(0, 1_000_000), change="live")
    calls_per_second: int = _key(0, values.whole(0, 1_000_000), change="live")
    wait_s: float = _key(0.05, values.zero_or_seconds(0.005, 5), change="live")
    peer_calls: int = _key(0, values.whole(0, 1_000_000), change="live")
    peer_calls_per_second: int = _key(0, values.whole(0, 1_000_000), change="live")
    line_calls: int = _key(0, values.whole(0, 1_000_000), change="live")
    line_calls_per_second: int = _key(0, values.whole(0, 1_000_000), change="live")
    connections: int = _key(10_000, values.whole(1, 1_000_000))
    connections_per_source: int | None = _key(None, values.optional(values.whole(0, 1_000_000)))
    message_bytes: int = _key(262_144, values.whole(4000, 524_288))
    forwards_per_line: int = _key(50, values.whole(0, 1_000_000), change="live")
    forwards_per_line_per_hour: int = _key(0, values.whole(0, 1_000_000), change="live")


@dataclass(frozen=True, slots=True)
class Rules:
    cache_lines: int = _key(200_000, values.whole(1, 100_000_000))
    stale_max_s: float = _key(3600, values.seconds(0, 30 * 86400))
    when_unavailable: Literal["reject", "ring"] = _key(
        "reject", values.one_of("reject", "ring"), change="live"
    )
    live_count: Literal["shared", "local"] = _key("shared", values.one_of("shared", "local"))


@dataclass(frozen=True, slots=True)
class Redis:
    """`url` may hold a password: never print it, see `safe_url`."""

    url: str = _key("embedded", values.redis_url)
    data_dir: Path = _key("data", values.directory)
    tls_ca: Path | None = _key(None, values.optional(values.file))
    tls_certificate: Path | None = _key(None, values.optional(values.file))
    tls_key: Path | None = _key(None, values.optional(values.file))
    tls_verify: bool = _key(True, values.flag)

    def with_tls(self) -> Redis:
        """The same, with the TLS keys in its URL. Raises ConfigError."""
        given: dict[str, object] = {"tls_ca": self.tls_ca, "tls_certificate": self.tls_certificate}
        given |= {"tls_key": self.tls_key, "tls_verify": None if self.tls_verify else "false"}
        stray = next((name for name, value in given.items() if value is not None), None)
        if stray is not None and not self.url.startswith("rediss"):
            raise ConfigError(f"redis.{stray}", str(given[stray]), "needs a rediss:// URL")
        if self.tls_key is not None and self.tls_certificate is None:
            raise ConfigError("redis.tls_key", str(self.tls_key), "needs redis.tls_certificate")
        url = with_tls(self.url, self.tls_ca, self.tls_certificate, self.tls_key, self.tls_verify)
        return replace(self, url=url)

    @property
    def embedded(self) -> bool:
        return self.url == "embedded"

    @property
    def safe_url(self) -> str:
        """The URL without its user and password, for messages and logs."""
        return values.without_secret(self.url)

    def cannot_reach(self, reason: str) -> str:
        """The error that it does not answer."""
        return f"redis.url: cannot reach {self.safe_url}: {reason}"

    def __repr__(self) -> str:
        return f"Redis(url={self.safe_url!r}, data_dir={str(self.data_dir)!r})"


@dataclass(frozen=True, slots=True)
class Admin:
    listen: Address = _key("127.0.0.1:9100", values.address, change="fixed")
    supervisor_listen: Address | None = _key(None, values.optional(values.address), change="fixed")


@dataclass(frozen=True, slots=True)
class Manager:
    """The customer's page and REST API, a process of their own (docs/manager.md). An engine uses
    none of it: a change restarts no worker."""

    listen: Address = _key("127.0.0.1:8080", values.address, change="live")
    admin_listen: Address = _key("127.0.0.1:8081", values.address, change="live")
    https: bool = _key(False, values.flag, change="live")
    trusted_proxies: tuple[Network, ...] = _key([], values.networks, change="live")
    session_idle_s: int = _key(1800, values.whole(60, 7 * 86400), change="live")
    session_max_s: int = _key(43_200, values.whole(60, 30 * 86400), change="live")
    login_attempts: int = _key(10, values.whole(1, 1000), change="live")


@dataclass(frozen=True, slots=True)
class Notify:
    """Webhooks and e-mails, a process of their own (docs/notifications.md). The password of the
    SMTP server is in the environment. An engine uses none of it: a change restarts no worker."""

    admin_listen: Address = _key("127.0.0.1:8082", values.address, change="live")
    allow_networks: tuple[Network, ...] = _key([], values.networks, change="live")
    tls_ca: Path | None = _key(None, values.optional(values.file), change="live")
    timeout_s: float = _key(10, values.seconds(0.5, 60), change="live")
    retry_s: float = _key(5, values.seconds(0.1, 3600), change="live")
    retry_max_s: float = _key(3600, values.seconds(0.1, 86400), change="live")
    give_up_s: float = _key(86400, values.seconds(1, 7 * 86400), change="live")
    queue: int = _key(1000, values.whole(1, 100_000), change="live")
    prevented_s: float = _key(3600, values.seconds(1, 7 * 86400), change="live")
    smtp_host: str | None = _key(None, values.optional(values.host), change="live")
    smtp_port: int = _key(587, values.whole(1, 65535), change="live")
    smtp_security: Literal["starttls", "tls", "none"] = _key(
        "starttls", values.one_of("starttls", "tls", "none"), change="live"
    )
    smtp_user: str | None = _key(None, values.optional(values.text), change="live")
    mail_from: str | None = _key(None, values.optional(values.mailbox), change="live")
    mails_per_hour: int = _key(60, values.whole(1, 10_000), change="live")


@dataclass(frozen=True, slots=True)
class Log:
    level: Literal["debug", "info", "warning", "error", "critical"] = _key(
        "info", values.one_of("debug", "info", "warning", "error", "critical"), change="live"
    )
    sample: float = _key(0, values.share, change="live")
    numbers: Literal["full", "masked", "none"] = _key(
        "full", values.one_of("full", "masked", "none"), change="live"
    )
    format: Literal["json", "console"] = _key("json", values.one_of("json", "console"))


@dataclass(frozen=True, slots=True)
class Trace:
    """null = off, at no cost."""

    hep: Address | None = _key(None, values.optional(values.capture_server))
    hep_id: int = _key(2001, values.whole(1, 2**32 - 1))
    otlp: str | None = _key(None, values.optional(values.http_url))


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. `Config()` holds the defaults."""

    sip: Sip = field(default_factory=Sip)
    destinations: Destinations = field(default_factory=Destinations)
    numbering: Numbering = field(default_factory=Numbering)
    timers: Timers = field(default_factory=Timers)
    calls: Calls = field(default_factory=Calls)
    limits: Limits = field(default_factory=Limits)
    rules: Rules = field(default_factory=Rules)
    redis: Redis = field(default_factory=Redis)
    admin: Admin = field(default_factory=Admin)
    manager: Manager = field(default_factory=Manager)
    notify: Notify = field(default_factory=Notify)
    log: Log = field(default_factory=Log)
    trace: Trace = field(default_factory=Trace)
    workers: int = _key(1, values.whole(1, 256), change="fixed")

    @property
    def supervisor_listen(self) -> Address:
        """The supervisor's HTTP address; by default the port after the workers'."""
        listen = self.admin.listen
        next_port = listen.port + self.workers if listen.port else 0
        return self.admin.supervisor_listen or Address(listen.host, next_port)

    def ports(self) -> Iterator[tuple[str, Listen]]:
        """All addresses that `renvoi serve` listens on, of every worker and of the supervisor, with
        the paths of their keys. A port 0 (any free one) stays 0."""
        admin = Listen("tcp", self.admin.listen.host, self.admin.listen.port)
        places = [(f"sip.listen[{i}]", listen) for i, listen in enumerate(self.sip.listen)]
        for place, listen in [*places, ("admin.listen", admin)]:
            for worker in range(self.workers):
                yield place, replace(listen, port=listen.port and listen.port + worker)
        if self.workers > 1:
            where = self.supervisor_listen
            yield SUPERVISOR, Listen("tcp", where.host, where.port)


SECTIONS: dict[str, type[Any]] = {
    "sip": Sip,
    "destinations": Destinations,
    "numbering": Numbering,
    "timers": Timers,
    "calls": Calls,
    "limits": Limits,
    "rules": Rules,
    "redis": Redis,
    "admin": Admin,
    "manager": Manager,
    "notify": Notify,
    "log": Log,
    "trace": Trace,
}


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Reads the file at `path`; None = `config.yaml` in the current directory, if there is one.

    `RENVOI_REDIS_URL` overrides `redis.url`. Raises ConfigError.
    """
    return build(load_document(path), environ)


def load_document(path: Path | None) -> object:
    """The content of the file at `path`, unchecked; None as in `load`. Raises ConfigError."""
    if path is None and not _has_default():
        return None
    return _parse(path or DEFAULT_PATH)


def _has_default() -> bool:
    try:
        return DEFAULT_PATH.exists()
    except OSError:  # the current directory may not be entered: reading it says so
        return True


def build(document: object, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration from such a document and the environment. Raises ConfigError."""
    config = read(document)
    if url := environ.get(REDIS_URL_VARIABLE):
        try:
            config = replace(config, redis=replace(config.redis, url=values.redis_url(url)))
        except ValueError as error:
            raise ConfigError(REDIS_URL_VARIABLE, values.without_secret(url), str(error)) from None
    if config.calls.standby == "redis" and config.redis.embedded:
        problem = "needs a Redis that outlives this host, but redis.url is embedded"
        raise ConfigError("calls.standby", "redis", problem)
    return replace(config, redis=config.redis.with_tls())


def read(document: object) -> Config:
    """Builds a Config from the content of a YAML file. Raises ConfigError."""
    if document is None:  # an empty file, or one with comments only
        document = {}
    config = Config(**_section(Config, document, ""))
    _check_ports(config)
    _check_advertise(config.sip)
    _check_longest(config.sip)
    if config.notify.smtp_host is not None and config.notify.mail_from is None:
        raise ConfigError("notify.mail_from", "null", "is needed with notify.smtp_host")
    return config


def _section(section: type[Any], document: object, path: str) -> dict[str, Any]:
    """The values of one mapping, read key by key."""
    if not isinstance(document, dict):
        raise ConfigError(path or "config", document, "expected a mapping of keys to values")
    known = {item.name: item for item in fields(section)}
    given: dict[str, Any] = {}
    for name, value in document.items():
        place = f"{path}.{name}" if path else str(name)
        if name not in known:
            alike = get_close_matches(str(name), known, 1)
            hint = f"did you mean {alike[0]}? " if alike else ""
            raise ConfigError(place, value, f"unknown key, {hint}known here: {', '.join(known)}")
        if name in SECTIONS and not path:
            if value is not None:  # a section whose keys are all commented out
                given[name] = SECTIONS[name](**_section(SECTIONS[name], value, place))
            continue
        try:
            given[name] = known[name].metadata["read"](value)
        except ValueError as error:
            secret = name == "url" and isinstance(value, str)
            raise ConfigError(
                place, values.without_secret(value) if secret else _visible(value), str(error)
            ) from None
    return given


def _visible(value: object) -> object:
    """In an error None means "nothing to show", so a null in the file is shown as "null"."""
    return "null" if value is None else value


def _check_ports(config: Config) -> None:
    """Worker i adds i to every port: the last worker's ports must be valid too, and no two may be
    equal."""
    taken: dict[tuple[str, str, int], str] = {}
    for place, listen in config.ports():
        if listen.port > 65535:
            first = listen.port - config.workers + 1
            wants = "the supervisor" if place == SUPERVISOR else f"{config.workers} workers"
            place = "admin.listen" if place == SUPERVISOR else place
            raise ConfigError(place, first, f"no port left for {wants}")
        if listen.port:
            family = "udp" if listen.transport == "udp" else "tcp"
            other = taken.setdefault((family, listen.host, listen.port), place)
            if other != place:
                raise ConfigError(place, listen.port, f"port already used by {other}")


def _check_advertise(sip: Sip) -> None:
    """An IP address can only be shown for a listening address of its own family."""
    name = sip.advertise
    if name is not None and not any(fits_family(name, item.ipv6) for item in sip.listen):
        family = "IPv6" if ":" in name else "IPv4"
        raise ConfigError("sip.advertise", name, f"nothing in sip.listen is {family}")


def _check_longest(sip: Sip) -> None:
    """The longest registration is not below the shortest."""
    least, most = sip.register_min_s, sip.register_max_s
    if least > most:
        problem = f"expected at most sip.register_max_s, which is {most}"
        raise ConfigError("sip.register_min_s", least, problem)


def _parse(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), None, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), None, f"is not UTF-8 text (byte {error.start})") from None
    try:
        return yaml.load(text, _UniqueKeys)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(where, None, f"is not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(str(path), None, f"is not YAML: {problem}") from None


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key written twice is an error, not a silent last-one-wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is no plain text", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is written twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)
