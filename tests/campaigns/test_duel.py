"""The duel is fair only if each contender does the work: a few calls of every case are checked."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.duel.cases import CASES, Case
from benchmarks.duel.contenders import PEERS, RENVOI, DuelRig, sippy_python
from benchmarks.duel.match import Slot
from benchmarks.load import run
from benchmarks.processes import BenchmarkError
from benchmarks.subject import Subject
from benchmarks.wire import Seen, Wire

CALLS = 4


def ports(rig: DuelRig, case: Case) -> list[int]:
    """The ports to which the INVITEs of a call of this case go."""
    phone, elsewhere = rig.phone_port, rig.voicemail_port
    return {
        "bridged": [phone],
        "unconditional": [elsewhere],
        "busy": [phone, elsewhere],
        "no-answer": [phone, elsewhere],
        "stranger": [],
    }[case.name]


def calls_go_right(contender: str, case: Case) -> None:
    """A few calls of a case through a contender: SIPp succeeds, and each INVITE goes to the right
    port."""
    core = min(os.sched_getaffinity(0))
    slot = Slot(contender, case, 20, 1)
    peer = None if contender == RENVOI else PEERS[contender]
    contest = DuelRig(Subject(), peer, case, cores=(core, core), start_s=60.0)
    contest.limits["wait_s"] = 5  # a busy machine would refuse calls
    with contest as rig:
        with Wire(rig.sip_port) as wire:
            outcome = run(rig, slot.plan(20, CALLS), f"{case.name} {contender}")
        assert outcome.lost == 0, outcome.errors
        assert outcome.last.started == CALLS
        assert rig.engine is not None
        assert "Traceback" not in rig.engine.log.read_text(), rig.engine.last_lines(20)
        seen = list(wire.calls.values())
        assert len(seen) == CALLS
        for call in seen:
            assert first_of_each(call) == ports(rig, case)
        if case.legs:
            assert len(wire.decisions_ms()) == CALLS
        if case.name == "busy":
            assert len(wire.forwards_ms()) == CALLS


def first_of_each(call: Seen) -> list[int]:
    """Destinations in order, without repetitions on a busy machine."""
    return list(dict.fromkeys(call.ports))


@pytest.mark.skipif(os.geteuid() != 0, reason="capturing packets needs root")
@pytest.mark.parametrize("contender", [RENVOI, "kamailio", "kamailio-htable", "sippy"])
def test_every_case_goes_right(contender: str) -> None:
    if contender == "sippy":
        try:
            sippy_python()
        except BenchmarkError as error:
            pytest.skip(f"Sippy cannot be installed here: {error}")
    with ThreadPoolExecutor(len(CASES)) as pool:
        for done in [pool.submit(calls_go_right, contender, case) for case in CASES.values()]:
            done.result()
