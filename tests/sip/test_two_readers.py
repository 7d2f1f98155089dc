"""What is let through is read by PJSIP as it is read here: the same header fields, as often.

In a process of its own: PJSIP is one for the whole process.
"""

import subprocess
import sys
from pathlib import Path

COMPARE = """
from random import Random
from sip import pjsip
from sip.guard import _differs
from sip.message import Message
from sip.structure import fault_of, is_plain
from tests.campaigns import packet
from tests.campaigns.wounds import wound

pjsip.ffi.cdef("pjsip_msg *pjsip_parse_msg(pj_pool_t *, char *, size_t, void *);")
ffi, lib, chance = pjsip.ffi, pjsip.lib, Random(20261129)
own, peer, read = ("127.0.0.1", 9), ("127.0.0.1", 5060), 0
with pjsip.stack():
    endpt = lib.pjsua_get_pjsip_endpt()
    for _ in range(12_000):
        made = packet.request(own, peer, b"x", b"INVITE", chance.choice((b"", packet.SDP)))
        if chance.random() < 0.3:
            made.start = b"SIP/2.0 200 OK"
        raw = wound(chance, made)[:3990].lstrip(b"\\r\\n")
        plain = is_plain(raw)
        if not raw or not plain and fault_of(raw) is not None:
            continue
        pool = lib.pjsip_endpt_create_pool(endpt, b"two", 8000, 4000)
        errors = ffi.new("void *[16]")  # the head of a list
        errors[0] = errors[1] = errors
        text = ffi.new("char[]", raw)
        parsed = lib.pjsip_parse_msg(pool, text, len(raw), errors)
        if parsed != ffi.NULL and errors[1] == ffi.cast("void *", errors):
            read += 1
            fault = _differs(parsed, Message(raw, plain=plain))
            # Those that are not plain are compared in the engine, too. A comma in a display name
            # without quotes is no SIP: PJSIP takes it for a part of the name.
            assert fault is None or not plain or b"Contact" in fault.phrase, (fault, raw)
        lib.pjsip_endpt_release_pool(endpt, pool)
print(read)
"""


def test_both_readers_find_the_same_header_fields() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", COMPARE],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert int(ended.stdout.split()[-1]) > 1000
