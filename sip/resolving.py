"""PJSIP asks here where a request goes, instead of a blocking `getaddrinfo`.

Every request passes: those to an IP address find it in a dictionary, those to a name wait until
`names.py` has an answer, and PJSIP goes on then.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sip import stream_api, wire
from sip.address import Address
from sip.names import Place, address_of
from sip.pjsip import bytes_at, ffi, lib
from sip.settings import LayoutError
from sip.stream_api import IPV6, TCP, TLS, UDP

if TYPE_CHECKING:
    from sip.endpoint import Endpoint

SECURE = 2
UNRESOLVED = 70018  # PJ_ERESOLVE
MOST = 10_000  # addresses in memory
MOST_SERVERS = 16  # told for one name; the array has room for 32

_TYPES = {"udp": UDP, "tcp": TCP, "tls": TLS}
_NAMES = {number: name for name, number in _TYPES.items()}

ffi.cdef("""
typedef struct { unsigned flag; int type; pj_host_port addr; } pjsip_host_info;
typedef struct {
  int type; unsigned priority, weight; char addr[28]; int addr_len;
} pjsip_server_address_record;
typedef struct { unsigned count; pjsip_server_address_record entry[32]; } pjsip_server_addresses;
typedef void pjsip_resolver_callback(int, void *, const pjsip_server_addresses *);
typedef struct {
  void (*resolve)(void *, pj_pool_t *, const pjsip_host_info *, void *, pjsip_resolver_callback *);
} pjsip_ext_resolver;
int pjsip_endpt_set_ext_resolver(pjsip_endpoint *, pjsip_ext_resolver *);
void pjsip_endpt_resolve(pjsip_endpoint *, pj_pool_t *, const pjsip_host_info *, void *,
    pjsip_resolver_callback *);
""")


class Resolving:
    """PJSIP's external resolver. `pinned`, while it is set, is where the next request goes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._addresses: dict[tuple[bytes, int, int, int], Any] = {}
        self._waiting: dict[asyncio.Future[list[Address]], tuple[Any, Any]] = {}
        self.pinned: Address | None = None
        self._callback = endpoint.callback(
            "void(void *, pj_pool_t *, const pjsip_host_info *, void *, pjsip_resolver_callback *)",
            self._resolve,
        )
        self._hook = ffi.new("pjsip_ext_resolver *", {"resolve": self._callback})

    def start(self) -> None:
        """Raises LayoutError when PJSIP does not ask, or does not understand the answer."""
        endpt = self._endpoint.endpt
        if lib.pjsip_endpt_set_ext_resolver(endpt, self._hook) != 0:
            raise LayoutError("PJSIP's layout differs at pjsip_ext_resolver: it was refused")
        self._check(endpt)

    def close(self) -> None:
        """Whatever still waits for a name fails."""
        for task, (token, tell) in list(self._waiting.items()):
            task.cancel()
            tell(UNRESOLVED, token, ffi.NULL)
        self._waiting.clear()

    # -- PJSIP asks -------------------------------------------------------------------------------

    def _resolve(self, resolver: Any, pool: Any, target: Any, token: Any, tell: Any) -> None:
        if self.pinned is not None:
            tell(0, token, _addresses([self.pinned]))
            return
        where = target.addr
        host = where.host
        key = bytes_at(host.ptr, host.slen), where.port, target.type, target.flag
        known = self._addresses.get(key)
        if known is None:
            place = _place(key)
            server = address_of(place)
            if server is None:
                self._ask(place, token, tell)
                return
            if len(self._addresses) >= MOST:
                self._addresses.clear()
            known = self._addresses[key] = _addresses([server])
        tell(0, token, known)

    def _ask(self, place: Place, token: Any, tell: Any) -> None:
        names = self._endpoint.names
        servers = names.known(place)
        if servers is not None:
            _tell(servers, token, tell)
            return
        task = self._endpoint.loop.create_task(names.ask(place))
        self._waiting[task] = token, tell
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Future[list[Address]]) -> None:
        waiting = self._waiting.pop(task, None)
        if waiting is not None:
            _tell([] if task.cancelled() else task.result(), *waiting)

    def _check(self, endpt: Any) -> None:
        """Let PJSIP ask for an address and read its question and our answer back."""
        heard: list[tuple[int, int, tuple[str, int]]] = []

        def hear(status: int, token: Any, servers: Any) -> None:
            if status == 0:
                entry = servers.entry[0]
                heard.append((servers.count, entry.type, stream_api.address_of(entry.addr)))

        told = ffi.callback("pjsip_resolver_callback", hear)
        name = wire.Text(b"192.0.2.7")
        target = ffi.new("pjsip_host_info *", {"type": TCP})
        target.addr.host, target.addr.port = name.ref[0], 4660
        lib.pjsip_endpt_resolve(endpt, ffi.NULL, target, ffi.NULL, told)
        wanted = 1, TCP, ("192.0.2.7", 4660)
        if heard != [wanted]:
            raise LayoutError(
                f"PJSIP's layout differs at pjsip_host_info: read {heard!r}, expected {wanted!r}"
            )


def _place(key: tuple[bytes, int, int, int]) -> Place:
    host, port, kind, flag = key
    name = host.decode("latin-1").strip("[]").lower()
    return Place(name, port, _NAMES.get(kind & ~IPV6, ""), bool(flag & SECURE))


def _tell(servers: Sequence[Address], token: Any, tell: Any) -> None:
    made = _addresses(servers)
    if made.count:
        tell(0, token, made)
    else:
        tell(UNRESOLVED, token, ffi.NULL)


def _addresses(servers: Sequence[Address]) -> Any:
    made = ffi.new("pjsip_server_addresses *")
    for server in servers[:MOST_SERVERS]:
        if server.transport not in _TYPES:
            continue
        entry = made.entry[made.count]
        ipv6 = ":" in server.host
        entry.type = _TYPES[server.transport] + (IPV6 if ipv6 else 0)
        host = wire.Text(server.host.encode())
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        lib.pj_sockaddr_init(family, entry.addr, host.ref, server.port)
        entry.addr_len = 28 if ipv6 else 16
        made.count += 1
    return made
