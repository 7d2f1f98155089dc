"""Changed keys, from a Redis of any shape, for modules that keep an index of them."""

from collections.abc import Callable, Sequence
from typing import Any

from store.layout import Client, layout_of
from store.shard import Shard


class KeyChanges:
    """Follows every server that has keys; reconnects by itself.

    Args:
        prefixes: of the watched keys; none may be a prefix of another.
        name: unique among all listeners.
        on_keys: called with the keys that have changed; None means that any may have: a server's
            stream has started or restarted, or everything was deleted.
    """

    def __init__(
        self,
        client: Client,
        prefixes: Sequence[str],
        name: str,
        on_keys: Callable[[Sequence[bytes] | None], None],
    ) -> None:
        self._on_keys = on_keys

        def make(server: str, dial: Any, **more: Any) -> Shard:
            return Shard(server, dial, prefixes=prefixes, canary=name, watcher=self, **more)

        self._layout = layout_of(client, make)

    @property
    def is_complete(self) -> bool:
        """Whether no change can have been missed since the last `on_keys(None)`."""
        shards = self._layout.shards
        return bool(shards) and all(shard.span is not None for shard in shards)

    async def start(self) -> None:
        """Connect, and wait until Redis has answered or failed (1 s at most)."""
        await self._layout.start()

    async def close(self) -> None:
        """Stop."""
        await self._layout.close()

    # Called by the shards

    def on_keys(self, shard: Shard, keys: Sequence[bytes] | None) -> None:
        """Keys of the canary are not passed on."""
        prefix = shard.canary.prefix.encode()
        if keys is None:
            self._on_keys(None)
            return
        if shard.canary.key.encode() in keys:
            shard.canary.reported()
        if changed := [key for key in keys if not key.startswith(prefix)]:
            self._on_keys(changed)

    def on_stream(self, shard: Shard) -> None:
        """Something may have been missed before."""
        self._on_keys(None)

    def on_answers(self, shard: Shard, replies: Sequence[Any]) -> None:
        """Handle a cluster node's view of the cluster."""
        self._layout.answers(shard, replies)

    def on_shard_trouble(self, shard: Shard, error: BaseException, kind: str) -> None:
        """It reconnects by itself; what is wrong shows when Redis is asked."""
