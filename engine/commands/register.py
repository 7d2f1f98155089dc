"""`renvoi register`: enters the contact of a phone without a REGISTER."""

from __future__ import annotations

import math
import time
from typing import Any

import click

from engine.commands.context import Whole, Wrong, open_redis, read_number, with_config, with_json
from engine.commands.documents import Documents
from engine.commands.output import print_json
from engine.config import Config
from engine.registration.bindings import MOST_CONTACTS, decide
from rules.contact import FAR_S, member_of, read_contact
from rules.model import DocumentError
from store.keys import registrations_key

LONGEST_S = 10 * 366 * 86_400


@click.command("register", short_help="Say where a phone of line N is.")
@click.argument("n")
@click.argument("contact")
@click.option(
    "--for",
    "for_s",
    type=Whole(0, LONGEST_S, "seconds"),
    default=3600,
    show_default=True,
    metavar="S",
    help="Seconds until it counts as gone; 0 removes it now.",
)
@with_config
@with_json
def register(n: str, contact: str, for_s: int, config: Config, as_json: bool) -> None:
    """Say where a phone of line N is: calls to the line ring CONTACT until then.

    CONTACT is a SIP URI, or <URI>;path="<sip:edge;lr>";q=0.5 for a phone behind an edge. It takes
    the place of an equivalent one (RFC 3261 10.3), as a REGISTER of the phone would.

    \b
    Examples:
      renvoi register 0972101001 sip:phone@127.0.0.1:5062
      renvoi register 0972101001 sip:phone@127.0.0.1:5062 --for 86400
      renvoi register 0972101001 sip:phone@127.0.0.1:5062 --for 0
    """
    numbering = config.numbering.plan()
    number = read_number("N", n, numbering)
    now = time.time()
    try:
        given = read_contact(contact, now + for_s if for_s else 0)
    except DocumentError as error:
        raise Wrong(str(error)) from None
    key = registrations_key(number)
    with open_redis(config) as client:
        Documents(client, numbering).raw(number)
        redis: Any = client  # redis-py types every reply as "or an awaitable of it"
        listed = redis.zrange(key, 0, -1, withscores=True)
        stored = [(bytes(member), float(expires)) for member, expires in listed]
        gone, added = decide(stored, [given], now=now, most=MOST_CONTACTS)
        with redis.pipeline(transaction=True) as pipe:
            for member in gone:
                pipe.zrem(key, member)
            for one in added:
                pipe.zadd(key, {member_of(one): one.expires})
            last = max((e for m, e in [*stored, ("", given.expires)] if m not in gone), default=0)
            pipe.expireat(key, math.ceil(min(last, FAR_S)) + 60)  # as in the registrar
            pipe.zrange(key, 0, -1, withscores=True)
            left = pipe.execute()[-1]
    contacts = [
        {"contact": member.decode("latin-1"), "expires_in_s": round(min(expires, FAR_S) - now)}
        for member, expires in left
        if expires > now
    ]
    if as_json:
        print_json({"number": number, "contacts": contacts})
        return
    click.echo(f"{number}: {len(contacts)} contact{'' if len(contacts) == 1 else 's'}")
    for entry in contacts:
        click.echo(f"  {entry['contact']}  for {entry['expires_in_s']} s")
