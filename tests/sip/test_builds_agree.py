"""Both builds give the same results for the same bytes: C integers wrap, are truncated and begin as
0, Python's do not. Hypothesis generates the inputs; each build reads them in its own process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sip import compiled, grammar, message
from sip.message import Message
from tests.campaigns import mutation, wounds
from tests.campaigns.packet import request
from tests.sip.rfc4475 import MESSAGES

ROOT = Path(__file__).resolve().parents[2]
is_compiled = message.__file__.endswith(".so")
EDGES = (0, 1, 70, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 10**20)


def results(raw: bytes) -> list[Any]:
    """All results of a build for some bytes, as JSON."""
    one = Message(raw)
    seen: list[Any] = [
        one.bad, one.fault, one.method, one.target, one.status, one.branch, one.raw_call_id,
        one.sender, one.to, one.from_tag, one.to_tag, one.cseq, one.cseq_method, one.max_forwards,
        one.rport, one.port, one.host, one.vias, one.declared_length, one.truncated, one.body,
        one.content_type, one.head_size,
    ]  # fmt: skip
    if one.bad >= 0:
        seen += [one.fields, one.contact, one.record_routes, one.timestamp, one.head, one.phrase]
        seen += [one.response_head(b"192.0.2.1", 70_000), one.key(b"INVITE")]
        seen += [one.passing(frozenset((b"via", b"x"))), one.values(b"via"), one.names]
    seen += [grammar.name_addr(raw), grammar.via(raw), grammar.split(raw)]
    seen += [grammar.param(raw, 0, b"tag"), grammar.unsigned(raw, 0, len(raw))]
    seen += [grammar.same_uri(raw, raw[1:]), grammar.is_sip_uri(raw), grammar.is_closed(raw)]
    return [repr(part) for part in seen]


NUMBERS = st.one_of(
    st.sampled_from(EDGES),
    st.integers(-(2**65), 2**65),
    st.sampled_from(EDGES).flatmap(lambda edge: st.integers(edge - 2, edge + 2)),
)
TEXTS = st.one_of(
    NUMBERS.map(str),
    NUMBERS.map(lambda n: f"{n:020d}"),
    st.text(st.characters(max_codepoint=255), max_size=12),
)


def _numbered(texts: list[str]) -> bytes:
    """A request with these numbers."""
    cseq, forwards, length, port, expires, stamp = texts
    return "\r\n".join((
        "INVITE sip:b@example.com SIP/2.0",
        f"Via: SIP/2.0/UDP 192.0.2.1:{port};branch=z9hG4bKx;rport={port}",
        "From: <sip:a@example.com>;tag=1", "To: <sip:b@example.com>", "Call-ID: x",
        f"CSeq: {cseq} INVITE", f"Max-Forwards: {forwards}", f"Content-Length: {length}",
        f"Contact: <sip:a@192.0.2.1:{port}>;expires={expires}", f"Timestamp: {stamp}", "", "body",
    )).encode("latin-1", "replace")  # fmt: skip


def _damaged(seed: int) -> bytes:
    """A message, damaged as in the campaigns."""
    chance = random.Random(seed)
    made = request(("192.0.2.1", 9), ("192.0.2.2", 5060), b"+33972100200")
    change = chance.choice((wounds.wound, mutation.mutate))
    return change(chance, made)[:4000]


INPUTS = st.one_of(
    st.lists(TEXTS, min_size=6, max_size=6).map(_numbered),
    st.lists(NUMBERS.map(str), min_size=6, max_size=6).map(_numbered),
    st.integers(0, 2**32).map(_damaged),
    st.sampled_from(sorted(MESSAGES.values())),
    st.binary(max_size=60),
)


@pytest.mark.skipif(not is_compiled, reason="the core is not compiled")
def test_both_builds_give_the_same_results() -> None:
    seen: dict[bytes, list[Any]] = {}

    @settings(
        max_examples=1500,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(INPUTS)
    def read(raw: bytes) -> None:
        seen[raw] = results(raw)

    read()
    assert len(seen) > 500
    asked = "\n".join(raw.hex() for raw in seen)
    ran = subprocess.run(
        [sys.executable, "-m", "tests.sip.test_builds_agree"],
        cwd=ROOT, input=asked, capture_output=True, text=True, timeout=300,
        env={**os.environ, compiled.SWITCH: "python"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    for (raw, ours), line in zip(seen.items(), ran.stdout.splitlines(), strict=True):
        assert ours == json.loads(line), raw


if __name__ == "__main__":
    assert not is_compiled
    for asked_of in sys.stdin.read().split("\n"):
        print(json.dumps(results(bytes.fromhex(asked_of))))
