"""What can be wrong with Redis, in one closed set: for counters, logs and people."""

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
"""What a Redis client raises when Redis is away or refuses. What redis-py says of a cluster that is
away as a whole is no RedisError; a TimeoutError is an OSError."""

KINDS = ("away", "slow", "stream", "read_only", "full", "denied", "loading", "cluster", "other")
"""away: no connection; slow: no answer in time; stream: news of changes interrupted; read_only: a
replica, or too few of them; full: no memory or disk left; denied: user, password or rights;
loading: not ready yet, or busy with a script; cluster: slots without a node; other: whatever else
Redis refuses."""

# The narrow before the wide: some of redis-py's errors are connection errors too.
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
# What a script was refused is told in the middle of the script's own error.
_BY_TEXT = (
    ("OOM command not allowed", "full"),
    ("'maxmemory'", "full"),
    ("READONLY", "read_only"),
    ("previous master is now a", "read_only"),
)


def kind_of(error: BaseException) -> str:
    """The kind of an error that a Redis client raised or that Redis answered with."""
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
    """Whether an answer means that Redis cannot serve us: not that one key holds bad data, or is
    elsewhere."""
    return not isinstance(error, AskError) and not str(error).startswith("WRONGTYPE")
