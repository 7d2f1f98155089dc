"""`renvoi completion`: the shell script that completes commands, options and names.

The scripts are click's own, which call the program at each Tab. So there is no second list of
commands, and no need for a library that would make one (shtab reads argparse).
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from engine.commands.context import Failed, Named

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_RENVOI_COMPLETE"  # as click names it


@click.command("completion", short_help="Print what makes a shell complete commands.")
@click.argument("shell", type=Named(SHELLS), metavar="SHELL")
@click.pass_context
def print_completion(context: click.Context, shell: str) -> None:
    """Print the script that makes SHELL (bash, zsh or fish) complete commands, options and names.
    It works for a program that is called `renvoi`, by whatever path.

    \b
    Examples:
      source <(renvoi completion bash)
      renvoi completion bash > ~/.local/share/bash-completion/completions/renvoi
      renvoi completion zsh > "${fpath[1]}/_renvoi"
      renvoi completion fish > ~/.config/fish/completions/renvoi.fish
    """
    made = get_completion_class(shell)
    if made is None:
        raise Failed(f"SHELL: click has no completion for it (got {shell!r})")
    program = context.find_root().command
    complete = made(program, {}, "renvoi", VARIABLE)
    click.echo(complete.source_template % complete.source_vars())
