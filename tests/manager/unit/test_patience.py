"""Time limits for clients: only a connection without a request counts as silent."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn

from manager.patience import Patient
from tests.patience import within

KEEP_ALIVE_S = 1


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5 * KEEP_ALIVE_S)
    head = {"type": "http.response.start", "status": 204, "headers": []}
    await send(head)
    await send({"type": "http.response.body", "body": b""})


async def test_a_request_that_came_with_the_one_before_is_answered() -> None:
    """RFC 9112 9.3.2: it was read before the answer to the first had ended."""
    options = uvicorn.Config(
        app, port=0, http=Patient, lifespan="off", log_config=None, timeout_keep_alive=KEEP_ALIVE_S
    )
    server = uvicorn.Server(options)
    options.load()
    server.lifespan = options.lifespan_class(options)
    await server.startup()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for path in ("/fast", "/slow"):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        async with asyncio.timeout(within(5)):
            answers = await reader.read(-1)  # until the connection has been silent for its time
        writer.close()
        assert answers.count(b"HTTP/1.1 204") == 2
    finally:
        await server.shutdown()
