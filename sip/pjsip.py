"""The part of PJSIP's C API that is in use, declared once and checked at start.

The `pjsua2-python` wheel exports PJSIP's C functions beside the Python classes; cffi opens them
from the same shared object. The struct layouts below hold for that exact wheel only (PJSIP
2.15.1, Linux x86_64), so `check_layout` reads a parsed request and response back field by field
before any call is taken: a library that does not match is refused by the name of the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import _cffi_backend
import cffi
import pjsua2
from pjsua2 import _pjsua2

from sip.settings import LayoutError

VERSION = "2.15.1"

UAC = 0  # the other role is that of a server
INVITE, CANCEL, ACK, BYE, REGISTER, OPTIONS, OTHER = range(7)
EVENT_TIMER, EVENT_TX, EVENT_RX = 1, 2, 3
TSX_TRYING, TSX_COMPLETED, TSX_TERMINATED = 2, 4, 6
H_ACCEPT, H_ALLOW, H_MAX_FORWARDS, H_SUPPORTED, H_TO = 0, 4, 21, 36, 38

# Positions in `pjsip_sip_cfg_var` (a struct of ints): flags first, then the transaction settings.
CFG_PORT_IN_FROM_TO, CFG_DISABLE_TCP_SWITCH, CFG_MAX_TRANSACTIONS, CFG_T1 = 0, 4, 13, 14
CFG_TIMERS = [500, 4000, 5000, 32000]  # t1, t2, t4, td in milliseconds
# The hash table's size. At the default of 1,023 a fifth of all CPU went into walking its chains.
TRANSACTION_TABLE = 131_071

CDEF = """
typedef struct { char *ptr; long slen; } pj_str_t;
typedef struct pjsip_endpoint pjsip_endpoint;
typedef struct pj_pool_t pj_pool_t;
typedef struct pjsip_user_agent pjsip_user_agent;
typedef struct pjsip_dialog pjsip_dialog;
typedef struct pjsip_uri pjsip_uri;
typedef struct { int id; pj_str_t name; } pjsip_method;

typedef struct pjsip_hdr {
  struct pjsip_hdr *prev, *next; int type; pj_str_t name, sname; void *vptr;
} pjsip_hdr;
typedef struct {
  struct pjsip_hdr *prev, *next; int type; pj_str_t name, sname; void *vptr; int ivalue;
} pjsip_int_hdr;
typedef struct {
  struct pjsip_hdr *prev, *next; int type; pj_str_t name, sname; void *vptr; pj_str_t hvalue;
} pjsip_string_hdr;
typedef struct pjsip_param {
  struct pjsip_param *prev, *next; pj_str_t name, value;
} pjsip_param;
typedef struct {
  struct pjsip_hdr *prev, *next; int type; pj_str_t name, sname; void *vptr;
  pjsip_uri *uri; pj_str_t tag; pjsip_param other_param;
} pjsip_fromto_hdr;
typedef struct {
  struct pjsip_hdr *prev, *next; int type; pj_str_t name, sname; void *vptr;
  int cseq; pjsip_method method;
} pjsip_cseq_hdr;
typedef struct { pj_str_t type, subtype; pjsip_param param; } pjsip_media_type;
typedef struct {
  pjsip_media_type content_type; void *data; unsigned len; void *print_body, *clone_data;
} pjsip_msg_body;
typedef struct {
  int type;
  union {
    struct { pjsip_method method; pjsip_uri *uri; } req;
    struct { int code; pj_str_t reason; } status;
  } line;
  pjsip_hdr hdr;
  pjsip_msg_body *body;
} pjsip_msg;

