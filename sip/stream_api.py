"""PJSIP's transports as structs: made, registered, fed and released for `streams.py`.

As in `pjsip.py` the layouts hold for the one wheel only, and `check` reads them back before any
connection is taken.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, NamedTuple

from sip import wire
from sip.pjsip import ffi, lib
from sip.settings import LayoutError

UDP, TCP, TLS, IPV6 = 1, 2, 3, 128
RELIABLE, SECURE, DATAGRAM = 1, 2, 4
OUTGOING, INCOMING = 1, 2
DISCONNECTED = 1
_SPARE = 512  # bytes beyond the declared struct: PJSIP writes by its own idea of its size

ffi.cdef("""
typedef struct { pj_str_t host; int port; } pj_host_port;
typedef struct { long type; char rem_addr[28]; } pj_transport_key;
typedef struct { void *user_data; int id; void *cb; int _timer_id; } pj_timer_entry;
typedef struct pjsip_transport {
  char obj_name[32]; pj_pool_t *pool; void *ref_cnt, *lock, *grp_lock;
  int tracing, is_shutdown, is_destroying; pj_transport_key key; const char *type_name;
  unsigned flag; const char *info; int addr_len; char local_addr[28];
  pj_host_port local_name, remote_name; int dir; pjsip_endpoint *endpt; void *tpmgr, *factory;
  pj_timer_entry idle_timer; uint64_t last_recv_ts; size_t last_recv_len; void *data;
  unsigned initial_timeout;
  int (*send_msg)(struct pjsip_transport *, pjsip_tx_data *, const void *, int, void *, void *);
  int (*do_shutdown)(struct pjsip_transport *);
  int (*destroy)(struct pjsip_transport *);
} pjsip_transport;
typedef struct pjsip_tpfactory {
  void *prev, *next; char obj_name[32]; pj_pool_t *pool; void *lock; int type;
  const char *type_name; unsigned flag; const char *info; char local_addr[28];
  pj_host_port addr_name; void *create_transport;
  int (*create_transport2)(struct pjsip_tpfactory *, void *, pjsip_endpoint *, const void *, int,
      pjsip_tx_data *, pjsip_transport **);
  int (*destroy)(struct pjsip_tpfactory *);
} pjsip_tpfactory;
typedef struct { int status; void *ext_info, *user_data; } pj_transport_state_info;
int pj_atomic_create(pj_pool_t *, long, void **);
int pj_atomic_destroy(void *);
int pj_lock_create_recursive_mutex(pj_pool_t *, const char *, void **);
int pj_lock_destroy(void *);
int pj_sockaddr_init(int, void *, const pj_str_t *, uint16_t);
int pjsip_transport_register(void *, pjsip_transport *);
int pjsip_transport_shutdown(pjsip_transport *);
int pjsip_transport_add_ref(pjsip_transport *);
int pjsip_transport_dec_ref(pjsip_transport *);
int pjsip_tpmgr_register_tpfactory(void *, pjsip_tpfactory *);
int pjsip_tpmgr_unregister_tpfactory(void *, pjsip_tpfactory *);
long pjsip_tpmgr_receive_packet(void *, pjsip_rx_data *);
void (*pjsip_tpmgr_get_state_cb(void *))(pjsip_transport *, int, const pj_transport_state_info *);
int pjsip_udp_transport_start(pjsip_endpoint *, void *, void *, unsigned, pjsip_transport **);
int pjsip_udp_transport_start6(pjsip_endpoint *, void *, void *, unsigned, pjsip_transport **);
long pjsip_udp_transport_get_socket(pjsip_transport *);
int pjsip_tx_data_encode(pjsip_tx_data *);
""")

SEND = "int(pjsip_transport *, pjsip_tx_data *, const void *, int, void *, void *)"
SHUT_DOWN = DESTROY = "int(pjsip_transport *)"
CREATE = (
    "int(pjsip_tpfactory *, void *, pjsip_endpoint *, const void *, int, pjsip_tx_data *, "
    "pjsip_transport **)"
)
rdata_memory = ffi.new("char[32768]")
_held: dict[Any, list[Any]] = {}  # what C refers to, by transport


@dataclass(frozen=True)
class Kind:
    """What a connection is: "tcp" or "tls", its family, our name and port in Via, and the address
    that is listened on."""

    name: str
    ipv6: bool
    shown: str
    port: int
    host: str = ""

    @property
    def type(self) -> int:
        return (TLS if self.name == "tls" else TCP) + (IPV6 if self.ipv6 else 0)

    def source_for(self, remote: str) -> tuple[str, int] | None:
        """Where a connection of ours to the IP address `remote` leaves from: peers know us by the
        address that we listen on. None = as this machine's routes say: where we listen on all
        addresses, and for the loopback, which reaches nobody else."""
        if not self.host or ip_address(self.host).is_unspecified:
            return None
        if ip_address(self.host).is_loopback and not ip_address(remote).is_loopback:
            return None
        return self.host, 0

    @property
    def flag(self) -> int:
        return RELIABLE | (SECURE if self.name == "tls" else 0)


class Callbacks(NamedTuple):
    send: Any
    shut_down: Any
    destroy: Any
    create: Any


class Factory(NamedTuple):
    """A factory as PJSIP knows it, and what must live as long."""

    pointer: Any
    kind: Kind
    held: list[Any]


def _text(value: str) -> wire.Text:
    return wire.Text(value.encode())


def transport(
    endpt: Any, kind: Kind, direction: int, remote: tuple[str, int], name: str, calls: Callbacks
) -> Any:
    """Make and register the transport of one connection; None when PJSIP will not."""
    memory = ffi.new("char[]", ffi.sizeof("pjsip_transport") + _SPARE)
    tp = ffi.cast("pjsip_transport *", memory)
    tp.pool = pool = lib.pjsip_endpt_create_pool(endpt, b"stream", 512, 512)
    made = ffi.new("void **")
    lib.pj_atomic_create(pool, 0, made)
    tp.ref_cnt = made[0]
    lib.pj_lock_create_recursive_mutex(pool, b"stream", made)
    tp.lock = made[0]
    label = ffi.new("char[]", kind.name.upper().encode())
    shown, asked, host = _text(kind.shown), _text(name), _text(remote[0].partition("%")[0])
    tp.obj_name = kind.name.encode()
    tp.key.type, tp.flag = kind.type, kind.flag
    tp.type_name = tp.info = label
    family = socket.AF_INET6 if kind.ipv6 else socket.AF_INET
    status = lib.pj_sockaddr_init(family, tp.key.rem_addr, host.ref, remote[1])
    tp.addr_len = 28 if kind.ipv6 else 16
    tp.local_name.host, tp.local_name.port = shown.ref[0], kind.port
    tp.remote_name.host, tp.remote_name.port = asked.ref[0], remote[1]
    tp.dir, tp.endpt = direction, endpt
    tp.tpmgr = manager = lib.pjsip_endpt_get_tpmgr(endpt)
    tp.send_msg, tp.do_shutdown, tp.destroy = calls.send, calls.shut_down, calls.destroy
    if status != 0 or lib.pjsip_transport_register(manager, tp) != 0:
        _free(endpt, tp)
        return None
    _held[tp] = [memory, label, shown, asked, host]
    return tp


def release(endpt: Any, tp: Any) -> None:
    """Free what a transport holds. PJSIP is done with it when its `destroy` returns."""
    _free(endpt, tp)
    held = _held.pop(tp, None)
    _leaving.append(held)
    del _leaving[:-64]  # the memory itself outlives the call that this runs in


_leaving: list[Any] = []


def _free(endpt: Any, tp: Any) -> None:
    lib.pj_lock_destroy(tp.lock)
    lib.pj_atomic_destroy(tp.ref_cnt)
    lib.pjsip_endpt_release_pool(endpt, tp.pool)


def factory(endpt: Any, kind: Kind, calls: Callbacks) -> Factory:
    """Tell PJSIP who makes connections of this kind."""
    memory = ffi.new("char[]", ffi.sizeof("pjsip_tpfactory") + _SPARE)
    made = ffi.cast("pjsip_tpfactory *", memory)
    label, shown = ffi.new("char[]", kind.name.upper().encode()), _text(kind.shown)
    made.obj_name, made.type, made.flag = kind.name.encode(), kind.type, kind.flag
    made.type_name = made.info = label
    made.addr_name.host, made.addr_name.port = shown.ref[0], kind.port
    made.create_transport2 = calls.create
    done = ffi.callback("int(pjsip_tpfactory *)", lambda _: 0)
    made.destroy = done
    lib.pjsip_tpmgr_register_tpfactory(lib.pjsip_endpt_get_tpmgr(endpt), made)
    return Factory(made, kind, [memory, label, shown, done])


def forget(endpt: Any, made: Factory) -> None:
    lib.pjsip_tpmgr_unregister_tpfactory(lib.pjsip_endpt_get_tpmgr(endpt), made.pointer)


def receive(
    endpt: Any, rdata: Any, tp: Any, remote: tuple[Any, ...], message: bytes, address: Any
) -> None:
    """Hand a whole message to PJSIP, as one of its own sockets does. `remote` is the host and port
    that it came from, `address` the same as a sockaddr of 28 bytes."""
    pool = lib.pjsip_endpt_create_pool(endpt, b"rdata", 4000, 4000)
    info = rdata.pkt_info
    rdata.tp_info.pool, rdata.tp_info.transport = pool, tp
    ffi.memmove(info.packet, message, len(message))
    info.len = len(message)
    ffi.memmove(info.src_addr, address, 28)
    info.src_addr_len = tp.addr_len
    info.src_name = remote[0].partition("%")[0].encode()[:45]
    info.src_port = remote[1]
    lib.pjsip_transport_add_ref(tp)
    try:
        lib.pjsip_tpmgr_receive_packet(tp.tpmgr, rdata)
    finally:
        lib.pjsip_endpt_release_pool(endpt, pool)
        lib.pjsip_transport_dec_ref(tp)


def disconnected(endpt: Any, tp: Any) -> None:
    """Tell transactions that the connection is gone; the transport is freed when none is left."""
    if tp.is_destroying:
        return
    lib.pjsip_transport_add_ref(tp)
    told = ffi.new("pj_transport_state_info *")
    told.status = 120104  # PJ_STATUS_FROM_OS(ECONNRESET)
    state_cb = lib.pjsip_tpmgr_get_state_cb(tp.tpmgr)
    if state_cb != ffi.NULL:
        state_cb(tp, DISCONNECTED, told)
    if not tp.is_shutdown:
        lib.pjsip_transport_shutdown(tp)
    lib.pjsip_transport_dec_ref(tp)


def address_of(address: Any) -> tuple[str, int]:
    """Host and port of a sockaddr."""
    raw = bytes(ffi.buffer(ffi.cast("char *", address), 28))
    port = int.from_bytes(raw[2:4], "big")
    if int.from_bytes(raw[:2], "little") == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), port
    return socket.inet_ntop(socket.AF_INET, raw[4:8]), port


def check(endpt: Any) -> None:
    """Read a transport of PJSIP's own and a printed message back, field by field.

    Raises LayoutError naming the first field that differs.
    """

    def expect(field: str, got: object, wanted: object) -> None:
        if got != wanted:
            told = f"read {got!r}, expected {wanted!r}"
            raise LayoutError(f"PJSIP's layout differs at {field}: {told}")

    made = ffi.new("pjsip_transport **")
    if lib.pjsip_udp_transport_start(endpt, ffi.NULL, ffi.NULL, 1, made) != 0:
        raise LayoutError("PJSIP's layout differs at transport: none could be made")
    tp = made[0]
    expect("transport.key.type", tp.key.type, UDP)
    expect("transport.addr_len", tp.addr_len, 16)
    expect("transport.flag", tp.flag, DATAGRAM)
    expect("transport.dir", tp.dir, 0)
    expect("transport.endpt", tp.endpt, endpt)
    expect("transport.tpmgr", tp.tpmgr, lib.pjsip_endpt_get_tpmgr(endpt))
    expect("transport.idle_timer.user_data", tp.idle_timer.user_data, ffi.cast("void *", tp))
    expect("transport.type_name", ffi.string(tp.type_name), b"UDP")
    port = address_of(tp.local_addr)[1]
    expect("transport.local_name.port", tp.local_name.port, port)
    expect("transport.last_recv_len", tp.last_recv_len, 0)
    expect("transport.initial_timeout", tp.initial_timeout, 0)
    low, high = _code_range()
    for field in ("send_msg", "do_shutdown", "destroy"):
        at = int(ffi.cast("uintptr_t", getattr(tp, field)))
        expect(f"transport.{field} in PJSIP's code", low <= at < high, True)
    lib.pjsip_transport_shutdown(tp)  # it is gone with the next turn of the timers
    uri = wire.Text(b"sip:layout@192.0.2.1")
    tdata = ffi.new("pjsip_tx_data **")
    null, bye = ffi.NULL, lib.pjsip_get_bye_method()
    lib.pjsip_endpt_create_request(
        endpt, bye, uri.ref, uri.ref, uri.ref, null, null, 1, null, tdata
    )
    expect("pjsip_tx_data_encode", lib.pjsip_tx_data_encode(tdata[0]), 0)
    buf = tdata[0].buf
    expect("tx_data.buf", bytes(ffi.buffer(buf.start, 4)), b"BYE ")
    expect("tx_data.buf.cur", 100 < buf.cur - buf.start < 4000, True)
    expect("tx_data.dest_info.name.slen", tdata[0].dest_info.name.slen, 0)
    lib.pjsip_tx_data_dec_ref(tdata[0])


def _code_range() -> tuple[int, int]:
    """Where PJSIP's code lies in memory."""
    low, high = 1 << 63, 0
    with open("/proc/self/maps", encoding="ascii") as maps:
        for line in maps:
            if "_pjsua2" in line:
                start, end = line.split()[0].split("-")
                low, high = min(low, int(start, 16)), max(high, int(end, 16))
    return low, high
