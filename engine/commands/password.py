"""`renvoi line password` and `renvoi line ha1`: the credentials of phones."""

from __future__ import annotations

import secrets

import click

from engine.changes.acks import in_force_blocking
from engine.commands.context import (
    Wrong,
    open_redis,
    read_number,
    read_password,
    with_config,
    with_json,
)
from engine.commands.documents import Document, Documents
from engine.commands.output import print_json
from engine.config import Config
from engine.registration.digest import ha1

_GENERATED_BYTES = 15  # random bytes: 20 characters


@click.command("ha1", short_help="What to keep of a password.")
@click.argument("user")
@click.option("--password", help="Read from standard input, or asked for, if not given.")
@click.option("--sha256", is_flag=True, help="For phones that know SHA-256; others then give up.")
@with_config
def make_ha1(user: str, password: str | None, sha256: bool, config: Config) -> None:
    """Print the `credentials` of a line document for USER and a password, as JSON.

    \b
    The password itself is kept nowhere. Type it when asked, or pipe it in:
      renvoi line ha1 accueil
    """
    _user("USER", user)
    password = (read_password() if password is None else password).rstrip("\r\n")
    _not_empty(password)
    print_json(_credentials(user, config.sip.realm, password, sha256))


def _user(name: str, user: str) -> str:
    if not user.isprintable() or set(user) & set(':"\\'):
        raise Wrong(f'{name}: may not contain : " or \\ (got {user!r})')
    return user


def _not_empty(password: str) -> None:
    """Raises Wrong."""
    if not password:
        raise Wrong("password: expected one, it is empty")


def _credentials(user: str, realm: str, password: str, sha256: bool) -> dict[str, str]:
    """The credentials in a document for a password."""
    kept = {"user": user, "ha1": ha1("MD5", user, realm, password)}
    if sha256:
        kept["ha1_sha256"] = ha1("SHA-256", user, realm, password)
    return kept


@click.command("password", short_help="Give line N a password to register with.")
@click.argument("n")
@click.option("--user", help="Who registers.  [default: as it was, else the number]")
@click.option("--sha256", is_flag=True, help="For phones that know SHA-256; others then give up.")
@click.option("--generate", is_flag=True, help="Make one and print it.")
@click.option("--remove", is_flag=True, help="No phone may register any more.")
@with_config
@with_json
def set_password(
    n: str, user: str | None, sha256: bool, generate: bool, remove: bool, config: Config,
    as_json: bool,
) -> None:  # fmt: skip
    """Give line N the password with which its phones register; it is typed, or read from standard
    input. The password itself is kept nowhere: the document has its hash for sip.realm. A phone
    that is registered stays so until it has to register again.

    \b
    Examples:
      renvoi line password 0972101001
      renvoi line password 0972101001 --user accueil < password.txt
      renvoi line password 0972101001 --generate
    """
    if generate and remove:
        raise Wrong("--remove: does not go with --generate")
    numbering = config.numbering.plan()
    number = read_number("N", n, numbering)
    with open_redis(config) as client:
        documents = Documents(client, numbering)
        documents.raw(number)  # before the password is typed
        made = secrets.token_urlsafe(_GENERATED_BYTES) if generate else None
        password = "" if remove else made or read_password()
        if not remove:
            _not_empty(password)
        chosen = ""

        def change(document: Document) -> None:
            nonlocal chosen
            kept = document.get("credentials")
            before = kept if isinstance(kept, dict) else {}
            chosen = _user("--user", str(user or before.get("user") or number))
            if remove:
                document.pop("credentials", None)
                return
            both = sha256 or "ha1_sha256" in before
            document["credentials"] = _credentials(chosen, config.sip.realm, password, both)

        documents.edit(number, change)
        acks = in_force_blocking(client, number)
    if as_json:
        shown = {"number": number, "user": None if remove else chosen, "password": made}
        print_json({**shown, "in_force": acks.plain()})
        return
    words = "no phone may register" if remove else f"user {chosen} has another password"
    click.echo(f"{number}: {words}, {acks.in_words()}")
    if made:
        click.echo(f"password: {made}")
