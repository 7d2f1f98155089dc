"""`renvoi forward`: the four forwards of a line."""

from __future__ import annotations

import time
from typing import Any
from zoneinfo import ZoneInfo

import click

from engine.changes import destination
from engine.changes.acks import Acks, in_force_blocking
from engine.commands.context import (
    Failed,
    Named,
    Whole,
    Wrong,
    open_redis,
    read_number,
    with_config,
    with_json,
)
from engine.commands.documents import Document, Documents, parse_document
from engine.commands.forward_words import forwards_in_words, rules_in_words
from engine.commands.output import print_json, warn
from engine.commands.switches import circumstances_of
from engine.config import Config
from rules.applies import profile_now
from rules.line_document import load_line
from rules.model import Condition, DocumentError, Kind, Line
from rules.numbers import NumberError, Numbering
from rules.shared_document import has_ended

DEFAULT_AFTER_S = 20
CONDITIONS = [condition.value for condition in Condition]
ALL = "all"


@click.group("forward")
def forward_group() -> None:
    """Show and change the forwards of a line.

    \b
    CONDITION, in order of precedence:
      unconditional  every call, the line does not ring
      busy           the line has max_calls calls, or the phone says busy
      no_answer      nobody answers within --after seconds of ringing
      unreachable    no phone is registered, or none reacts
    DEST:
      voicemail      the line's own voicemail
      voicemail:N    the voicemail of line N of the same fleet
      fax:N          line N of the same fleet, with the fax offer
      number:N       any other number, a line of the fleet or outside; N alone says the same

    \b
    Examples:
      renvoi forward set 0972101001 no_answer voicemail --after 25
      renvoi forward show 0972101001
    """


def _complete_dest(_context: object, _parameter: object, incomplete: str) -> list[str]:
    kinds = [kind + ("" if kind is Kind.VOICEMAIL else ":") for kind in Kind]
    return [kind for kind in kinds if kind.startswith(incomplete)]


@forward_group.command("set", short_help="Turn a forward of line N on.")
@click.argument("n")
@click.argument("condition", type=Named(CONDITIONS), metavar="CONDITION")
@click.argument("dest", shell_complete=_complete_dest)
@click.option(
    "--after", "after_s", type=Whole(5, 60, "seconds"), metavar="S",
    help="Seconds of ringing, 5 to 60.",
)  # fmt: skip
@click.option(
    "--replace", is_flag=True,
    help="Replace all that the condition has: a list of forwards, hours, callers, an end.",
)  # fmt: skip
@with_config
@with_json
def set_forward(
    n: str,
    condition: str,
    dest: str,
    after_s: int | None,
    replace: bool,
    config: Config,
    as_json: bool,
) -> None:
    """Turn a forward of line N on, to DEST.

    no_answer without --after keeps the delay it had, else takes 20 seconds. A condition with
    several forwards is changed only with --replace; `renvoi line set` writes such lists. A single
    forward keeps its hours, callers and end, unless --replace is given. An end that has passed is
    forgotten.

    \b
    Examples:
      renvoi forward set 0972101001 busy 0612345678
      renvoi forward set 0972101001 no_answer voicemail --after 25
      renvoi forward set +33972101001 unreachable fax:+33972101002
    """
    if after_s is not None and condition != Condition.NO_ANSWER:
        raise Wrong(f"--after: only no_answer waits (got {after_s} for {condition})")
    numbering = config.numbering.plan()
    number = read_number("N", n, numbering)
    to = read_destination(dest, number, numbering)

    def change(document: Document) -> None:
        if replace:
            document["forwards"] = {**_mapping(document.get("forwards")), condition: {}}
        forward = _forward(document, condition, number)
        forward |= {"on": True, "to": {**_mapping(forward.get("to")), **to}}
        if _has_ended(forward):
            del forward["until"]  # as a star code: else it would be on and forward no call
        if condition == Condition.NO_ANSWER:
            if after_s is not None:
                forward["after_s"] = after_s
            elif forward.get("after_s") is None:
                forward["after_s"] = DEFAULT_AFTER_S

    with open_redis(config) as client:
        documents = Documents(client, numbering)
        line = documents.edit(number, change, condition)
        acks = in_force_blocking(client, number)
        _warn_of_profile(documents, line)
    _confirm(line, condition, acks, as_json)


