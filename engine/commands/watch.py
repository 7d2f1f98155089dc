"""`renvoi calls` and `renvoi cdr`: the calls that stand, and those that ended."""

from __future__ import annotations

import http.client
import time
from dataclasses import asdict
from typing import Any

import click
import orjson

from engine.commands.context import Failed, open_redis, with_config, with_json
from engine.commands.output import print_json, print_table, warn
from engine.config import Address, Config
from engine.record import STREAM, CallRecord, read_entry

ADMIN_TIMEOUT_S = 5.0
FOLLOW_BLOCK_MS = 1000
_ROW = "{:<19}  {:<15}  {:<15}  {:<13}  {:<9}  {:<15}  {:<11}  {:>4}  {:>7}  {}"
_HEAD = (
    "RECEIVED",
    "CALLER",
    "CALLED",
    "CONDITION",
    "WENT TO",
    "TARGET",
    "OUTCOME",
    "CODE",
    "SECONDS",
    "BILLING",
)


@click.command("calls", short_help="Show the calls that stand now.")
@with_config
@with_json
def show_calls(config: Config, as_json: bool) -> None:
    """Show the calls that stand now, asking every worker over its admin address."""
    calls: list[dict[str, Any]] = []
    silent = []
    for worker in range(config.workers):
        address = _reachable(config.admin.listen, worker)
        try:
            calls += _ask(address)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            silent.append(f"admin.listen: {address} gives no calls: {reason}, is renvoi serving?")
    if len(silent) == config.workers:
        raise Failed(silent[0])
    if as_json:
        print_json(calls)
    elif calls:
        names = list(dict.fromkeys(name for call in calls for name in call))
        print_table([n.upper() for n in names], [[call.get(n) for n in names] for call in calls])
    else:
        click.echo("no calls now")
    for text in silent[1:]:
        warn(text)
    if silent:
        raise Failed(silent[0])


@click.command("cdr", short_help="Show the records of the last calls.")
@click.option("--follow", is_flag=True, help="Go on with new records until Ctrl-C.")
@click.option("--last", type=click.IntRange(min=0), default=20, show_default=True, metavar="COUNT")
@with_config
@with_json
def show_records(follow: bool, last: int, config: Config, as_json: bool) -> None:
    """Show the records of the last calls; with --json one object a line.

    \b
    Examples:
      renvoi cdr --last 100
      renvoi cdr --follow --json | jq 'select(.outcome == "failed")'
    """
    with open_redis(config, start=not follow) as client:
        redis: Any = client
        entries = list(reversed(redis.xrevrange(STREAM, count=last))) if last else []
        if entries:
            seen = entries[-1][0]
        else:
            newest = redis.xrevrange(STREAM, count=1)
            seen = newest[0][0] if newest else b"0-0"
        if not as_json and (entries or follow):
            click.echo(_ROW.format(*_HEAD))
        elif not as_json:
            click.echo("no records yet")
        _print(entries, as_json)
        try:
            while follow:
                for _, entries in redis.xread({STREAM: seen}, block=FOLLOW_BLOCK_MS) or ():
                    _print(entries, as_json)
                    seen = entries[-1][0]
        except KeyboardInterrupt:
            pass  # the way to end it


def _print(entries: list[tuple[bytes, dict[bytes, bytes]]], as_json: bool) -> None:
    for entry_id, entry in entries:
        try:
            record = read_entry(entry)
        except ValueError as error:
            warn(f"cdr entry {entry_id.decode()}: {error}")
            continue
        if as_json:
            print_json(asdict(record), indent=False)
        else:
            click.echo(_row(record).rstrip())


def _row(record: CallRecord) -> str:
    values = (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.received)),
        record.caller,
        record.called,
        record.condition,
        record.destination,
        record.target,
        record.outcome,
        record.code,
        record.seconds,
        record.billing,
    )
    return _ROW.format(*(_cell(value) for value in values))


def _cell(value: object) -> object:
    if isinstance(value, int):
        return value
    return "".join(c if c.isprintable() else "?" for c in str(value)) or "-"


def _reachable(listen: Address, worker: int) -> Address:
    """Where this machine reaches a worker's admin server."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return Address(everywhere.get(listen.host, listen.host), listen.port + worker)


def _ask(address: Address) -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=ADMIN_TIMEOUT_S)
    try:
        connection.request("GET", "/calls")
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise ValueError(f"HTTP {response.status}")
    calls = orjson.loads(body)
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise ValueError("the answer is no list of calls")
    return calls
