"""One HTTP POST, bounded in everything: time, bytes, and where it goes.

Only the head of the answer is read. Redirects are not followed: they could lead anywhere. Written
on h11 and asyncio's streams, because the address that is connected to must be the one that was
checked (`notify.addresses`), while the certificate must be that of the name.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

import h11

from engine import __version__
from notify.addresses import Forbidden, Network, NotFound, resolve
from notify.attempts import Failure, Reason

_HEAD_BYTES = 16_384
_READ_BYTES = 4096
_ADDRESSES = 4  # of a name that are tried
_MOST_INFORMATIONAL = 10


class Webhooks:
    """Posts to URLs. `allowed`: networks that are not public and may be reached."""

    def __init__(
        self, allowed: Sequence[Network], timeout_s: float, context: ssl.SSLContext
    ) -> None:
        self._allowed = allowed
        self._timeout_s = timeout_s
        self._context = context

    async def post(self, url: str, body: bytes, fields: Mapping[str, str]) -> None:
        """Post it; returns when the receiver has answered 2xx. Raises Failure."""
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._post(url, body, fields)
        except TimeoutError:
            raise Failure(Reason.TIMEOUT, f"no answer in {self._timeout_s:g} s") from None
        except Forbidden as error:
            raise Failure(Reason.FORBIDDEN, str(error)) from None
        except NotFound as error:
            raise Failure(Reason.NAME, str(error)) from None
        except ssl.SSLError as error:
            raise Failure(Reason.TLS, error.reason or "TLS failed") from None
        except h11.ProtocolError as error:
            raise Failure(Reason.PROTOCOL, f"no HTTP answer: {error}") from None
        except OSError as error:
            raise Failure(Reason.CONNECTION, error.strerror or str(error)) from None
        if not 200 <= status < 300:
            text = f"status {status}"
            if 300 <= status < 400:
                text += ", redirects are not followed"
            raise Failure(Reason.STATUS, text, final=status == HTTPStatus.GONE)

    async def _post(self, url: str, body: bytes, fields: Mapping[str, str]) -> int:
        parts = urlsplit(url)
        host = parts.hostname or ""
        context = self._context if parts.scheme == "https" else None
        port = parts.port or (443 if context is not None else 80)
        addresses = await resolve(host, self._allowed, self._timeout_s)
        reader, writer = await self._connect(addresses[:_ADDRESSES], port, host, context)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
            request = h11.Request(
                method="POST",
                target=path,
                headers=[
                    ("host", parts.netloc),
                    ("user-agent", f"Renvoi/{__version__}"),
                    ("content-type", "application/json"),
                    ("content-length", str(len(body))),
                    ("connection", "close"),
                    *fields.items(),
                ],
            )
            whole = [
                connection.send(event)
                for event in (request, h11.Data(data=body), h11.EndOfMessage())
            ]
            writer.write(b"".join(part for part in whole if part))
            await writer.drain()
            return await _status(connection, reader)
        finally:
            writer.transport.abort()  # the rest of the answer does not matter

    async def _connect(
        self, addresses: Sequence[str], port: int, host: str, context: ssl.SSLContext | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first address that answers; each gets its share of the time."""
        name = host if context is not None else None
        share_s = self._timeout_s / len(addresses)
        for address in addresses[:-1]:
            try:
                async with asyncio.timeout(share_s):
                    return await asyncio.open_connection(
                        address, port, ssl=context, server_hostname=name
                    )
            except ssl.SSLError:
                raise
            except OSError:  # TimeoutError is one
                continue
        last = addresses[-1]
        return await asyncio.open_connection(last, port, ssl=context, server_hostname=name)


async def _status(connection: h11.Connection, reader: asyncio.StreamReader) -> int:
    """The status of the answer. Raises h11.ProtocolError."""
    informational = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Response):
            return event.status_code
        elif isinstance(event, h11.InformationalResponse):
            informational += 1
            if informational > _MOST_INFORMATIONAL:
                raise h11.RemoteProtocolError("too many informational responses")
        else:
            raise h11.RemoteProtocolError("no response")
