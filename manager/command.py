"""`renvoi manager`: serve the page and the API; accounts and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from engine.commands import moments
from engine.commands.context import (
    Wrong,
    open_redis,
    read_password,
    service_redis,
    with_config,
    with_config_path,
    with_json,
)
from engine.commands.fleets import require_fleet
from engine.commands.output import print_json, print_table
from engine.config import Config, load
from manager.owner_options import fleet_of, line_of, whose
from manager.token_command import token_group
from store.documents import read_blocking
from store.keys import ACCOUNT


@click.group("manager", invoke_without_command=True, short_help="The customer's page and REST API.")
@with_config_path
@click.pass_context
def manager_group(context: click.Context, config_path: Path | None) -> int | None:
    """Serve the customer's page and the REST API, on manager.listen, until SIGTERM or SIGINT.

    \b
    Examples:
      renvoi manager account add marie --fleet acme     asks for the password
      renvoi manager account add paul --fleet acme --line 0972101001
      renvoi manager account add support --operator
      renvoi manager token add crm --fleet acme         prints the token, once
      renvoi manager --config /etc/renvoi.yaml
    """
    if context.invoked_subcommand is not None:
        return None
    from manager.serve import serve

    config = load(config_path)
    with service_redis(config) as url:
        return serve(config, url)


@manager_group.group("account")
def account_group() -> None:
    """Accounts that log in to the page.

    \b
    Examples:
      renvoi manager account add marie --fleet acme
      renvoi manager account password marie < password.txt
    """


@account_group.command("add")
@click.argument("name")
@whose
@with_config
def add_account(
    name: str,
    fleet: str | None,
    new_fleet: bool,
    line: str | None,
    operator: bool,
    config: Config,
) -> None:
    """Make the account NAME; its password is asked for, or read from standard input."""
    import msgspec

    from manager import accounts

    of, known = fleet_of(fleet, operator), _name(name)
    with open_redis(config) as client:
        if of is not None and not new_fleet:
            require_fleet(client, of, "; --new-fleet if its lines are yet to come")
        only = line_of(line, of, config, client)
        try:
            account = accounts.make(known, of, read_password(), only)
        except ValueError as error:
            raise Wrong(f"password: {error}") from None
        if not client.set(ACCOUNT + known, msgspec.json.encode(account), nx=True):
            raise Wrong(f"NAME: there is an account of that name (got {name!r})")
    made_for = f"line {only} of fleet {of}" if only else f"fleet {of}" if of else None
    click.echo(f"{known}: made, for {made_for or 'all fleets (operator)'}")


@account_group.command("password")
@click.argument("name")
@with_config
def set_password(name: str, config: Config) -> None:
    """Give NAME another password, asked for or read from standard input; its sessions end."""
    import msgspec

    from manager import accounts

    known = _name(name)
    with open_redis(config) as client:
        raw: Any = client.get(ACCOUNT + known)
        account = accounts.read(raw)
        if account is None:
            raise Wrong(f"account {known}: unknown account")
        try:
            changed = msgspec.structs.replace(account, password=accounts.hashed(read_password()))
        except ValueError as error:
            raise Wrong(f"password: {error}") from None
        client.set(ACCOUNT + known, msgspec.json.encode(changed), xx=True)
    click.echo(f"{known}: has another password, its sessions have ended")


@account_group.command("list")
@with_config
@with_json
def list_accounts(config: Config, as_json: bool) -> None:
    """List the accounts."""
    from manager import accounts

    with open_redis(config) as client:
        keys = sorted(client.scan_iter(ACCOUNT + "*", count=1000))
        raws = read_blocking(client, keys)
    found = [account for raw in raws if (account := accounts.read(raw))]
    if as_json:
        print_json(
            [
                {"name": a.name, "fleet": a.fleet, "line": a.line, "created": a.created}
                for a in found
            ]
        )
        return
    zone = ZoneInfo(config.numbering.timezone)
    rows = [
        [a.name, a.fleet or "all (operator)", a.line or "all", moments.day(a.created, zone)]
        for a in found
    ]
    print_table(["NAME", "FLEET", "LINE", moments.head("CREATED", zone)], rows)


@account_group.command("delete")
@click.argument("name")
@with_config
def delete_account(name: str, config: Config) -> None:
    """Delete the account NAME; its sessions end at once."""

    known = _name(name)
    with open_redis(config) as client:
        if not client.delete(ACCOUNT + known):
            raise Wrong(f"account {known}: unknown account")
    click.echo(f"{known}: deleted")


def _name(text: str) -> str:
    from manager import accounts

    name = accounts.name_of(text)
    if name is None:
        raise Wrong(f"NAME: expected up to 64 of a-z 0-9 . _ @ - (got {text!r})")
    return name


manager_group.add_command(token_group)
