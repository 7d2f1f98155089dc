"""A TCP relay that adds a delay, so that a server seems farther away.

    python -m benchmarks.relay PORT UPSTREAM_PORT ADDED_MS

Half of ADDED_MS is added each way, so that a round trip takes ADDED_MS longer. Order is kept.
"""

from __future__ import annotations

import asyncio
import sys

HOST = "127.0.0.1"


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float
) -> None:
    loop = asyncio.get_running_loop()
    due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            at, data = await due.get()
            await asyncio.sleep(max(0.0, at - loop.time()))
            if not data:
                writer.close()
                return
            writer.write(data)

    delivery = asyncio.ensure_future(deliver())
    try:
        while data := await reader.read(65536):
            due.put_nowait((loop.time() + delay_s, data))
    except OSError:
        pass
    due.put_nowait((loop.time(), b""))
    await delivery


async def _serve(port: int, upstream: int, delay_s: float) -> None:
    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(HOST, upstream)
        await asyncio.gather(_carry(reader, back, delay_s), _carry(there, writer, delay_s))

    server = await asyncio.start_server(joined, HOST, port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 2000))