@forward_group.command("off", short_help="Turn a forward of line N off.")
@click.argument("n")
@click.argument("condition", type=Named([*CONDITIONS, ALL]), metavar="CONDITION")
@with_config
@with_json
def turn_off(n: str, condition: str, config: Config, as_json: bool) -> None:
    """Turn a forward of line N off, or with CONDITION `all` every one; its target is kept for the
    next time. Of a condition with several forwards, each is turned off.

    \b
    Examples:
      renvoi forward off 0972101001 unconditional
      renvoi forward off 0972101001 all
    """
    numbering = config.numbering.plan()
    number = read_number("N", n, numbering)
    conditions = CONDITIONS if condition == ALL else [condition]
    were_on: list[str] = []

    def change(document: Document) -> None:
        were_on.clear()
        for each in conditions:
            stored = _mapping(document.get("forwards")).get(each)
            if condition == ALL and not stored:
                continue  # the document has none
            if isinstance(stored, list):
                if any(_mapping(one).get("on") for one in stored):
                    were_on.append(each)
                off = [{**_mapping(one), "on": False} for one in stored]
                document["forwards"] = {**_mapping(document["forwards"]), each: off}
                continue
            forward = _forward(document, each, number)
            if forward.get("on"):
                were_on.append(each)
            forward["on"] = False

    with open_redis(config) as client:
        documents = Documents(client, numbering)
        line = documents.edit(number, change)
        acks = in_force_blocking(client, number)
        _warn_of_profile(documents, line)
    if condition != ALL:
        _confirm(line, condition, acks, as_json)
    elif as_json:
        shown = {"number": number, "condition": ALL, "on": False, "were_on": were_on}
        print_json({**shown, "in_force": acks.plain()})
    else:
        click.echo(f"{number} all: off ({', '.join(were_on) or 'none'} before), {acks.in_words()}")


@forward_group.command("show")
@click.argument("n")
@with_config
@with_json
def show_forwards(n: str, config: Config, as_json: bool) -> None:
    """Show the forwards of line N by condition; of several each, with its place in the list: the
    first that is on and applies is taken."""
    numbering = config.numbering.plan()
    number = read_number("N", n, numbering)
    with open_redis(config) as client:
        documents = Documents(client, numbering)
        raw = documents.raw(number)
        try:
            line = load_line(raw, number, numbering)
        except DocumentError as error:
            raise Failed(f"line {number}: its document is refused: {error}") from None
        refused = documents.refused(line)
    if as_json:
        stored = parse_document(raw, f"line {number}").get("forwards") or {}
        print_json({c.value: stored.get(c.value) or {"on": False} for c in Condition})
        return
    zone = ZoneInfo(config.numbering.timezone)
    for condition in Condition:
        rules = rules_in_words(line, condition, refused, zone) or ["off"]
        for place, words in enumerate(rules):
            name = f"{condition}[{place}]" if len(rules) > 1 else condition.value
            click.echo(f"{name:<14} {words}")


def read_destination(dest: str, number: str, numbering: Numbering) -> dict[str, str]:
    """DEST as the document's `to`. Raises Wrong."""
    try:
        kind, text = destination.read(dest)
        if not text:
            return {"kind": kind, "number": number}
        # Short and premium numbers are recognised here; the check of the document refuses them with
        # a reason.
        found = numbering.recognise(text)
        if found.refused == "short" and numbering.begins_whole(text):
            raise NumberError(text, "is too short to be a number")
        return {"kind": kind, "number": found.number}
    except NumberError as error:
        raise Wrong(f"DEST: {error.problem} (got {dest!r})") from None
    except ValueError as error:
        raise Wrong(f"DEST: {error} (got {dest!r})") from None


def _forward(document: Document, condition: str, number: str) -> dict[str, Any]:
    """The forward of `condition` in the document, added if missing."""
    for place in ("forwards", condition):
        value = document.get(place)
        if isinstance(value, list) and place == condition:
            several = f"has {len(value)} forwards"
            raise Wrong(
                f"line {number}: forwards.{place}: {several}, --replace puts this one in their "
                "place; renvoi line set writes them"
            )
        if value is not None and not isinstance(value, dict):
            raise Wrong(f"line {number}: {place}: expected an object (got {value!r:.80})")
        document[place] = value = _mapping(value)
        document = value
    return document


def _has_ended(forward: Document) -> bool:
    try:
        return has_ended(forward, time.time())
    except DocumentError:  # the document is refused for it
        return False


def _warn_of_profile(documents: Documents, line: Line) -> None:
    """A forward of the line itself has no effect while a profile is used."""
    use = profile_now(line, circumstances_of(documents, line)) if line.profile else None
    if use is not None:
        warn(f"line {line.number}: profile {use.name} is used now, the line's own forwards are not")


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _confirm(line: Line, condition: str, acks: Acks, as_json: bool) -> None:
    words = dict(forwards_in_words(line))[condition]
    if as_json:
        forward = line.forwards[Condition(condition)]
        to = {"kind": forward.to.kind, "number": forward.to.number} if forward.to else None
        answer: dict[str, Any] = {"number": line.number, "condition": condition, "on": forward.on}
        answer |= {"to": to, "after_s": forward.after_s, "in_force": acks.plain()}
        if len(line.all_of(Condition(condition))) > 1:
            answer["forwards"] = len(line.all_of(Condition(condition)))
        print_json(answer)
    else:
        click.echo(f"{line.number} {condition}: {words}, {acks.in_words()}")
