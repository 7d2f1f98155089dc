"""`renvoi notify`: send notifications; test them, show and replace a secret, show what waits."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path
from typing import Any

import click

from engine.commands.context import (
    Wrong,
    open_redis,
    reach_redis,
    read_number,
    service_redis,
    with_config,
    with_config_path,
    with_json,
)
from engine.commands.output import print_json, print_table
from engine.config import Config, load
from store.keys import FLEET, NOTIFY_WAITING, fleet_key, line_key, notify_secret_key


@click.group("notify", invoke_without_command=True, short_help="Webhooks and e-mails.")
@with_config_path
@click.pass_context
def notify_group(context: click.Context, config_path: Path | None) -> int | None:
    """Send webhooks and e-mails about calls and forwards, until SIGTERM or SIGINT.

    Lines and fleets ask for them in their documents; without `notify` nothing is sent. Several
    processes may run: one sends, and another takes its place when it ends. A restart loses nothing.

    \b
    What can be notified (`events`; without it all):
      forward_changed     where calls to a line go was changed
      missed_call         nobody but a voicemail answered
      plan_used           80 and 100 % of a line's hours to mobiles in a month
      cap_used            80 and 100 % of the fleet's cap in a month (fleets only)
      forward_prevented   a forward that is on has not happened for an hour though it was due

    \b
    Examples:
      echo '{"name": "acme", "notify": {
        "webhook": {"url": "https://crm.example.com/renvoi"},
        "email": ["marie@example.com"], "events": ["missed_call", "cap_used"],
        "language": "en"}}' | renvoi fleet set -
      renvoi notify secret acme         with which the receiver checks the signatures
      renvoi notify test acme           sends a message to each target now, and says what happened
      renvoi notify                     sends, as a service

    E-mails need notify.smtp_host and notify.mail_from in config.yaml, and the password of
    notify.smtp_user in RENVOI_SMTP_PASSWORD. docs/notifications.md has everything.
    """
    if context.invoked_subcommand is not None:
        return None
    from notify.serve import serve

    config = load(config_path)
    with service_redis(config) as url:
        return serve(config, url)


@notify_group.command("test", short_help="Send a test message to each target of WHOSE.")
@click.argument("whose")
@with_config
@with_json
def send_test(whose: str, config: Config, as_json: bool) -> int:
    """Send a test message to each target of a line or fleet now, once, and report each result.

    WHOSE is a line's number or a fleet's name. The exit status is 1 if one of them failed.

    \b
    Examples:
      renvoi notify test acme
      renvoi notify test 0972101001
    """
    owner = _owner(whose, config)
    with reach_redis(config) as url:
        results = asyncio.run(_try(config, url, owner))
    if as_json:
        print_json(results)
    else:
        rows = [[r["channel"], r["target"], r["result"], f"{r['ms']} ms"] for r in results]
        print_table(["CHANNEL", "TARGET", "RESULT", "TIME"], rows)
    return 0 if all(result["ok"] for result in results) else 1


async def _try(config: Config, url: str, owner: str) -> list[dict[str, Any]]:
    from notify.deliveries import TEST, Delivery, fleet_facts, is_fleet, line_facts, targets
    from notify.serve import outgoing
    from store.client import close, connect

    client: Any = connect(url, socket_connect_timeout=3.0, socket_timeout=5.0)
    try:
        raw, name = await client.get(owner), owner.partition(":")[2]
        data: dict[str, Any]
        if is_fleet(owner):
            fleet = fleet_facts(name, raw)
            notify, data = fleet.notify, {"fleet": name, "fleet_label": fleet.label}
        else:
            line = line_facts(name, raw)
            if line is None:
                raise Wrong(f"line {name}: unknown line")
            fleet = fleet_facts(line.fleet, await client.get(fleet_key(line.fleet)))
            notify = line.notify
            data = {"fleet": line.fleet, "line": name, "label": line.label}
        if raw is None:
            raise Wrong(f"{owner}: has no document")
        if notify is None:
            other = ""
            if fleet.notify is not None:
                other = f"; its fleet has: renvoi notify test {data['fleet']}"
            raise Wrong(f"{owner}: has no notify in its document{other}")
        of_fleet = fleet.notify.language if fleet.notify is not None else None
        language = notify.language or of_fleet or "fr"
        sends, now = outgoing(client, config), time.time()
        deliveries = [
            Delivery(
                f"msg_{secrets.token_hex(16)}", owner, channel, target, TEST, now, data, language
            )
            for channel, target in targets(notify)
        ]
        return list(await asyncio.gather(*(_send(sends, each) for each in deliveries)))
    finally:
        await close(client)


async def _send(sends: Any, delivery: Any) -> dict[str, Any]:
    from notify.attempts import Drop, Failure

    begun, result = time.monotonic(), "delivered"
    if sends.why_not(delivery) is Drop.OFF:
        result = "not sent: notify.smtp_host is not set"
    else:
        try:
            await sends.send(delivery)
        except Failure as failure:
            result = f"failed ({failure.reason}): {failure}"
    return {
        "channel": delivery.channel,
        "target": delivery.target,
        "ok": result == "delivered",
        "result": result,
        "ms": round((time.monotonic() - begun) * 1000),
    }


@notify_group.command("secret", short_help="Show or replace the secret of WHOSE webhooks.")
@click.argument("whose")
@click.option("--new", is_flag=True, help="Replace it; the old one still signs for 24 hours.")
@with_config
def show_secret(whose: str, new: bool, config: Config) -> None:
    """Print the secret that signs the webhooks of a line or fleet. It is made when first needed.

    It is in no document, export, log or answer of the API. With --new, messages bear two signatures
    for a day: the receiver accepts those of either secret.

    \b
    Examples:
      renvoi notify secret acme
      renvoi notify secret acme --new
    """
    from notify.signing import Secret, encode_secret, new_secret, read_secret

    owner = _owner(whose, config)
    key = notify_secret_key(owner)
    with open_redis(config) as client:
        if not client.exists(owner):
            raise Wrong(f"WHOSE: {owner} has no document (got {whose!r})")
        stored: Any = client.get(key)
        found = read_secret(stored)
        if found is None or new:
            found = Secret(new_secret()) if found is None else found.renewed(time.time())
            client.set(key, encode_secret(found))
    click.echo(found.secret)


@notify_group.command("waiting", short_help="Show what waits to be sent.")
@with_config
@with_json
def show_waiting(config: Config, as_json: bool) -> None:
    """Show the targets for which notifications wait: how many, and since when.

    \b
    Example:
      renvoi notify waiting
    """
    import msgspec

    from notify.deliveries import by_owner, decode_delivery

    with open_redis(config) as client:
        stored: Any = client.hgetall(NOTIFY_WAITING)
    deliveries = {}
    for id_, raw in stored.items():
        try:
            deliveries[id_] = decode_delivery(raw)
        except (msgspec.DecodeError, UnicodeError):
            continue
    now = time.time()
    found = [
        {
            "owner": owner,
            "channel": channel,
            "target": target,
            "waiting": len(waiting),
            "oldest_s": round(now - min(each.at for each in waiting)),
        }
        for (owner, channel, target), waiting in sorted(by_owner(deliveries).items())
    ]
    if as_json:
        print_json(found)
    elif not found:
        click.echo("nothing waits")
    else:
        rows = [
            [each["owner"], each["channel"], each["target"], each["waiting"], each["oldest_s"]]
            for each in found
        ]
        print_table(["OWNER", "CHANNEL", "TARGET", "WAITING", "OLDEST S"], rows)


def _owner(whose: str, config: Config) -> str:
    """The key of the line's or the fleet's document. What looks like a number is a line."""
    if whose.startswith(FLEET):
        return whose
    digits = whose.strip().lstrip("+").replace(" ", "").replace(".", "").replace("-", "")
    if digits.isdigit():
        return line_key(read_number("WHOSE", whose, config.numbering.plan()))
    return fleet_key(whose)