typedef struct pjsip_rx_data {
  struct { pj_pool_t *pool; void *transport; void *tp_data; void *op_key[35]; } tp_info;
  struct {
    long timestamp[2]; char packet[4000]; uint32_t zero; long len;
    char src_addr[28]; int src_addr_len; char src_name[46]; int src_port;
  } pkt_info;
  struct {
    char *msg_buf; int len; pjsip_msg *msg; char *info; pjsip_string_hdr *cid;
    pjsip_fromto_hdr *from, *to; void *via; pjsip_cseq_hdr *cseq; pjsip_int_hdr *max_fwd;
  } msg_info;
} pjsip_rx_data;
typedef struct pjsip_tx_data {
  void *prev, *next; pj_pool_t *pool; char obj_name[32]; char *info; long rx_timestamp[2];
  void *mgr; struct { void *key[34]; void *tdata, *token, *callback; } op_key; void *lock;
  pjsip_msg *msg; void *saved_strict_route; struct { char *start, *cur, *end; } buf;
  void *ref_cnt; int is_pending; void *token, *cb; struct { pj_str_t name; } dest_info;
} pjsip_tx_data;
typedef struct {
  pj_pool_t *pool; void *tsx_user, *endpt; int terminating; void *grp_lock, *mutex_b;
  char obj_name[32]; int role; pjsip_method method; int cseq; pj_str_t key, key2;
  uint32_t hashed_key, hashed_key2; pj_str_t branch; int status_code; pj_str_t status_text;
  int state;
} pjsip_transaction;
typedef struct {
  /* of the event's union only the part for transaction states, its members named as our own */
  void *prev, *next; int type; pjsip_rx_data *source; pjsip_transaction *tsx;
  int prev_state; int cause;
} pjsip_event;
typedef struct pjsip_module {
  void *prev, *next; pj_str_t name; int id, priority; void *load, *start, *stop, *unload;
  int (*on_rx_request)(pjsip_rx_data *); int (*on_rx_response)(pjsip_rx_data *);
  void *on_tx_request, *on_tx_response;
  void (*on_tsx_state)(pjsip_transaction *, pjsip_event *);
} pjsip_module;
typedef struct { void *tp, *data; size_t len; int status; } pjsip_tp_dropped_data;

extern int pjsip_sip_cfg_var[32];
extern int pjsip_include_allow_hdr_in_dlg;
const char *pj_get_version(void);
int pj_log_set_level(int);
void pj_list_insert_before(void *, void *);
pjsip_endpoint *pjsua_get_pjsip_endpt(void);
pjsip_user_agent *pjsip_ua_instance(void);
unsigned pjsip_ua_get_dlg_set_count(void);
unsigned pjsip_tsx_layer_get_tsx_count(void);
int pjsip_endpt_register_module(pjsip_endpoint *, pjsip_module *);
int pjsip_endpt_unregister_module(pjsip_endpoint *, pjsip_module *);
void *pjsip_endpt_get_timer_heap(pjsip_endpoint *);
unsigned pj_timer_heap_poll(void *, void *);
int pjsip_endpt_handle_events2(pjsip_endpoint *, const long *, unsigned *);
pj_pool_t *pjsip_endpt_create_pool(pjsip_endpoint *, const char *, size_t, size_t);
void pjsip_endpt_release_pool(pjsip_endpoint *, pj_pool_t *);
void *pjsip_endpt_get_tpmgr(pjsip_endpoint *);
int pjsip_tpmgr_set_drop_data_cb(void *, void (*)(pjsip_tp_dropped_data *));
const pjsip_hdr *pjsip_endpt_get_capability(pjsip_endpoint *, int, const pj_str_t *);
int pjsip_endpt_create_request(pjsip_endpoint *, const pjsip_method *, const pj_str_t *,
    const pj_str_t *, const pj_str_t *, const pj_str_t *, const pj_str_t *, int,
    const pj_str_t *, pjsip_tx_data **);
int pjsip_endpt_create_cancel(pjsip_endpoint *, const pjsip_tx_data *, pjsip_tx_data **);
int pjsip_endpt_respond_stateless(pjsip_endpoint *, pjsip_rx_data *, int, const pj_str_t *,
    const pjsip_hdr *, const pjsip_msg_body *);
int pjsip_dlg_create_uas_and_inc_lock(pjsip_user_agent *, pjsip_rx_data *, const pj_str_t *,
    pjsip_dialog **);
int pjsip_dlg_create_uac(pjsip_user_agent *, const pj_str_t *, const pj_str_t *,
    const pj_str_t *, const pj_str_t *, pjsip_dialog **);
int pjsip_dlg_set_route_set(pjsip_dialog *, const pjsip_hdr *);
int pjsip_dlg_add_usage(pjsip_dialog *, pjsip_module *, void *);
int pjsip_endpt_create_response(pjsip_endpoint *, const pjsip_rx_data *, int, const pj_str_t *,
    pjsip_tx_data **);
