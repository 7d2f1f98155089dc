"""`renvoi manager token`: tokens with which other systems use the API."""

from __future__ import annotations

import time
from zoneinfo import ZoneInfo

import click

from engine.commands import moments
from engine.commands.context import Whole, Wrong, open_redis, with_config, with_json
from engine.commands.fleets import require_fleet
from engine.commands.output import print_json, print_table
from engine.config import Config
from manager.owner_options import fleet_of, line_of, whose
from store.documents import read_blocking
from store.keys import TOKEN

_DAY_S = 86_400


@click.group("token")
def token_group() -> None:
    """Tokens with which other systems use the API.

    \b
    Example:
      curl -H "Authorization: Bearer $(renvoi manager token add crm --fleet acme)" \\
        http://127.0.0.1:8080/api/v1/lines
    """


@token_group.command("add")
@click.argument("name")
@whose
@click.option("--days", type=Whole(1, 36_500, "days"), help="Expires after so many days.")
@with_config
def add_token(
    name: str,
    fleet: str | None,
    new_fleet: bool,
    line: str | None,
    operator: bool,
    days: int | None,
    config: Config,
) -> None:
    """Make a token called NAME and print it: it is shown this once and kept as a hash only."""
    import msgspec

    from manager import tokens

    of = fleet_of(fleet, operator)
    if not name.isprintable() or not name.strip():
        raise Wrong(f"NAME: expected printable text (got {name!r})")
    expires = None if days is None else time.time() + days * _DAY_S
    with open_redis(config) as client:
        if of is not None and not new_fleet:
            require_fleet(client, of, "; --new-fleet if its lines are yet to come")
        token, text = tokens.make(name, of, expires, line_of(line, of, config, client))
        life = None if days is None else days * _DAY_S
        client.set(TOKEN + token.id, msgspec.json.encode(token), ex=life)
    click.echo(text)


@token_group.command("list")
@with_config
@with_json
def list_tokens(config: Config, as_json: bool) -> None:
    """List the tokens, without their secrets."""
    from manager import tokens

    with open_redis(config) as client:
        keys = sorted(client.scan_iter(TOKEN + "*", count=1000))
        raws = read_blocking(client, keys)
    found = [token for raw in raws if raw and (token := tokens.read(raw))]
    if as_json:
        print_json(
            [
                {n: getattr(t, n) for n in ("id", "name", "fleet", "line", "created", "expires")}
                for t in found
            ]
        )
        return
    zone = ZoneInfo(config.numbering.timezone)
    rows = [
        [t.id, t.name, t.fleet or "all (operator)", t.line or "all",
         *(moments.day(unix, zone) for unix in (t.created, t.expires))]
        for t in found
    ]  # fmt: skip
    heads = [moments.head(name, zone) for name in ("CREATED", "EXPIRES")]
    print_table(["ID", "NAME", "FLEET", "LINE", *heads], rows)


@token_group.command("revoke")
@click.argument("token_id", metavar="ID")
@with_config
def revoke_token(token_id: str, config: Config) -> None:
    """Revoke a token by its id; it is refused from the next request on."""

    with open_redis(config) as client:
        if not client.delete(TOKEN + token_id):
            raise Wrong(f"token {token_id}: unknown token")
    click.echo(f"{token_id}: revoked")
