"""The stream of invalidations: Redis reports which keys have changed (CLIENT TRACKING, BCAST mode).

On RESP2 the messages come over Pub/Sub, redirected to the connection itself. While the stream is
on, no change can be missed. After any interruption, everything read before is in doubt.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from redis.exceptions import ResponseError

from store import background_tasks
from store.connection import Connection, Dial
from store.redis_errors import REDIS_ERRORS

_CHANNEL = b"__redis__:invalidate"
_SETUP_S = 1.0
_QUIET_S = 0.8
"""Seconds of silence after which the stream is pinged, and seconds after which an unanswered ping
ends it."""
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.2


class Invalidations:
    """Follows the stream and reconnects by itself.

    Args:
        prefixes: of the watched keys; none may be a prefix of another.
        on_live: called when the stream is on; it covers reads that begin from now on.
        on_keys: called with the keys that have changed; None means all of them (FLUSHALL).
        on_lost: called when the stream is interrupted, with the monotonic time in seconds of its
            last sign of life.
        on_error: called with the reason why it could not be opened, or was lost.

    Attributes:
        tried: set when the first attempt to connect has succeeded or failed.
    """

    def __init__(
        self,
        dial: Dial,
        prefixes: Sequence[str],
        *,
        on_live: Callable[[], None],
        on_keys: Callable[[Sequence[bytes] | None], None],
        on_lost: Callable[[float], None],
        on_error: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.tried = asyncio.Event()
        self._dial = dial
        self._prefixes = prefixes
        self._on_live = on_live
        self._on_keys = on_keys
        self._on_lost = on_lost
        self._on_error = on_error
        self._following: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        """Follow the stream until cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            self._following = asyncio.create_task(self._follow(), name="rules: one stream")
            try:
                await asyncio.wait({self._following})
            finally:
                await background_tasks.end([self._following])
            self.tried.set()
            was_live = not self._following.cancelled() and self._following.result()
            pause_s = _FIRST_PAUSE_S if was_live else min(2 * pause_s, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    def restart(self) -> None:
        """Replace this connection, because it answers pings but no longer reports changes, or
        because its server no longer has the keys."""
        if self._following is not None:
            self._following.cancel()

    async def _follow(self) -> bool:
        """One connection, from opening to loss. Returns whether the stream was ever on."""
        last_message_at: float | None = None
        connection = Connection(self._dial)
        try:
            async with asyncio.timeout(_SETUP_S):
                await self._set_up(connection)
            last_message_at = time.monotonic()
            self._on_live()
            self.tried.set()
            waiting_for_pong = False
            while True:
                message = await connection.hear(_QUIET_S)
                if message is None:
                    if waiting_for_pong:
                        raise TimeoutError("the stream of changes is silent")
                    waiting_for_pong = True
                    await connection.send([("PING",)])
                    continue
                waiting_for_pong = False
                last_message_at = time.monotonic()
                if message[0] == b"message" and message[1] == _CHANNEL:
                    self._on_keys(message[2])
        except REDIS_ERRORS as error:
            # Whatever the cause, everything is stale now, and the connection is made again.
            self._on_error(error)
        except Exception as error:
            background_tasks.report("rules: the invalidation stream failed", error)
        finally:
            if last_message_at is not None:
                self._on_lost(last_message_at)
            await connection.close()
        return last_message_at is not None

    async def _set_up(self, connection: Connection) -> None:
        await connection.open()
        (client,) = await connection.ask([("CLIENT", "ID")])
        _raise_refusal(client)
        prefixes = [part for prefix in self._prefixes for part in ("PREFIX", prefix)]
        tracking = ("CLIENT", "TRACKING", "ON", "REDIRECT", client, "BCAST", *prefixes)
        for reply in await connection.ask([tracking, ("SUBSCRIBE", _CHANNEL)]):
            _raise_refusal(reply)


def _raise_refusal(reply: object) -> None:
    if isinstance(reply, ResponseError):
        raise reply