const pj_str_t *pjsip_get_status_text(int);
int pjsip_tsx_create_uas2(pjsip_module *, pjsip_rx_data *, void *, pjsip_transaction **);
int pjsip_tsx_create_uac(pjsip_module *, pjsip_tx_data *, pjsip_transaction **);
void pjsip_tsx_recv_msg(pjsip_transaction *, pjsip_rx_data *);
int pjsip_tsx_send_msg(pjsip_transaction *, pjsip_tx_data *);
void pjsip_dlg_inc_lock(pjsip_dialog *);
void pjsip_dlg_dec_lock(pjsip_dialog *);
int pjsip_dlg_inc_session(pjsip_dialog *, pjsip_module *);
int pjsip_dlg_dec_session(pjsip_dialog *, pjsip_module *);
int pjsip_dlg_create_request(pjsip_dialog *, const pjsip_method *, int, pjsip_tx_data **);
int pjsip_dlg_send_request(pjsip_dialog *, pjsip_tx_data *, int, void *);
int pjsip_dlg_create_response(pjsip_dialog *, pjsip_rx_data *, int, const pj_str_t *,
    pjsip_tx_data **);
int pjsip_dlg_modify_response(pjsip_dialog *, pjsip_tx_data *, int, const pj_str_t *);
int pjsip_dlg_send_response(pjsip_dialog *, pjsip_transaction *, pjsip_tx_data *);
pjsip_transaction *pjsip_rdata_get_tsx(pjsip_rx_data *);
pjsip_transaction *pjsip_tsx_detect_merged_requests(pjsip_rx_data *);
int pjsip_tsx_create_key(pj_pool_t *, pj_str_t *, int, const pjsip_method *, const pjsip_rx_data *);
pjsip_transaction *pjsip_tsx_layer_find_tsx(const pj_str_t *, int);
pjsip_dialog *pjsip_ua_find_dialog(const pj_str_t *, const pj_str_t *, const pj_str_t *, int);
pjsip_dialog *pjsip_rdata_get_dlg(pjsip_rx_data *);
pjsip_dialog *pjsip_tsx_get_dlg(pjsip_transaction *);
int pjsip_tsx_terminate(pjsip_transaction *, int);
pjsip_msg_body *pjsip_msg_body_create(pj_pool_t *, const pj_str_t *, const pj_str_t *,
    const pj_str_t *);
void *pjsip_msg_find_hdr(const pjsip_msg *, int, const void *);
void *pjsip_msg_find_remove_hdr(pjsip_msg *, int, void *);
pjsip_uri *pjsip_parse_uri(pj_pool_t *, char *, size_t, unsigned);
void *pj_pool_calloc(pj_pool_t *, size_t, size_t);
pj_str_t *pj_strdup(pj_pool_t *, pj_str_t *, const pj_str_t *);
pjsip_hdr *pjsip_parse_hdr(pj_pool_t *, const pj_str_t *, char *, size_t, int *);
pjsip_msg *pjsip_parse_rdata(char *, size_t, pjsip_rx_data *);
long pjsip_msg_print(const pjsip_msg *, char *, size_t);
pjsip_string_hdr *pjsip_generic_string_hdr_create(pj_pool_t *, const pj_str_t *,
    const pj_str_t *);
