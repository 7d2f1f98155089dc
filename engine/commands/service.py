"""`renvoi serve` and `renvoi demo`."""

from __future__ import annotations

import asyncio

import click

from engine.commands.context import CONFIG_PATH, with_config, with_json
from engine.config import Config
from engine.stderr import say


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

    if workers := upgrade.tried_by():
        from engine.processes import supervised  # noqa: F401  # all that serving imports

        return _try(config, workers)
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


def _try(config: Config, workers: int) -> int:
    """Whether new code can replace an engine with so many workers. A worker without supervisor
    listens where the first of several does, and adopts none. Redis must answer; the embedded one
    starts with the new code."""
    from store.client import unreachable

    redis = config.redis
    if workers > 1 == config.workers:
        say(f"workers: a change from {workers} to 1 needs a restart")
    elif not redis.embedded and (problem := asyncio.run(unreachable(redis.url))):
        say(redis.cannot_reach(problem))
    else:
        return 0
    return 1


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
