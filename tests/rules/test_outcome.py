"""The outcome table of forwarding-rules.md 1, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rules.model import Condition
from rules.ringing_outcome import TABLE, Failure, stops_all, target_failure, verdict

BUSY, NO_ANSWER, UNREACHABLE = Condition.BUSY, Condition.NO_ANSWER, Condition.UNREACHABLE


ROWS: list[tuple[int, Condition | int, Condition | int]] = [
    # code, result before any 18x, result after one
    (486, BUSY, BUSY),
    (600, BUSY, BUSY),
    (603, BUSY, BUSY),
    (607, BUSY, BUSY),
    (608, BUSY, BUSY),
    (408, UNREACHABLE, NO_ANSWER),
    (480, UNREACHABLE, NO_ANSWER),
    (404, UNREACHABLE, NO_ANSWER),
    (410, UNREACHABLE, NO_ANSWER),
    (604, UNREACHABLE, NO_ANSWER),
    (500, UNREACHABLE, 500),
    (502, UNREACHABLE, 502),
    (503, UNREACHABLE, 500),  # RFC 3261 16.7: not relayed as 503
    (504, UNREACHABLE, 504),
    (580, UNREACHABLE, 580),
    (401, 480, 480),
    (407, 480, 480),
    (300, UNREACHABLE, NO_ANSWER),  # the phone's own forward: not followed
    (301, UNREACHABLE, NO_ANSWER),  # the phone's own forward: not followed
    (302, UNREACHABLE, NO_ANSWER),  # the phone's own forward: not followed
    (305, UNREACHABLE, NO_ANSWER),  # the phone's own forward: not followed
    (380, UNREACHABLE, NO_ANSWER),  # the phone's own forward: not followed
    (400, UNREACHABLE, NO_ANSWER),
    (403, 403, 403),
    (405, UNREACHABLE, NO_ANSWER),
    (413, 413, 413),
    (415, 415, 415),
    (420, 420, 420),
    (433, 433, 433),
    (430, UNREACHABLE, NO_ANSWER),  # RFC 5626: the edge has lost the phone
    (481, 481, 481),  # RFC 3891 3: the call to take over does not exist
    (482, 482, 482),
    (483, 483, 483),
    (484, 484, 484),
    (487, UNREACHABLE, NO_ANSWER),
    (488, 488, 488),
    (491, BUSY, BUSY),
    (499, UNREACHABLE, NO_ANSWER),  # an unknown code counts as x00
    (606, 606, 606),
    (699, BUSY, BUSY),
]


@pytest.mark.parametrize(("code", "before", "after"), ROWS)
def test_code(code: int, before: Condition | int, after: Condition | int) -> None:
    assert verdict([Failure(code, rang=False)]) == before
    assert verdict([Failure(code, rang=True)]) == after


def test_every_final_code_is_in_one_row() -> None:
    assert sorted(code for row in TABLE for code in row.codes) == list(range(300, 700))
    assert all(row.why for row in TABLE)


@pytest.mark.parametrize("code", [302, 403, 404, 480, 486, 487, 488, 491, 500, 503, 603])
@pytest.mark.parametrize("rang", [False, True])
@pytest.mark.parametrize(
    ("cause", "condition"),
    [
        (17, BUSY),
        (18, NO_ANSWER),
        (19, NO_ANSWER),
        (20, UNREACHABLE),
        (21, BUSY),
        (27, UNREACHABLE),
    ],
)
def test_a_q850_cause_wins_over_the_code(
    cause: int, condition: Condition, code: int, rang: bool
) -> None:
    assert verdict([Failure(code, q850=cause, rang=rang)]) == condition


@pytest.mark.parametrize("cause", [1, 16, 31, 34, 127])
def test_any_other_q850_cause_leaves_it_to_the_code(cause: int) -> None:
    assert verdict([Failure(486, q850=cause)]) == BUSY
    assert verdict([Failure(488, q850=cause)]) == 488


@pytest.mark.parametrize("rang", [False, True])
@pytest.mark.parametrize("code", [408, 503])
def test_a_peer_that_never_answers_is_unreachable(code: int, rang: bool) -> None:
    assert verdict([Failure(code, rang=rang, transport=True)]) == UNREACHABLE


GONE = Failure(408, transport=True)
STALE = Failure(404)
ENGAGED = Failure(486)
UNANSWERED = Failure(480, rang=True)
FORBIDDEN = Failure(403)
UNABLE = Failure(488)
DECLINED = Failure(603, rang=True)
SENT_ON = Failure(302)
CALLED_OFF = Failure(487, rang=True)


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        # several contacts
        ([], UNREACHABLE),
        ([GONE, STALE], UNREACHABLE),
        ([GONE, ENGAGED], BUSY),  # one stale contact does not end the call
        ([ENGAGED, STALE, ENGAGED], BUSY),
        ([GONE, UNANSWERED], NO_ANSWER),
        ([ENGAGED, UNANSWERED], NO_ANSWER),
        ([UNABLE, UNANSWERED], NO_ANSWER),
        ([GONE, UNABLE], 488),
        ([SENT_ON], UNREACHABLE),
        ([SENT_ON, ENGAGED], BUSY),  # a phone that forwards counts as absent
        ([SENT_ON, UNANSWERED], NO_ANSWER),
        ([SENT_ON, UNABLE], 488),
        ([Failure(302, rang=True), ENGAGED], NO_ANSWER),
        ([Failure(491), GONE], BUSY),
        ([ENGAGED, UNABLE], 488),  # busy only if all that count are busy
        ([UNABLE, FORBIDDEN], 488),  # the first of the lowest class
        ([Failure(500, rang=True), FORBIDDEN], 403),
        ([FORBIDDEN, Failure(415)], 415),  # RFC 3261 16.7: the more informative code
        ([FORBIDDEN, Failure(420), Failure(484)], 420),
        ([Failure(401), FORBIDDEN], 480),  # a challenge is never relayed
        ([Failure(503, rang=True)], 500),
        ([CALLED_OFF, DECLINED], BUSY),  # a 6xx applies to the user, not the phone
        ([UNANSWERED, Failure(606)], 606),
    ],
)
def test_several_contacts(failures: Sequence[Failure], expected: Condition | int) -> None:
    assert verdict(failures) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [(486, False), (480, False), (503, False), (600, True), (603, True), (607, True), (608, True)],
)
def test_which_codes_end_the_ringing_of_all(code: int, expected: bool) -> None:
    assert stops_all(code) is expected


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        # the target of a forward fails: the code for the caller
        (Failure(486), 486),
        (Failure(603), 603),
        (Failure(600), 600),
        (Failure(403), 403),
        (Failure(488), 488),
        (Failure(480, rang=True), 480),
        (Failure(404), 480),
        (Failure(408), 480),
        (Failure(408, rang=True), 480),
        (Failure(500), 480),
        (Failure(503), 480),
        (Failure(503, transport=True), 480),
        (Failure(401), 480),
        (Failure(407), 480),
        (Failure(302), 480),
        (Failure(405), 480),
        (Failure(481), 481),
        (Failure(487), 480),
        (Failure(491), 480),
    ],
)
def test_a_failing_target(failure: Failure, code: int) -> None:
    assert target_failure(failure) == code