void pjsip_tx_data_add_ref(pjsip_tx_data *);
int pjsip_tx_data_dec_ref(pjsip_tx_data *);
const pjsip_method *pjsip_get_invite_method(void);
const pjsip_method *pjsip_get_ack_method(void);
const pjsip_method *pjsip_get_bye_method(void);
"""


def load(cdef: str = CDEF) -> tuple[cffi.FFI, Any]:
    """Open PJSIP's C functions inside the wheel's extension module."""
    ffi = cffi.FFI()
    ffi.cdef(cdef)
    return ffi, ffi.dlopen(_pjsua2.__file__)


def functions(library: Any) -> Any:
    """The functions of a library, each resolved when it is first used.

    A module, because Python finds what is in one in a few instructions. An attribute of cffi's own
    library object costs 650, and a call needs fifty.
    """
    made = ModuleType("pjsip functions")

    def resolve(name: str) -> Any:
        found = getattr(library, name)
        setattr(made, name, found)
        return found

    made.__getattr__ = resolve  # type: ignore[method-assign]  # PEP 562
    return made


# Untyped on purpose. `variables` is the library itself: its variables are read and set there.
ffi, variables = load()
lib = functions(variables)
# What every message needs, without cffi's own Python in between, which costs as much again.
from_buffer = partial(_cffi_backend.from_buffer, ffi.BCharA)
string_at = _cffi_backend.string  # up to its zero byte
bytes_at = _cffi_backend.unpack  # so many bytes

_REQUEST = (
    b"INVITE sip:+33972101001@192.0.2.1:5080;user=phone SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.7:5070;branch=z9hG4bK-layout\r\n"
    b"From: <sip:+33612345678@192.0.2.7>;tag=caller-tag\r\n"
    b"To: <sip:+33972101001@192.0.2.1>;tag=callee-tag\r\n"
    b"Call-ID: layout-check@192.0.2.7\r\nCSeq: 4711 INVITE\r\nMax-Forwards: 42\r\n"
    b"Subject: layout\r\nContent-Type: application/x-layout\r\nContent-Length: 6\r\n\r\nlayout"
)
_RESPONSE = (
    b"SIP/2.0 486 Busy Here\r\nVia: SIP/2.0/UDP 192.0.2.7:5070;branch=z9hG4bK-layout\r\n"
    b"From: <sip:a@192.0.2.7>;tag=a\r\nTo: <sip:b@192.0.2.1>;tag=b\r\n"
    b"Call-ID: layout-check@192.0.2.7\r\nCSeq: 4711 INVITE\r\nContent-Length: 0\r\n\r\n"
)


def _expect(field: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise LayoutError(
            f"PJSIP's layout differs at {field}: read {got!r}, expected {wanted!r} "
            f"(needs pjsua2-python 2.15.1.post1 on Linux x86_64)"
        )


def check_version_and_settings(c_ffi: cffi.FFI = ffi, c_lib: Any = variables) -> None:
    """Compare the library version and the transaction settings. Call before `libInit`."""
    _expect("pj_get_version", c_ffi.string(c_lib.pj_get_version()).decode(), VERSION)
    timers = [c_lib.pjsip_sip_cfg_var[CFG_T1 + i] for i in range(4)]
    _expect("pjsip_sip_cfg_var.tsx timers", timers, CFG_TIMERS)


def check_layout(endpt: Any, c_ffi: cffi.FFI = ffi, c_lib: Any = lib) -> None:
    """Let PJSIP parse and build messages and read every declared field back.

    Raises LayoutError naming the first field that differs. Scalars are compared before any
    pointer beside them is followed, so that a wrong declaration is reported and not crashed on.
    """
    pool = c_lib.pjsip_endpt_create_pool(endpt, b"layout", 8000, 4000)
    try:
        _check_received(pool, c_ffi, c_lib)
        _check_created(endpt, c_ffi, c_lib)
    finally:
        c_lib.pjsip_endpt_release_pool(endpt, pool)


def _text(c_ffi: cffi.FFI, field: str, value: Any, wanted: bytes) -> None:
    _expect(field + ".slen", value.slen, len(wanted))
    _expect(field, bytes(c_ffi.buffer(value.ptr, value.slen)), wanted)


def _check_received(pool: Any, c_ffi: cffi.FFI, c_lib: Any) -> None:
    # Room to spare: the library writes by its own idea of the struct's size.
    memory = c_ffi.new("char[32768]")
    rdata = c_ffi.cast("pjsip_rx_data *", memory)
    rdata.tp_info.pool = pool

    def parse(text: bytes) -> Any:
        packet = c_ffi.new("char[]", text)
        keep.append(packet)
        parsed = c_lib.pjsip_parse_rdata(packet, len(text), rdata)
        if parsed == c_ffi.NULL:
            raise LayoutError("PJSIP's layout differs at rx_data.tp_info.pool: nothing was parsed")
        _expect("rx_data.msg_info.msg", rdata.msg_info.msg, parsed)
        return parsed

    keep: list[Any] = []
    msg = parse(_REQUEST)
    for field in ("cid", "from", "to", "via", "cseq", "max_fwd"):
        if getattr(rdata.msg_info, field) == c_ffi.NULL:
            raise LayoutError(f"PJSIP's layout differs at rx_data.msg_info.{field}: it is not set")
    _expect("msg.type", msg.type, 0)
    _expect("msg.line.req.method.id", msg.line.req.method.id, INVITE)
    _text(c_ffi, "msg.line.req.method.name", msg.line.req.method.name, b"INVITE")
    _expect("cseq.cseq", rdata.msg_info.cseq.cseq, 4711)
    _text(c_ffi, "cseq.method.name", rdata.msg_info.cseq.method.name, b"INVITE")
    _text(c_ffi, "from.tag", getattr(rdata.msg_info, "from").tag, b"caller-tag")
    _text(c_ffi, "to.tag", rdata.msg_info.to.tag, b"callee-tag")
    _text(c_ffi, "call_id.id", rdata.msg_info.cid.hvalue, b"layout-check@192.0.2.7")
    _expect("max_fwd.ivalue", rdata.msg_info.max_fwd.ivalue, 42)
    _expect("msg.body.len", msg.body.len, 6)
    _expect("msg.body.data", bytes(c_ffi.buffer(msg.body.data, 6)), b"layout")
    _text(c_ffi, "msg.body.content_type.subtype", msg.body.content_type.subtype, b"x-layout")
    found = c_ffi.cast("pjsip_int_hdr *", c_lib.pjsip_msg_find_hdr(msg, H_MAX_FORWARDS, c_ffi.NULL))
    _expect("msg.hdr", found.ivalue, 42)
    _expect("H_TO", c_lib.pjsip_msg_find_hdr(msg, H_TO, c_ffi.NULL), rdata.msg_info.to)
    msg = parse(_RESPONSE)
    _expect("msg.type", msg.type, 1)
    _expect("msg.line.status.code", msg.line.status.code, 486)
    _text(c_ffi, "msg.line.status.reason", msg.line.status.reason, b"Busy Here")


def _check_created(endpt: Any, c_ffi: cffi.FFI, c_lib: Any) -> None:
    created = c_ffi.new("pjsip_tx_data **")
    text = c_ffi.new("char[]", b"sip:layout@192.0.2.1")
    uri = c_ffi.new("pj_str_t *", {"ptr": text, "slen": 20})
    null = c_ffi.NULL
    status = c_lib.pjsip_endpt_create_request(
        endpt, c_lib.pjsip_get_bye_method(), uri, uri, uri, null, null, 17, null, created
    )
    _expect("pjsip_endpt_create_request", status, 0)
    _expect("tx_data.msg.type", created[0].msg.type, 0)
    _expect("tx_data.msg.line.req.method.id", created[0].msg.line.req.method.id, BYE)
    c_lib.pjsip_tx_data_dec_ref(created[0])


@contextmanager
def stack(c_ffi: cffi.FFI = ffi, c_lib: Any = variables) -> Iterator[pjsua2.Endpoint]:
    """A started, checked and silent PJSIP without media, threads or transports."""
    c_lib.pj_log_set_level(0)  # before libCreate, which prints to stdout
    endpoint = pjsua2.Endpoint()
    endpoint.libCreate()
    try:
        check_version_and_settings(c_ffi, c_lib)
        c_lib.pjsip_sip_cfg_var[CFG_MAX_TRANSACTIONS] = TRANSACTION_TABLE
        # From and To of an answer are those of the request (RFC 3261 8.2.6.2), ports and all.
        c_lib.pjsip_sip_cfg_var[CFG_PORT_IN_FROM_TO] = 1
        c_lib.pjsip_sip_cfg_var[CFG_DISABLE_TCP_SWITCH] = 1
        c_lib.pjsip_include_allow_hdr_in_dlg = 0
        config = pjsua2.EpConfig()
        config.logConfig.level = 0
        config.logConfig.consoleLevel = 0
        config.medConfig.threadCnt = 0
        config.medConfig.hasIoqueue = False
        config.uaConfig.threadCnt = 0
        config.uaConfig.mainThreadOnly = True
        config.uaConfig.userAgent = ""
        endpoint.libInit(config)
        check_layout(c_lib.pjsua_get_pjsip_endpt(), c_ffi, c_lib)
        yield endpoint
    finally:
        endpoint.libDestroy(pjsua2.PJSUA_DESTROY_NO_NETWORK)


def check() -> str:
    """Start PJSIP, check its layout, stop it; the library's version. Raises LayoutError."""
    with stack():
        return VERSION
