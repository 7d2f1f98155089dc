"""`renvoi check`: is everything there that `renvoi serve` needs?"""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Callable, Sequence

import click

from engine import descriptors, ports, tls
from engine.changes.acks import LiveWorker, live_workers_blocking
from engine.commands.context import Failed, Wrong, open_redis, with_config, with_json
from engine.commands.documents import Documents, parse_document
from engine.commands.forward_words import forwards_in_words
from engine.commands.output import print_json, warn_of
from engine.commands.still_named import unknown_names
from engine.commands.watch import ADMIN_TIMEOUT_S
from engine.config import SUPERVISOR, Address, Config
from engine.config_values import listen
from engine.sip_settings import nameservers
from rules.fleet import FleetDocument, load_fleet
from rules.line_document import LineDocument, load_line
from rules.model import DocumentError
from rules.unread import UnreadFields
from sip import compiled
from sip.address import Address as Server
from sip.names import Names, Place, address_of, place_of


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
    text = f"SIP on {listens}, HTTP on {config.admin.listen}, workers {config.workers}"
    if config.workers > 1:
        last = config.workers - 1
        text += f" (ports up to +{last}), supervisor's HTTP on {config.supervisor_listen}"
    return text


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
    workers = [f"worker {worker.index} (process {worker.pid})" for worker in here]
    if here:
        words = f"an engine runs here: {', '.join(workers)}, SIP on {' '.join(here[0].sip)}"
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
            server = describe(client, url)
        except Unfit as unfit:
            raise Failed(f"redis.url: {config.redis.safe_url}: {unfit}") from None
        count, refused, idle, gone = 0, [], [], []
        unread, unread_of_fleets = UnreadFields(LineDocument), UnreadFields(FleetDocument)
        documents = Documents(client, numbering)
        for number, raw in documents.every():
            count += 1
            try:
                line = load_line(raw, number, numbering)
                unread.note(f"line {number}", parse_document(raw, f"line {number}"))
            except DocumentError as error:
                refused.append(f"line {number}: {error}")
                continue
            except Wrong as error:  # an unknown field has what is no JSON
                refused.append(error.message)
                continue
            gone += [f"line {number}: {each}" for each in unknown_names(line, documents)]
            for name, part in line.in_each_profile():
                off = documents.refused(part)
                idle += [
                    f"line {number}: {f'profile {name}: ' if name else ''}{condition} to {words}"
                    for condition, words in forwards_in_words(part, off)
                    if any(condition == of for of, _ in off)
                ]
        fleets, broken = 0, []
        for name, raw in documents.every_fleet():
            fleets += 1
            try:
                load_fleet(raw, name, numbering)
                unread_of_fleets.note(f"fleet {name}", parse_document(raw, f"fleet {name}"))
            except DocumentError as error:
                broken.append(f"fleet {name}: {error}")
            except Wrong as error:
                broken.append(error.message)
    where = config.redis.data_dir if config.redis.embedded else config.redis.safe_url
    warn_of(idle)
    warn_of(gone)
    warn_of([*unread.in_words(), *unread_of_fleets.in_words()])
    faults = [_refused("lines", count, refused), _refused("fleets", fleets, broken)]
    if any(faults):
        raise Failed(f"{where}: {'; '.join(filter(None, faults))}")
    counted = f", {len(idle)} forwards to refused numbers" if idle else ""
    return f"{server}; {where}: {count:,} line{'' if count == 1 else 's'}{counted}"


def _refused(what: str, count: int, refused: Sequence[str]) -> str:
    """How many documents are refused, and the first of them; "" if none is."""
    if not refused:
        return ""
    more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    return f"{len(refused)} of {count} {what} refused, {refused[0]}{more}"


def _check_destinations(config: Config) -> str:
    """Check that `serve` finds a server of every destination, or of the proxy to which all goes: by
    its name servers and records, and for a transport of `sip.listen`."""
    uris = {
        f"destinations.{kind}": str(getattr(config.destinations, kind))
        for kind in ("voicemail", "fax", "number")
    }
    if config.sip.outbound_proxy is not None:
        uris = {"sip.outbound_proxy": config.sip.outbound_proxy}
    places = [
        place_of(uri.replace("{number}", "+33900000000").replace("{national}", "0"))
        for uri in uris.values()
    ]
    found = asyncio.run(_servers(config, places))
    for (key, uri), place, servers in zip(uris.items(), places, found, strict=True):
        if not servers:
            by = " ".join(dict.fromkeys(each.transport for each in config.sip.listen))
            family = _family(config)
            raise Failed(
                f"{key}: {place.host}: no server found for {by} over {family} (got {uri!r})"
            )
    return ", ".join(
        f"{key.partition('.')[2]} {place.host}" for key, place in zip(uris, places, strict=True)
    )


async def _servers(config: Config, places: Sequence[Place]) -> list[list[Server]]:
    """The servers of each place to which the engine can send."""
    kinds = {(each.transport, each.ipv6) for each in config.sip.listen}
    names = Names(kinds, nameservers(config))
    found = []
    for place in places:
        server = address_of(place)
        servers = await names.ask(place) if server is None else [server]
        found.append([each for each in servers if (each.transport, ":" in each.host) in kinds])
    names.close()
    return found


def _family(config: Config) -> str:
    families = sorted({"IPv6" if each.ipv6 else "IPv4" for each in config.sip.listen})
    return " and ".join(families)
