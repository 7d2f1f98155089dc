"""`renvoi calls`: the calls in progress."""

from __future__ import annotations

import http.client
import time
from typing import Any
from zoneinfo import ZoneInfo

import click
import orjson

from engine.commands import moments
from engine.commands.context import Failed, with_config, with_json
from engine.commands.output import print_json, print_table, warn
from engine.config import Address, Config

ADMIN_TIMEOUT_S = 5.0
_TIMES = ("received", "answered")
_HEAD = ("SECONDS", "STATE", "CALLER", "CALLED", "CONDITION", "TARGET", "LEGS", "ID")


@click.command("calls", short_help="Show the calls in progress.")
@with_config
@with_json
def show_calls(config: Config, as_json: bool) -> None:
    """Show the calls in progress, from every worker's admin address. Times are in the zone of
    numbering.timezone; with --json in unix seconds and, as received_at and answered_at, in ISO 8601
    too.
    """
    zone = ZoneInfo(config.numbering.timezone)
    calls: list[dict[str, Any]] = []
    silent = []
    for worker in range(config.workers):
        address = config.admin.listen.reached_here(worker)
        try:
            calls += _ask(address)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            silent.append(f"admin.listen: {address} gives no calls: {reason}, is renvoi serving?")
    if len(silent) == config.workers:
        raise Failed(silent[0])
    if as_json:
        print_json([moments.with_iso(call, _TIMES, zone) for call in calls])
    elif calls:
        head = (moments.head("RECEIVED", zone), *_HEAD)
        print_table(head, [_row(call, zone) for call in calls])
    else:
        click.echo("no calls now")
    for text in silent[1:]:
        warn(text)
    if silent:
        raise Failed(silent[0])


def _row(call: dict[str, Any], zone: ZoneInfo) -> list[object]:
    """A row for a call: when it came in, whole seconds since then, its open legs."""
    received = call.get("received")
    came = None
    when = moments.shown(received, zone)
    if when and isinstance(received, (int, float)):
        came = max(0, round(time.time() - received))
    legs = [f"{leg.get('role')} {leg.get('number')}" for leg in call.get("legs") or ()]
    values = [call.get(name) for name in ("called", "condition", "target")]
    caller = "withheld" if call.get("withheld") else call.get("caller")
    return [when, came, call.get("state"), caller, *values, ", ".join(legs), call.get("id")]


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
