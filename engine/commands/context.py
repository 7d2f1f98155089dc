"""The common parts of all commands: options, two kinds of failure, Redis."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from engine.config import CONFIG_VARIABLE, Config, load
from rules.numbers import NumberError, Numbering

if TYPE_CHECKING:
    import redis

F = TypeVar("F", bound=Callable[..., Any])

CONFIG_PATH = "renvoi.config_path"  # in click's meta: the given file, or None
CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 10.0


class Failed(click.ClickException):
    """The command failed: exit status 1."""

    exit_code = 1


class Wrong(click.ClickException):
    """The input is wrong: exit status 2. The message names the field and the value."""

    exit_code = 2


class Named(click.Choice[str]):
    """One of some names, in any case and with - for _."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Raises click.BadParameter, which suggests a similar name."""
        plain = str(value).strip().lower().replace("-", "_")
        if plain not in self.choices:
            alike = get_close_matches(plain, self.choices, 1)
            hint = f", did you mean {alike[0]}?" if alike else ""
            words = f"expected one of {', '.join(self.choices)}{hint} (got {value!r})"
            raise click.BadParameter(words, ctx, param)
        return plain


class Whole(click.ParamType[int]):
    """A whole number from `low` to `high` (None = any), of something such as "seconds"."""

    name = "number"

    def __init__(self, low: int, high: int | None = None, of: str = "") -> None:
        self._low, self._high = low, high
        to = f" to {high:,}" if high is not None else " or more"
        self._wanted = f"expected {low}{to}{of and f' {of}'}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Raises click.BadParameter."""
        try:
            number = int(value)
        except ValueError:
            number = self._low - 1
        if number < self._low or (self._high is not None and number > self._high):
            raise click.BadParameter(f"{self._wanted} (got {str(value)!r})", ctx, param)
        return number


def with_config(command: F) -> F:
    """Adds `--config PATH`; the command gets a loaded `config`."""

    def read(context: click.Context, option: click.Parameter, path: Path | None) -> Config:
        return load(_given(context, option, path))

    return _config_option("config", read)(command)


def with_config_path(group: F) -> F:
    """The same for a group that is a command too, which gets `config_path` and loads the file when
    it runs itself: a command in it may name another, or be asked for its help alone."""
    return _config_option("config_path", _given)(group)


def _config_option(name: str, read: Callable[..., Any]) -> Callable[[F], F]:
    return click.option(
        "--config",
        name,
        type=click.Path(path_type=Path),
        metavar="PATH",
        callback=read,
        help=f"Configuration file.  [default: {CONFIG_VARIABLE}, or config.yaml if there is one]",
    )


def _given(context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """The file that is named here, else with the group before, else before all."""
    if path is None:
        first = context.find_root().params.get("config_path")
        path = context.meta.get(CONFIG_PATH, first)
    context.meta[CONFIG_PATH] = path
    return path


def with_json(command: F) -> F:
    """Adds `--json`; the command gets `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def with_strict(command: F) -> F:
    """Adds `--strict`; the command gets `strict`."""
    words = "Refuse fields that nothing reads; names that begin with x_ are let through."
    return click.option("--strict", is_flag=True, help=words)(command)


def read_password() -> str:
    """From the terminal, twice and unseen, or the first line of standard input. Raises Wrong."""
    typed: str
    try:
        if sys.stdin.isatty():
            typed = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        else:
            typed = sys.stdin.readline().rstrip("\r\n")
        typed.encode()
    except UnicodeError:
        raise Wrong("password: expected UTF-8 text") from None
    return typed


def read_number(name: str, text: str, numbering: Numbering) -> str:
    """E.164 of a number given as argument `name`. Raises Wrong."""
    try:
        return numbering.normalise(text)
    except NumberError as error:
        raise Wrong(f"{name}: {error.problem} (got {text!r})") from None


@contextmanager
def open_redis(config: Config, start: bool = True) -> Iterator[redis.Redis]:
    """A client of the configured Redis that has answered once.

    An embedded Redis without a running engine is started for the duration of the block, unless
    `start` is false. Raises Failed if Redis cannot be reached, also later inside the block.
    """
    with reach_redis(config, start) as url, _client(url) as client:
        yield client


@contextmanager
def reach_redis(config: Config, start: bool = True) -> Iterator[str]:
    """The URL of the configured Redis, for commands that make their own client; otherwise as
    `open_redis`."""
    # Only commands that need Redis pay for importing its client.
    from redis.exceptions import RedisClusterException, RedisError

    from engine import embedded_redis

    try:
        if config.redis.embedded:
            with embedded_redis.reach(config.redis.data_dir, start) as url:
                yield url
        else:
            yield config.redis.url
    # Without OSError: a command's own files raise it, and redis-py's blocking clients do not.
    except (RedisError, RedisClusterException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Failed(f"redis.url: {config.redis.safe_url}: {reason}") from None
    except (embedded_redis.EmbeddedRedisError, ValueError) as error:
        raise Failed(str(error)) from None


@contextmanager
def service_redis(config: Config) -> Iterator[str]:
    """The URL of the configured Redis for a service beside the engine, whose log is open meanwhile.
    Raises Failed if the Redis is embedded and no engine runs on it. Unlike `reach_redis` it leaves
    errors of the service itself alone."""
    from engine import embedded_redis
    from engine.telemetry import log

    log.set_up(config.log)
    try:
        with ExitStack() as stack:
            url = config.redis.url
            if config.redis.embedded:
                try:
                    url = stack.enter_context(
                        embedded_redis.reach(config.redis.data_dir, start=False)
                    )
                except embedded_redis.EmbeddedRedisError as error:
                    raise Failed(str(error)) from None
            yield url
    finally:
        log.close()


@contextmanager
def _client(url: str) -> Iterator[redis.Redis]:
    from store.client import connect_blocking

    client = connect_blocking(
        url, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_timeout=ANSWER_TIMEOUT_S
    )
    try:
        client.ping()
        yield client
    finally:
        client.close()


def myself() -> str:
    """The user of the command, for the log of changes."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "?"
