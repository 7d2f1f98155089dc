"""The two sides of a call that another process has left, once both legs exist again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sip.exchange import Exchanges
from sip.late_notify import introduce

if TYPE_CHECKING:
    from sip.leg import Leg
    from sip.leg_state import LegState


def connect(one: Leg, kept: LegState, other: Leg, others: LegState) -> None:
    """Continue what was in progress between the two: INVITEs that wait for their response or their
    ACK, and the subscription of a REFER."""
    one.peer, other.peer = other, one
    if kept.referred:
        introduce(one, other)
    _remember(one, kept)
    _remember(other, others)
    _resume(one, kept, other, others)
    _resume(other, others, one, kept)


def _remember(leg: Leg, kept: LegState) -> None:
    """The ACK of the last INVITE, if its 2xx is repeated."""
    asking = kept.asking
    if asking is not None and asking.ack is not None:
        exchanges = leg.exchanges = Exchanges(leg)
        exchanges.unacked_cseq, exchanges.last_ack = asking.cseq, asking.ack


def _resume(asker: Leg, kept: LegState, peer: Leg, peers: LegState) -> None:
    if kept.asked is not None:
        if asker.exchanges is None:
            asker.exchanges = Exchanges(asker)
        asker.exchanges.resume(kept.asked, peer, peers.asking)
