"""`renvoi line import` and `renvoi line export`: all lines at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from engine.changes.acks import in_force_blocking
from engine.changes.line_file import FORMATS, write_rows
from engine.commands.context import (
    Failed,
    Named,
    Whole,
    Wrong,
    myself,
    open_redis,
    with_config,
    with_json,
    with_strict,
)
from engine.commands.documents import Documents
from engine.commands.output import print_json, warn_of
from engine.config import Config

SHOWN_FAULTS = 20
PROGRESS_S = 0.5
PROGRESS_LOG_S = 5.0

_format = click.option(
    "--format", "form", type=Named(FORMATS), help="Of the file.  [default: by its name]"
)


@click.command("import", short_help="Write all the lines of FILE in one step.")
@click.argument("file", type=click.File("rb"))
@_format
@click.option("--replace", is_flag=True, help="Delete the lines that are not in FILE.")
@click.option(
    "--parts", type=Whole(0), default=0, metavar="LINES",
    help="Not in one step but so many lines at a time.",
)  # fmt: skip
@click.option("--check", "only_check", is_flag=True, help="Write nothing, say what would change.")
@with_strict
@with_config
@with_json
def import_lines(
    file: BinaryIO, form: str | None, replace: bool, parts: int, only_check: bool, strict: bool,
    config: Config, as_json: bool,
) -> int:  # fmt: skip
    """Write all the lines of FILE (- = standard input) in one step: readers see all the old ones or
    all the new ones. In a Redis Cluster the step is one for each slot.

    FILE is JSON lines (one document a line) or CSV, as `renvoi line export` writes them. All of it
    is checked first. If anything is wrong, the first faults are reported and nothing is written.
    Lines that are not in FILE stay as they are, unless --replace is given. Unknown fields are kept
    and reported, each once, because they may be misspelt.

    \b
    Examples:
      renvoi line import lines.jsonl
      renvoi line import lines.csv --replace
      renvoi line import lines.csv --check
      renvoi line export | ssh other renvoi line import -
    """
    from engine.changes.import_step import ImportRefused
    from engine.changes.line_import import LineImport

    chosen = form or ("csv" if Path(file.name or "").suffix.lower() == ".csv" else "jsonl")
    numbering = config.numbering.plan()
    with (
        open_redis(config) as client,
        LineImport(
            client,
            numbering,
            replace=replace,
            strict=strict,
            faults_shown=SHOWN_FAULTS,
            progress=_Progress(),
        ) as work,  # fmt: skip
    ):
        begun = time.monotonic()
        plan = work.check(file, chosen)
        if plan.fault_count:
            for fault in plan.faults:
                click.echo(f"renvoi: {file.name}, {fault}", err=True)
            more = plan.fault_count - len(plan.faults)
            hidden = f", {more} of them not shown" if more else ""
            faults = "1 fault" if plan.fault_count == 1 else f"{plan.fault_count} faults"
            raise Wrong(f"{file.name}: {faults}{hidden}; nothing was written")
        warn_of([f"{file.name}, {text}" for text in plan.unread.in_words()])
        if not plan.lines and replace:
            raise Wrong(f"{file.name}: holds no line, and --replace would delete all")
        busy_s, acks = 0.0, None
        if not only_check and not plan.is_empty:
            try:
                busy_s = work.carry_out(parts, who=myself(), file=file.name or "-")
            except ImportRefused as error:
                raise Failed(str(error)) from None
            # One line on each server: the changes of the others were reported there before.
            every = [in_force_blocking(client, number) for number in plan.probes.values()]
            acks = next((one for one in every if not one.complete), every[-1])
        took_s = time.monotonic() - begun
    plan_counts = {
        "lines": plan.lines, "added": plan.added, "updated": plan.updated,
        "unchanged": plan.unchanged, "deleted": len(plan.deleted),
    }  # fmt: skip
    if as_json:
        force = acks.plain() if acks is not None else None
        times = {"seconds": round(took_s, 3), "redis_busy_s": round(busy_s, 3)}
        state = {"in_force": force, "written": acks is not None}
        print_json({**plan_counts, **times, **state, "unread": plan.unread.plain()})
        return 0
    counts = ", ".join(
        f"{count:,} {name}" for name, count in plan_counts.items() if name != "lines"
    )
    click.echo(f"{plan.lines:,} lines in {took_s:.1f} s: {counts}")
    if acks is not None:
        click.echo(f"switched over in {busy_s:.3f} s, {acks.in_words()}")
    else:
        click.echo("nothing was written" if only_check else "nothing to change")
    return 0


@click.command("export", short_help="Print all lines.")
@_format
@with_config
def export_lines(form: str | None, config: Config) -> int:
    """Print all lines to standard output, ordered by number, as JSON lines or CSV.

    The documents are printed whole, including the password hashes for the registrar: protect the
    file.

    \b
    Examples:
      renvoi line export > lines.jsonl
      renvoi line export --format csv > lines.csv
    """
    numbering = config.numbering.plan()
    progress = _Progress()
    out = sys.stdout.buffer
    with open_redis(config) as client:
        stored = enumerate(Documents(client, numbering).every(), 1)

        def documents() -> Iterator[bytes]:
            for count, (_, raw) in stored:
                progress("printed", count)
                yield raw

        count = write_rows(documents(), form or "jsonl", out.write)
        out.flush()
    click.echo(f"renvoi: {count:,} lines", err=True)
    return 0


class _Progress:
    """Shows progress on standard error: in place on a terminal, otherwise a line now and then."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._next = time.monotonic() + (PROGRESS_S if self._tty else PROGRESS_LOG_S)

    def __call__(self, what: str, count: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (PROGRESS_S if self._tty else PROGRESS_LOG_S)
        end = "\r" if self._tty else "\n"
        click.echo(f"renvoi: {count:,} lines {what}{end}", err=True, nl=False)
