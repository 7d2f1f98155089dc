"""`renvoi line`: write, show, list and delete lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import click
import msgspec
import orjson

from engine.changes.acks import in_force_blocking
from engine.commands.bulk import export_lines, import_lines
from engine.commands.context import (
    Failed,
    Wrong,
    open_redis,
    read_number,
    with_config,
    with_json,
    with_strict,
)
from engine.commands.documents import Document, Documents, parse_document
from engine.commands.forward_words import Refused, forwards_in_words
from engine.commands.output import print_json, print_table, warn, warn_of
from engine.commands.password import make_ha1, set_password
from engine.commands.switches import choose_profile, switch_dnd, uses_in_words
from engine.config import Config
from rules.line_document import LineDocument, load_line
from rules.model import DocumentError, Line
from rules.notify import read_notify
from rules.unread import UnreadFields, unread_fields

INPUT_BYTES = 512 * 1024 * 1024


@click.group("line")
def line_group() -> None:
    """Write, show, list and delete lines.

    N is a number in any usual form: +33972101001, 0033972101001, "09 72 10 10 01".

    \b
    Examples:
      renvoi line set lines.json
      renvoi line show 0972101001
      renvoi line export > lines.jsonl
    """


line_group.add_command(import_lines)
line_group.add_command(export_lines)
line_group.add_command(set_password)
line_group.add_command(make_ha1)
line_group.add_command(switch_dnd)
line_group.add_command(choose_profile)


@line_group.command("set", short_help="Write the line documents in FILE.")
@click.argument("file", type=click.File("rb"))
@with_strict
@with_config
@with_json
def set_lines(file: Any, strict: bool, config: Config, as_json: bool) -> None:
    """Write the line documents in FILE (- = standard input).

    FILE holds one JSON document, a list of them, or one per line. They are checked as a whole
    before any is written, and may name one another. A line that exists is replaced. Unknown fields
    are kept and reported, because they may be misspelt.

    \b
    Examples:
      renvoi line set lines.json
      echo '{"number": "+33972101001", "fleet": "acme"}' | renvoi line set -
      renvoi line show 0972101001 --json | jq '.max_calls = 2' | renvoi line set -
    """
    documents = parse_input(file.read(INPUT_BYTES), getattr(file, "name", "-"))
    unread = unread_in(documents, LineDocument, "line", "number", strict)
    numbering = config.numbering.plan()
    with open_redis(config) as client:
        lines = Documents(client, numbering).put(documents)
        acks = in_force_blocking(client, lines[-1].number)
    warn_of(unread.in_words())
    if as_json:
        shown = {"written": [line.number for line in lines], "in_force": acks.plain()}
        print_json({**shown, "unread": unread.plain()})
    elif len(lines) == 1:
        click.echo(f"{lines[0].number}: written, {acks.in_words()}")
    else:
        click.echo(f"{len(lines)} lines written, {acks.in_words()}")


@line_group.command("show")
@click.argument("n")
@with_config
@with_json
def show_line(n: str, config: Config, as_json: bool) -> None:
    """Show line N: what it may do, where its calls go.

    \b
    Example:
      renvoi line show 0972101001
    """
    numbering = config.numbering.plan()
    number = read_number("N", n, numbering)
    with open_redis(config) as client:
        documents = Documents(client, numbering)
        raw = documents.raw(number)
        if as_json:
            print_json(_stored(number, raw))
            return
        try:
            line = load_line(raw, number, numbering)
        except DocumentError as error:
            raise Failed(f"line {number}: its document is refused: {error}") from None
        refused = documents.refused(line)
    for name, value in _facts(line, refused, ZoneInfo(config.numbering.timezone)):
        click.echo(f"{name:<14} {value}")
    notify = read_notify(raw, of_fleet=False)
    if notify is not None:
        click.echo(f"{'notifies':<14} {notify.in_words()}")
    try:
        stored = parse_document(raw, f"line {number}")
        warn_of([str(one) for one in unread_fields(stored, LineDocument)])
    except Wrong as error:  # an unknown field has what is no JSON
        warn(error.message)


@line_group.command("list")
@with_config
@with_json
def list_lines(config: Config, as_json: bool) -> None:
    """List all lines with the forwards that are on, do not disturb, and which profile is used."""
    numbering, zone = config.numbering.plan(), ZoneInfo(config.numbering.timezone)
    with open_redis(config) as client:
        stored = list(Documents(client, numbering).every())
    if as_json:
        print_json([_stored(number, raw) for number, raw in stored])
        return
    if not stored:
        click.echo("no lines yet: renvoi line set --help shows how to write one")
        return
    rows = []
    for number, raw in stored:
        try:
            line = load_line(raw, number, numbering)
        except DocumentError as error:
            rows.append([number, "-", "-", "-", f"REFUSED {error}"])
            continue
        on = ["do not disturb"] if line.do_not_disturb else []
        on += [f"profile {_plain(words)}" for words in uses_in_words(line, zone)]
        on += [f"{c}: {words}" for c, words in forwards_in_words(line, zone=zone) if words != "off"]
        calls = "no limit" if line.max_calls is None else str(line.max_calls)
        state = "SUSPENDED " if line.suspended else ""
        rows.append([number, line.fleet, line.label, calls, state + ("; ".join(on) or "none")])
    print_table(["NUMBER", "FLEET", "LABEL", "MAX CALLS", "FORWARDS"], rows)


@line_group.command("delete", short_help="Delete line N.")
@click.argument("n")
@with_config
@with_json
def delete_line(n: str, config: Config, as_json: bool) -> None:
    """Delete line N. Lines that forward to it are named: those forwards then count as off, or
    lead outside.
    """
    numbering = config.numbering.plan()
    number = read_number("N", n, numbering)
    with open_redis(config) as client:
        documents = Documents(client, numbering)
        documents.delete(number)
        acks = in_force_blocking(client, number)
        left = documents.forwarding_to(number)
    for other in left:
        warn(f"line {other} still forwards to {number}")
    if as_json:
        print_json({"deleted": number, "still_forwarding": left, "in_force": acks.plain()})
    else:
        click.echo(f"{number}: deleted, {acks.in_words()}")


def parse_input(raw: bytes, name: str) -> list[Document]:
    """The documents in a file: one, a list, or one per line. Raises Wrong."""
    raw = raw.removeprefix(b"\xef\xbb\xbf")  # the byte order mark of some editors
    if not raw.strip():
        raise Wrong(f"{name}: is empty, expected a JSON document")
    try:
        whole = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        # It can still be one document per line; otherwise report the first error.
        lines = [(i, line) for i, line in enumerate(raw.splitlines(), 1) if line.strip()]
        if len(lines) < 2 or not all(line.lstrip().startswith(b"{") for _, line in lines):
            raise Wrong(f"{name}: is not JSON: {error}") from None
        return [parse_document(line, f"{name}, line {i}") for i, line in lines]
    documents = whole if isinstance(whole, list) else [whole]
    if not documents:
        raise Wrong(f"{name}: expected at least one JSON document (got [])")
    for place, document in enumerate(documents, 1):
        if not isinstance(document, dict):
            raise Wrong(f"{name}: document {place}: expected a JSON object (got {document!r:.80})")
    return documents


def unread_in(
    documents: list[Document], kind: type[msgspec.Struct], what: str, key: str, strict: bool
) -> UnreadFields:
    """The unknown fields of documents to be written; `what` and the field `key` name each document.
    Raises Wrong if there are any and `strict`."""
    unread = UnreadFields(kind)
    for document in documents:
        unread.note(f"{what} {document.get(key)}", document)
    if strict and unread:
        first, *more = unread.in_words()
        others = f"; and {len(more)} more of the kind" if more else ""
        raise Wrong(f"{first}{others}; nothing was written")
    return unread


def _facts(line: Line, refused: Refused, zone: ZoneInfo) -> list[tuple[str, str]]:
    offer = line.offer
    mobile = f"{offer.mobile_hours:g} h a month" if offer.mobile == "hours" else offer.mobile
    return [
        ("number", line.number),
        ("fleet", _plain(line.fleet)),
        ("label", _plain(line.label) or "-"),
        ("max calls", "no limit" if line.max_calls is None else str(line.max_calls)),
        ("suspended", "yes" if line.suspended else "no"),
        ("offer", f"fax {'yes' if offer.fax else 'no'}, mobiles {mobile}"),
        ("user", _plain(line.credentials.user) if line.credentials else "-"),
        *((condition, words) for condition, words in forwards_in_words(line, refused, zone)),
        *_more_facts(line, zone),
    ]


def _more_facts(line: Line, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    """What few lines have."""
    if line.also_ring:
        numbers = ", ".join(f"{to.kind} {to.number}" for to in line.also_ring)
        yield "also ring", numbers
    if line.do_not_disturb:
        yield "do not disturb", "yes"
    if line.profiles:
        yield "profiles", ", ".join(map(_plain, sorted(line.profiles)))
    for text in uses_in_words(line, zone):
        yield "profile", _plain(text)
    if line.calendars:
        yield "calendars", ", ".join(map(_plain, sorted(line.calendars)))
    if line.lists:
        yield "lists", ", ".join(map(_plain, sorted(line.lists)))


def _plain(text: str) -> str:
    return re.sub(r"[^\x20-\x7e\u00a0-\U0010ffff]", "?", text)


def _stored(number: str, raw: bytes) -> Any:
    """The stored document; as text if it is not JSON."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {"number": number, "refused": "is not JSON", "text": raw.decode(errors="replace")}
