"""The kinds of Redis failures, as one closed set for counters, logs and messages."""

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

REDIS_ERRORS = (RedisError, RedisClusterException, OSError)
"""The exceptions of a Redis client when Redis is away or refuses. redis-py's exception for a
cluster that is away as a whole is not a RedisError; a TimeoutError is an OSError."""

KINDS = ("away", "slow", "stream", "read_only", "full", "denied", "loading", "cluster", "other")
"""away: no connection; slow: no answer in time; stream: notifications of changes interrupted;
read_only: a replica, or too few of them; full: no memory or disk left; denied: user, password or
rights; loading: not ready yet, or busy with a script; cluster: slots without a node; other: any
other refusal."""

# Subclasses first: some of redis-py's errors are connection errors too.
_BY_TYPE: tuple[tuple[type[BaseException], str], ...] = (
    (ReadOnlyError, "read_only"),
    (OutOfMemoryError, "full"),
    (NoPermissionError, "denied"),
    (AuthenticationError, "denied"),
    (BusyLoadingError, "loading"),
    (AskError, "cluster"),
    (TryAgainError, "cluster"),
    (ClusterDownError, "cluster"),
    (RedisClusterException, "cluster"),
    (RedisTimeoutError, "slow"),
    (TimeoutError, "slow"),
)
_BY_WORD = {"MISCONF": "full", "NOREPLICAS": "read_only", "BUSY": "loading"}
# The refusal of a script's command is inside the script's own error.
_BY_TEXT = (
    ("OOM command not allowed", "full"),
    ("'maxmemory'", "full"),
    ("READONLY", "read_only"),
    ("previous master is now a", "read_only"),
)


def kind_of(error: BaseException) -> str:
    """The kind of an error from a Redis client or from Redis."""
    for error_type, kind in _BY_TYPE:
        if isinstance(error, error_type):
            return kind
    text = str(error)
    kind = _BY_WORD.get(text.partition(" ")[0], "")
    kind = kind or next((kind for words, kind in _BY_TEXT if words in text), "")
    if kind:
        return kind
    return "away" if isinstance(error, RedisConnectionError | OSError) else "other"


def refuses(error: ResponseError) -> bool:
    """Whether an error means that Redis is not usable, not merely that one key holds bad data or is
    elsewhere."""
    return not isinstance(error, AskError) and not is_wrong_type(error)


def is_wrong_type(error: Exception) -> bool:
    """Whether a key holds something else than expected; it says nothing about other keys."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")
