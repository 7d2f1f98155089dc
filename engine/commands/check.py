"""`renvoi check`: is everything there that `renvoi serve` needs?"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import click
import orjson

from engine import descriptors, ports, tls
from engine.changes.acks import LiveWorker, live_workers_blocking
from engine.commands.context import Failed, open_redis, with_config, with_json
from engine.commands.documents import Documents
from engine.commands.forward_words import forwards_told
from engine.commands.output import print_json, warn_of
from engine.commands.still_named import unknown_names
from engine.commands.watch import ADMIN_TIMEOUT_S
from engine.config import SUPERVISOR, Address, Config
from engine.config_values import listen
from rules.line_document import LineDocument, load_line
from rules.model import DocumentError
from rules.unread import UnreadFields
from sip import compiled


@click.command("check", short_help="Check the configuration and what it needs.")
@with_config
@with_json
def check(config: Config, as_json: bool) -> int:
    """Check the configuration and everything that `renvoi serve` needs, one line each. Exit status
    1 when something fails. Takes no calls and changes nothing; a running engine is reported and not
    disturbed.
    """
    checks: list[tuple[str, Callable[[Config], str]]] = [
        ("config", _check_config),
        ("sip", _check_sip),
        ("tls", _check_tls),
        ("redis", _check_redis),
        ("ports", _check_ports),
        ("destinations", _check_destinations),
    ]
    results = []
    for name, run in checks:
        try:
            results.append((name, True, run(config)))
        except click.ClickException as error:
            results.append((name, False, error.message))
        if not as_json:
            _, passed, detail = results[-1]
            click.echo(f"{'ok    ' if passed else 'FAILED'}  {name:<12}  {detail}")
    if as_json:
        print_json([{"check": name, "ok": ok, "detail": detail} for name, ok, detail in results])
    return 0 if all(passed for _, passed, _ in results) else 1


def _check_config(config: Config) -> str:
    listens = " ".join(map(str, config.sip.listen))
    told = f"SIP on {listens}, HTTP on {config.admin.listen}, workers {config.workers}"
    if config.workers > 1:
        last = config.workers - 1
        told += f" (ports up to +{last}), supervisor's HTTP on {config.supervisor_listen}"
    return told


def _check_sip(config: Config) -> str:
    _check_descriptors(config)
    return compiled.words()


def _check_descriptors(config: Config) -> None:
    wanted, possible = config.limits.connections, descriptors.possible(config)
    if possible < wanted:
        needed = descriptors.needed(wanted, descriptors.AT_START)
        raise Failed(
            f"limits.connections: {wanted} need {needed} open files, the system's limit "
            f"(RLIMIT_NOFILE) lets {possible} connections in"
        )


def _check_tls(config: Config) -> str:
    """Check that the files exist and are valid, and that the key matches the certificate."""
    try:
        accepting = tls.server_context(config.sip)
        tls.client_context(config.sip)
    except tls.TlsError as error:
        raise Failed(str(error)) from None
    if accepting is None:
        return "not in sip.listen"
    asked = "asks for theirs" if config.sip.tls_verify_client else "asks for none of theirs"
    return f"certificate {config.sip.tls_certificate} with its key; of clients it {asked}"


def _check_ports(config: Config) -> str:
    """Check that all listening addresses of `serve` are free, or used by an engine of this
    machine."""
    refused, here = ports.refused(config), _workers_here(config)
    ours = [part for worker in here for part in (*worker.sip, f"tcp:{worker.admin}")]
    foreign = [
        each
        for each in refused
        if not (each.in_use and (_is_ours(each, ours) or (here and _is_supervisor(each))))
    ]
    if foreign:
        raise Failed("; ".join(map(str, foreign)))
    told = [f"worker {worker.index} (process {worker.pid})" for worker in here]
    if here:
        words = f"an engine runs here: {', '.join(told)}, SIP on {' '.join(here[0].sip)}"
        held = [each.where for each in refused]
        idle = [
            f"{key} {where}" for key, where in config.ports() if where.port and where not in held
        ]
        return words + (f"; it does not listen on {', '.join(idle)}" if idle else "")
    count = sum(1 for _ in config.ports())
    return f"{count} addresses to listen on, each of this machine and free"


def _workers_here(config: Config) -> list[LiveWorker]:
    """The workers of this machine in Redis. None if Redis cannot be asked, which its own check
    reports."""
    try:
        with open_redis(config, start=False) as client:
            workers = live_workers_blocking(client)
    except Failed:
        return []
    return [worker for worker in workers if worker.host == socket.gethostname()]


def _is_ours(refused: ports.Refused, ours: Sequence[str]) -> bool:
    """Whether one of the addresses, such as `udp:127.0.0.1:5080`, conflicts with this one."""
    wanted = refused.where
    everywhere = ("0.0.0.0", "::")
    for text in ours:
        try:
            has = listen(text)
        except ValueError:
            continue
        same_family = (has.transport == "udp") == (wanted.transport == "udp")
        meet = has.host == wanted.host or has.host in everywhere or wanted.host in everywhere
        if same_family and meet and has.port == wanted.port:
            return True
    return False


def _is_supervisor(refused: ports.Refused) -> bool:
    """Whether a supervisor answers there."""
    if refused.key != SUPERVISOR:
        return False
    where = Address(refused.where.host, refused.where.port).reached_here()
    connection = http.client.HTTPConnection(where.host, where.port, timeout=ADMIN_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return b"renvoi_worker_up" in connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _check_redis(config: Config) -> str:
    numbering = config.numbering.plan()
    with open_redis(config) as client:
        from store.check import Unfit, describe

        try:
            # The embedded one, reached over its socket, is a single server.
            url = "unix:///embedded" if config.redis.embedded else config.redis.url
            told = describe(client, url)
        except Unfit as unfit:
            raise Failed(f"redis.url: {config.redis.safe_url}: {unfit}") from None
        count, refused, idle, gone = 0, [], [], []
        unread = UnreadFields(LineDocument)
        documents = Documents(client, numbering)
        for number, raw in documents.every():
            count += 1
            try:
                line = load_line(raw, number, numbering)
            except DocumentError as error:
                refused.append(f"line {number}: {error}")
                continue
            unread.note(f"line {number}", orjson.loads(raw))
            off = documents.refused(line)
            gone += [f"line {number}: {each}" for each in unknown_names(line, documents)]
            idle += [
                f"line {number}: {condition} to {words}"
                for condition, words in forwards_told(line, off)
                if any(condition == of for of, _ in off)
            ]
    where = config.redis.data_dir if config.redis.embedded else config.redis.safe_url
    warn_of(idle)
    warn_of(gone)
    warn_of(unread.told())
    if refused:
        more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
        raise Failed(f"{where}: {len(refused)} of {count} lines refused, {refused[0]}{more}")
    counted = f", {len(idle)} forwards to refused numbers" if idle else ""
    return f"{told}; {where}: {count:,} line{'' if count == 1 else 's'}{counted}"


def _check_destinations(config: Config) -> str:
    """Check that every destination has an address."""
    told = []
    for name in ("voicemail", "fax", "number"):
        template = getattr(config.destinations, name)
        host = uri_host(template.replace("{number}", "+33900000000").replace("{national}", "0"))
        try:
            socket.getaddrinfo(host, None)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Failed(f"destinations.{name}: {host}: {reason} (got {template!r})") from None
        told.append(f"{name} {host}")
    return ", ".join(told)


def uri_host(uri: str) -> str:
    """The host of a SIP URI, an IPv6 address without its brackets."""
    where = uri.partition(":")[2].partition("?")[0].partition(";")[0].rpartition("@")[2]
    return urlsplit(f"//{where}").hostname or ""
