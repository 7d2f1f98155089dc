"""The checks of `renvoi demo` on the messages of a call, besides who was reached. Pure
functions."""

from __future__ import annotations

import re
from urllib.parse import unquote

from engine.demo.cases import CALLER, CAUSES
from engine.demo.softphone import Received
from sip.fake import Call
from sip.fake_message import text, user_of

_DIVERSION = re.compile(r"<sips?:([^@;>]+)[^>]*>[^,]*?;\s*reason=\"?([\w-]+)", re.IGNORECASE)


def caller_faults(call: Call, *, forwarded: bool) -> list[str]:
    """The faults in the messages to the caller."""
    faults = []
    codes, tags = call.codes(), call.to_tags()
    if len(tags) > 1:
        faults.append(f"{len(tags)} To tags")
    if (181 in codes) != forwarded:
        faults.append(f"181 {'missing' if forwarded else 'without a forward'}")
    return faults


def transit_faults(call: Call, leg: Call | Received, role: str) -> list[str]:
    """The faults in what crossed the engine between the caller and `role`, which answered."""
    faults = []
    sent, got = call.invite, leg.invite
    if got.body != sent.body:
        faults.append("SDP offer changed")
    if call.answers[-1].body != leg.body:
        faults.append("SDP answer changed")
    if f"sip:{CALLER}@" not in text(got, b"from"):
        faults.append(f"From shows {text(got, b'from')}")
    if text(got, b"to") != text(sent, b"to"):
        faults.append(f"To shows {text(got, b'to')}")
    forwards = diversions(leg)
    if forwards:
        cause = f"cause={CAUSES.get(forwards[0][1])}"
        if cause not in (got.values(b"history-info") or [b""])[-1].decode("latin-1"):
            faults.append(f"History-Info without {cause}")
        if role == "voicemail":  # RFC 4458: the mailbox, and the reason of the call
            uri = unquote(got.target.decode("latin-1"))
            parameters = (cause, f"target=sip:{user_of(got)}@")
            faults += [f"Request-URI without {part}" for part in parameters if part not in uri]
    return faults


def diversions(leg: Call | Received) -> tuple[tuple[str, str], ...]:
    """(line, reason) of every Diversion entry of a received INVITE, newest first."""
    values = b",".join(leg.invite.values(b"diversion")).decode("latin-1")
    return tuple((line, reason) for line, reason in _DIVERSION.findall(values))
