"""`renvoi manager`: serve the page and the API; accounts and tokens."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any
from zoneinfo import ZoneInfo

import click

from engine.commands import moments
from engine.commands.context import (
    Failed,
    Whole,
    Wrong,
    open_redis,
    read_password,
    with_config,
    with_json,
)
from engine.commands.fleets import require_fleet
from engine.commands.output import print_json, print_table
from engine.config import Config

_DAY_S = 86_400


@click.group("manager", invoke_without_command=True, short_help="The customer's page and REST API.")
@with_config
@click.pass_context
def manager_group(context: click.Context, config: Config) -> int | None:
    """Serve the customer's page and the REST API, on manager.listen, until SIGTERM or SIGINT.

    \b
    Examples:
      renvoi manager account add marie --fleet acme     asks for the password
      renvoi manager account add support --operator
      renvoi manager token add crm --fleet acme         prints the token, once
      renvoi manager --config /etc/renvoi.yaml
    """
    if context.invoked_subcommand is not None:
        return None
    from engine.redis_server import EmbeddedRedisError, reach
    from engine.telemetry import log
    from manager.serve import serve

    log.set_up(config.log)
    try:
        with ExitStack() as stack:
            url = config.redis.url
            if config.redis.embedded:
                try:
                    url = stack.enter_context(reach(config.redis.data_dir, start=False))
                except EmbeddedRedisError as error:
                    raise Failed(str(error)) from None
            return serve(config, url)
    finally:
        log.close()


def _whose(command: Any) -> Any:
    """Adds --fleet F, --new-fleet and --operator."""
    command = click.option("--operator", is_flag=True, help="For all fleets.")(command)
    command = click.option(
        "--new-fleet", is_flag=True, help="F has no line yet, and no document."
    )(command)
    return click.option(
        "--fleet", metavar="F", help="The fleet whose lines it may see and change."
    )(command)


def _fleet(fleet: str | None, operator: bool) -> str | None:
    if operator == (fleet is not None):
        raise Wrong("--fleet: give either --fleet F or --operator")
    if fleet == "":
        raise Wrong("--fleet: expected the name of a fleet (got '')")
    return fleet


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
@_whose
@with_config
def add_account(
    name: str, fleet: str | None, new_fleet: bool, operator: bool, config: Config
) -> None:
    """Make the account NAME; its password is asked for, or read from standard input."""
    import msgspec

    from manager import accounts

    of, known = _fleet(fleet, operator), _name(name)
    with open_redis(config) as client:
        if of is not None and not new_fleet:
            require_fleet(client, of, "; --new-fleet if its lines are yet to come")
        try:
            account = accounts.make(known, of, read_password())
        except ValueError as error:
            raise Wrong(f"password: {error}") from None
        if not client.set(accounts.PREFIX + known, msgspec.json.encode(account), nx=True):
            raise Wrong(f"NAME: there is an account of that name (got {name!r})")
    click.echo(f"{known}: made, for {f'fleet {of}' if of else 'all fleets (operator)'}")


@account_group.command("password")
@click.argument("name")
@with_config
def set_password(name: str, config: Config) -> None:
    """Give NAME another password, asked for or read from standard input; its sessions end."""
    import msgspec

    from manager import accounts

    known = _name(name)
    with open_redis(config) as client:
        raw: Any = client.get(accounts.PREFIX + known)
        account = accounts.read(raw)
        if account is None:
            raise Wrong(f"account {known}: unknown account")
        try:
            changed = msgspec.structs.replace(account, password=accounts.hashed(read_password()))
        except ValueError as error:
            raise Wrong(f"password: {error}") from None
        client.set(accounts.PREFIX + known, msgspec.json.encode(changed), xx=True)
    click.echo(f"{known}: has another password, its sessions have ended")


@account_group.command("list")
@with_config
@with_json
def list_accounts(config: Config, as_json: bool) -> None:
    """List the accounts."""
    from manager import accounts

    with open_redis(config) as client:
        keys = sorted(client.scan_iter(accounts.PREFIX + "*", count=1000))
        raws: Any = client.mget(keys) if keys else []
    found = [account for raw in raws if (account := accounts.read(raw))]
    if as_json:
        print_json([{"name": a.name, "fleet": a.fleet, "created": a.created} for a in found])
        return
    zone = ZoneInfo(config.numbering.timezone)
    rows = [[a.name, a.fleet or "all (operator)", moments.day(a.created, zone)] for a in found]
    print_table(["NAME", "FLEET", moments.head("CREATED", zone)], rows)


@account_group.command("delete")
@click.argument("name")
@with_config
def delete_account(name: str, config: Config) -> None:
    """Delete the account NAME; its sessions end at once."""
    from manager import accounts

    known = _name(name)
    with open_redis(config) as client:
        if not client.delete(accounts.PREFIX + known):
            raise Wrong(f"account {known}: unknown account")
    click.echo(f"{known}: deleted")


def _name(text: str) -> str:
    from manager import accounts

    name = accounts.name_of(text)
    if name is None:
        raise Wrong(f"NAME: expected up to 64 of a-z 0-9 . _ @ - (got {text!r})")
    return name


@manager_group.group("token")
def token_group() -> None:
    """Tokens with which other systems use the API.

    \b
    Example:
      curl -H "Authorization: Bearer $(renvoi manager token add crm --fleet acme)" \\
        http://127.0.0.1:8080/api/v1/lines
    """


@token_group.command("add")
@click.argument("name")
@_whose
@click.option("--days", type=Whole(1, 36_500, "days"), help="Expires after so many days.")
@with_config
def add_token(
    name: str, fleet: str | None, new_fleet: bool, operator: bool, days: int | None, config: Config
) -> None:
    """Make a token called NAME and print it: it is shown this once and kept as a hash only."""
    import msgspec

    from manager import tokens

    of = _fleet(fleet, operator)
    if not name.isprintable() or not name.strip():
        raise Wrong(f"NAME: expected printable text (got {name!r})")
    expires = None if days is None else time.time() + days * _DAY_S
    token, text = tokens.make(name, of, expires)
    with open_redis(config) as client:
        if of is not None and not new_fleet:
            require_fleet(client, of, "; --new-fleet if its lines are yet to come")
        life = None if days is None else days * _DAY_S
        client.set(tokens.PREFIX + token.id, msgspec.json.encode(token), ex=life)
    click.echo(text)


@token_group.command("list")
@with_config
@with_json
def list_tokens(config: Config, as_json: bool) -> None:
    """List the tokens, without their secrets."""
    from manager import tokens

    with open_redis(config) as client:
        keys = sorted(client.scan_iter(tokens.PREFIX + "*", count=1000))
        raws: Any = client.mget(keys) if keys else []
    found = [token for raw in raws if raw and (token := tokens.read(raw))]
    if as_json:
        print_json(
            [
                {n: getattr(t, n) for n in ("id", "name", "fleet", "created", "expires")}
                for t in found
            ]
        )
        return
    zone = ZoneInfo(config.numbering.timezone)
    rows = [
        [t.id, t.name, t.fleet or "all (operator)",
         *(moments.day(unix, zone) for unix in (t.created, t.expires))]
        for t in found
    ]  # fmt: skip
    heads = [moments.head(name, zone) for name in ("CREATED", "EXPIRES")]
    print_table(["ID", "NAME", "FLEET", *heads], rows)


@token_group.command("revoke")
@click.argument("token_id", metavar="ID")
@with_config
def revoke_token(token_id: str, config: Config) -> None:
    """Revoke a token by its id; it is refused from the next request on."""
    from manager import tokens

    with open_redis(config) as client:
        if not client.delete(tokens.PREFIX + token_id):
            raise Wrong(f"token {token_id}: unknown token")
    click.echo(f"{token_id}: revoked")
