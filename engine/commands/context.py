"""What every command shares: its options, its two ways to fail, its Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from engine.config import Config, load
from rules.numbers import NumberError, Numbering

if TYPE_CHECKING:
    import redis

F = TypeVar("F", bound=Callable[..., Any])

CONFIG_PATH = "renvoi.config_path"  # in click's meta: the file that was named, or None
CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 10.0


class Failed(click.ClickException):
    """The command could not be carried out: exit status 1."""

    exit_code = 1


class Wrong(click.ClickException):
    """The input is wrong; the text names the field and the value: exit status 2."""

    exit_code = 2


def with_config(command: F) -> F:
    """Adds `--config PATH`; the command gets a loaded `config`."""

    def read(context: click.Context, _option: click.Parameter, path: Path | None) -> Config:
        if path is None:  # given before the command's name?
            path = context.find_root().params.get("config_path")
        context.meta[CONFIG_PATH] = path
        return load(path)

    return click.option(
        "--config",
        "config",
        type=click.Path(path_type=Path),
        metavar="PATH",
        callback=read,
        help="Configuration file.  [default: config.yaml, if there is one]",
    )(command)


def with_json(command: F) -> F:
    """Adds `--json`; the command gets `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def with_strict(command: F) -> F:
    """Adds `--strict`; the command gets `strict`."""
    words = "Refuse fields that nothing reads; names that begin with x_ are let through."
    return click.option("--strict", is_flag=True, help=words)(command)


def read_number(name: str, text: str, numbering: Numbering) -> str:
    """E.164 of a number given as argument `name`. Raises Wrong."""
    try:
        return numbering.normalise(text)
    except NumberError as error:
        raise Wrong(f"{name}: {error.problem} (got {text!r})") from None


@contextmanager
def open_redis(config: Config, start: bool = True) -> Iterator[redis.Redis]:
    """A client of the configured Redis that has answered once.

    An embedded Redis that no engine runs is started for the time of the block, unless `start` is
    false. Raises Failed when Redis cannot be reached, also later inside the block.
    """
    with reach_redis(config, start) as url, _client(url) as client:
        yield client


@contextmanager
def reach_redis(config: Config, start: bool = True) -> Iterator[str]:
    """The URL of the configured Redis, for commands that make a client of their own; else as
    `open_redis`."""
    # Only commands that need Redis pay for importing its client.
    from redis.exceptions import RedisClusterException, RedisError

    from engine import redis_server

    try:
        if config.redis.embedded:
            with redis_server.reach(config.redis.data_dir, start) as url:
                yield url
        else:
            yield config.redis.url
    # No OSError: what a command reads and writes has its own, and redis-py's blocking clients none.
    except (RedisError, RedisClusterException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Failed(f"redis.url: {config.redis.safe_url}: {reason}") from None
    except (redis_server.EmbeddedRedisError, ValueError) as error:
        raise Failed(str(error)) from None


@contextmanager
def _client(url: str) -> Iterator[redis.Redis]:
    from engine.redis_client import connect_blocking

    client = connect_blocking(
        url, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_timeout=ANSWER_TIMEOUT_S
    )
    try:
        client.ping()
        yield client
    finally:
        client.close()
