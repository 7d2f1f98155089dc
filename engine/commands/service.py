"""`renvoi serve` and `renvoi demo`."""

from __future__ import annotations

import click

from engine.commands.context import CONFIG_PATH, with_config, with_json
from engine.config import Config


@click.command("serve", short_help="Take calls.")
@with_config
def serve(config: Config) -> int:
    """Take calls until SIGTERM (lets calls in progress finish) or SIGINT (ends them). SIGHUP reads
    the configuration again, SIGUSR2 replaces the running code by that on disk; neither cuts a call:
    docs/operation.md. With `workers` above 1 each is a process of its own.

    \b
    Examples:
      renvoi serve
      RENVOI_REDIS_URL=redis://10.0.0.5 renvoi serve --config /etc/renvoi.yaml
    """
    from engine.processes import upgrade
    from engine.telemetry import log

    if upgrade.is_probe():
        from engine.processes import supervised  # noqa: F401  # all that serving imports

        return 0
    path = click.get_current_context().meta[CONFIG_PATH]
    log.set_up(config.log)
    try:
        if config.workers > 1:  # the supervisor does not need the worker's modules
            from engine import supervisor

            return supervisor.serve(config, path)
        from engine import serve as server

        return server.serve(config, path)
    finally:
        log.close()


@click.command("demo", short_help="Watch real calls being forwarded.")
@click.option(
    "--phones",
    type=click.Choice(["scripted", "pjsua2"]),
    default="scripted",
    help="Who plays the phones: a script, or PJSIP (pip install 'renvoi[phones]').",
)
@with_config
@with_json
def demo(config: Config, as_json: bool, phones: str) -> int:
    """Place real calls through a real engine on this machine and compare each with what is
    expected. Exit status 1 when one differs.
    """
    from engine.demo.show import run

    return run(config, as_json=as_json, pjsua2=phones == "pjsua2")
