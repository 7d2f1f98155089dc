"""Lua scripts: called by their digest, and sent in full only to a server that does not have them,
as after a restart or a fail-over."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import NoScriptError

from store.connection import Command

Send = Callable[[Sequence[Command]], Awaitable[list[Any]]]
"""Sends commands and returns a reply for each, an exception for a refused one."""

_TEXTS: dict[str, str] = {}  # by digest


class Script:
    """A script. `text` names its keys KEYS and its arguments ARGV."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._digest = hashlib.sha1(text.encode()).hexdigest()
        _TEXTS[self._digest] = text

    def command(self, keys: Sequence[str], *arguments: Any) -> Command:
        """The command for `send`."""
        return ("EVALSHA", self._digest, len(keys), *keys, *arguments)

    def whole(self, keys: Sequence[str], *arguments: Any) -> Command:
        """The command with the full text, for processes that run it once."""
        return ("EVAL", self.text, len(keys), *keys, *arguments)

    async def run(self, client: Any, keys: Sequence[str], *arguments: Any) -> Any:
        """Run it and return its result. In a Cluster all keys must be in one slot. Raises
        REDIS_ERRORS, after which it may have run or not."""

        async def send_one(commands: Sequence[Command]) -> list[Any]:
            try:
                return [await client.execute_command(*commands[0])]
            except NoScriptError as error:
                return [error]

        (reply,) = await send(send_one, [self.command(keys, *arguments)])
        return reply


async def send(how: Send, commands: Sequence[Command]) -> list[Any]:
    """Send commands, some of them scripts. Scripts that the server did not have are sent again in
    full, all at once. Raises what `how` raises."""
    replies = await how(commands)
    unknown = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:
        whole: list[Command] = []
        for at in unknown:
            _, digest, *rest = commands[at]
            whole.append(("EVAL", _TEXTS[str(digest)], *rest))
        for at, reply in zip(unknown, await how(whole), strict=True):
            replies[at] = reply
    return replies
