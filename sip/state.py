"""The states of a leg."""

from enum import IntEnum


class State(IntEnum):
    """The state of a leg, in the order of a call's life."""

    TRYING = 0  # incoming: INVITE received, nothing but 100 sent
    CALLING = 1  # outgoing: INVITE sent, no response yet
    EARLY = 2  # a provisional response above 100 was sent or received
    CANCELLING = 3  # outgoing: cancelled, waits for its final response
    ANSWERED = 4  # 2xx sent or received, not acknowledged
    CONFIRMED = 5  # acknowledged
    ENDED = 6


# By name: Python 3.11 takes 600 instructions to find `State.EARLY`, and a call asks forty times.
TRYING, CALLING, EARLY, CANCELLING, ANSWERED, CONFIRMED, ENDED = State
