"""The layout check: a library that does not match its declarations is refused by the field's name.

Each case runs in a process of its own: PJSIP is one for the whole process, and a wrong declaration
reads memory that it should not.
"""

import subprocess
import sys

import pytest

CHECK = """
import sys
from sip import pjsip
old, new = sys.argv[1], sys.argv[2]
assert old in pjsip.CDEF
ffi, lib = pjsip.load(pjsip.CDEF.replace(old, new, 1))
try:
    with pjsip.stack(ffi, lib):
        print("accepted")
except pjsip.LayoutError as error:
    print(error)
"""

WRONG = [
    # (declaration, wrong declaration, the field that the refusal names)
    ("int len; pjsip_msg *msg; char *info;",
     "int len; char *info; pjsip_msg *msg;", "msg_info.msg"),
    ("struct { int code; pj_str_t reason; } status;",
     "struct { int pad, code; pj_str_t reason; } status;", "line.status.code"),
    ("  int cseq; pjsip_method method;\n} pjsip_cseq_hdr;",
     "  int pad, cseq; pjsip_method method;\n} pjsip_cseq_hdr;", "cseq.cseq"),
    ("pjsip_media_type content_type; void *data; unsigned len;",
     "pjsip_media_type content_type; void *data; unsigned pad, len;", "msg.body.len"),
    ("pjsip_int_hdr *max_fwd;", "void *pad; pjsip_int_hdr *max_fwd;", "max_fwd"),
]  # fmt: skip


def run(old: str, new: str) -> str:
    command = [sys.executable, "-c", CHECK, old, new]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_the_pinned_library_is_accepted() -> None:
    assert run("pj_get_version", "pj_get_version").strip() == "accepted"


@pytest.mark.parametrize(("old", "new", "field"), WRONG)
def test_a_wrong_declaration_is_refused_by_its_field(old: str, new: str, field: str) -> None:
    told = run(old, new)
    assert "layout differs at" in told
    assert field in told
