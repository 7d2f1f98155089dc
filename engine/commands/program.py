"""The tree of `renvoi` commands, and their exit statuses."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import click

from engine import __version__
from engine.commands.audit import show_changes
from engine.commands.check import check
from engine.commands.completion import print_completion
from engine.commands.explain import explain_line
from engine.commands.fleet import fleet_group
from engine.commands.forward import forward_group
from engine.commands.line import line_group
from engine.commands.records import show_records
from engine.commands.register import register
from engine.commands.service import demo, serve
from engine.commands.usage import show_usage
from engine.commands.watch import show_calls
from engine.config import CONFIG_VARIABLE, ConfigError
from manager.command import manager_group
from notify.command import notify_group

DONE, FAILED, WRONG = 0, 1, 2
INTERRUPTED = 130  # as a shell reports SIGINT


@click.group("renvoi", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="renvoi", message="%(prog)s %(version)s")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    envvar=CONFIG_VARIABLE,
    help=f"Configuration file, also accepted after the command; else {CONFIG_VARIABLE} names it.",
)
def program(config_path: Path | None) -> None:
    """Renvoi, a live call-forwarding engine beside a telephony server.

    It takes each incoming call, applies the called line's forwards in order (unconditional, busy,
    no answer, unreachable) and sends the call to a voicemail, a fax or a number.

    \b
    A first try:
      renvoi demo                 watch real calls being forwarded
      renvoi serve                take calls
      echo '{"number": "+33972101001", "fleet": "acme"}' | renvoi line set -
      renvoi forward set 0972101001 unconditional voicemail
      renvoi explain 0972101001   what would happen to a call now, and why

    \b
    Exit status: 0 done, 1 failed, 2 wrong input, 130 interrupted.
    """


for _command in (
    serve,
    check,
    demo,
    line_group,
    forward_group,
    register,
    fleet_group,
    explain_line,
    show_calls,
    show_records,
    show_usage,
    show_changes,
    manager_group,
    notify_group,
    print_completion,
):
    program.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, see `engine.cli.main`."""
    try:
        status = program.main(
            args=None if arguments is None else list(arguments),
            prog_name="renvoi",
            standalone_mode=False,
        )
        sys.stdout.flush()
        return status if isinstance(status, int) else DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.message, err=True)
        return WRONG
    except click.UsageError as error:
        return _fail(_usage(error), WRONG)
    except ConfigError as error:
        return _fail(str(error), WRONG)
    except click.FileError as error:
        return _fail(error.format_message(), WRONG)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except click.Abort as error:
        if isinstance(error.__cause__ or error.__context__, EOFError):
            return _fail("the input ended before an answer", FAILED)
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader has closed the pipe (| head). The interpreter must not try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or str(error) or type(error).__name__}", FAILED)
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error}", FAILED)


def _usage(error: click.UsageError) -> str:
    """The message with a hint to the help, in one line."""
    command = error.ctx.command_path if error.ctx else "renvoi"
    return f"{error.format_message()}{_meant(error)} (see {command} --help)"


def _meant(error: click.UsageError) -> str:
    """The command that may be meant by an unknown one; click does this for options."""
    unknown = re.fullmatch(r"No such command '(.*)'\.", error.message)
    group = error.ctx.command if error.ctx else None
    if unknown is None or error.ctx is None or not isinstance(group, click.Group):
        return ""
    alike = get_close_matches(unknown[1], group.list_commands(error.ctx), 1)
    return f" Did you mean {alike[0]}?" if alike else ""


def _fail(message: str, status: int) -> int:
    click.echo("renvoi: " + " ".join(message.split()), err=True)
    return status
