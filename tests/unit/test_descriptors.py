"""How many connections fit a limit on open files."""

import resource

import pytest

from engine import descriptors
from engine.descriptors import fit, needed


@pytest.mark.parametrize(
    ("limit", "used", "connections", "fits"),
    [
        (65_536, 60, 10_000, (10_000, 100)),
        (1024, 60, 10_000, (753, 83)),
        (64, 30, 10_000, (17, 1)),
        (64, 60, 10_000, (1, 1)),  # not enough: still one of each
        (needed(500, 60), 60, 500, (500, 60)),
    ],
)
def test_connections_leave_descriptors_to_the_rest(
    limit: int, used: int, connections: int, fits: tuple[int, int]
) -> None:
    assert fit(limit, used, connections) == fits


@pytest.mark.parametrize(
    ("limit", "hard", "used", "wanted", "fits"),
    [
        (1024, 524_288, 900, 800, 800),  # raised
        (1024, 1024, 200, 100, 100),
        (1024, 1024, 900, 800, 92),
        (64, 64, 60, 10, 0),
    ],
)
def test_copies_for_the_next_process_leave_descriptors_too(
    monkeypatch: pytest.MonkeyPatch, limit: int, hard: int, used: int, wanted: int, fits: int
) -> None:
    limits = [limit, hard]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(0, new[0]))
    monkeypatch.setattr(descriptors, "in_use", lambda: used)
    assert descriptors.for_copies(wanted) == fits
