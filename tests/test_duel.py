"""The duel: its configurations are accepted, its options and ratios are right."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks.duel.cases import CASES
from benchmarks.duel.contenders import PEERS, DuelRig, Kamailio
from benchmarks.duel.ratios import FIGURES, ratios, table
from benchmarks.figures import Result
from benchmarks.processes import waited_for_strangers_s
from benchmarks.subject import Subject

KAMAILIOS = [name for name, peer in PEERS.items() if isinstance(peer, Kamailio)]


@pytest.mark.parametrize("contender", KAMAILIOS)
def test_kamailio_accepts_its_configuration(contender: str) -> None:
    peer = PEERS[contender]
    rig = DuelRig(Subject(), peer, CASES["bridged"], cores=(0, 0))
    try:
        done = subprocess.run([*peer.argv(rig), "-c"], capture_output=True, text=True, timeout=60)
    finally:
        rig.close()
    assert done.returncode == 0, done.stderr


def test_an_unknown_peer_and_case_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.duel.command import main

    for argv, named in (["--peers", "x"], "--peers"), (["--case", "x"], "--case"), (
        ["--rounds", "0"], "--rounds"
    ):  # fmt: skip
        with pytest.raises(SystemExit) as error:
            main(argv)
        assert error.value.code == 2
        assert named in capsys.readouterr().err.splitlines()[-1]


def test_processes_of_one_contender_do_not_disturb_each_other() -> None:
    assert waited_for_strangers_s([(3.0, 1.0)]) == 1.0
    assert waited_for_strangers_s([(3.0, 2.0), (2.0, 3.0)]) == 0.0
    assert waited_for_strangers_s([(3.0, 2.5), (2.0, 4.0), (0.0, 0.0)]) == 1.0
    assert waited_for_strangers_s([(1.0, 0.2), (1.0, 0.2)]) == 0.0
    assert waited_for_strangers_s([]) == 0.0


def test_ratios_are_taken_within_a_round() -> None:
    def result(cpu_us: float | None) -> Result:
        return Result("x", "", cpu_us=cpu_us, more={"decision_p999_ms": cpu_us})

    pairs = [(result(ours), result(theirs)) for ours, theirs in ((2, 1), (9, 3), (5, None), (4, 4))]
    cpu, tail = ratios("bridged", "kamailio", pairs, FIGURES)
    assert cpu.spread == (1.0, 2.0, 3.0)
    assert (cpu.ours, cpu.theirs) == (4, 3)
    assert tail.figure == "decision p99.9, ms"
    assert "| bridged | CPU per call, us | kamailio | 4 | 3 | 1.00 | **2.00** | 3.00 |" in table(
        [cpu]
    )
