"""Play the named cases against one engine: `python -m tests.campaigns.play [NAME PART ...]`."""

from __future__ import annotations

import sys
import time
from contextlib import closing

from tests.campaigns.cases import CASES, Ground
from tests.campaigns.packet import SDP, acknowledgement, request, response, within
from tests.campaigns.peer import Peer
from tests.campaigns.site import Site, open_site
from tests.scenarios.message import address_of

LINES = (f"+339721{n:05d}" for n in range(20_000, 100_000))  # one per case: not in memory yet
PROBE_LINE = "+33972100002"
SETTLE_S = 12.0


def probe(site: Site) -> str:
    """Place one plain call; returns the fault, empty without one."""
    engine = site.engine.address
    with closing(Peer(engine)) as caller, closing(Peer(engine)) as phone:
        site.redis.delete(f"reg:{PROBE_LINE}")
        site.write_line(PROBE_LINE, (phone.uri(),))
        deadline = time.monotonic() + 3.0
        while True:
            invite = request(caller.own, engine, PROBE_LINE.encode())
            caller.send(invite)
            arrived = phone.receive("INVITE", 0.3)
            if arrived is not None:
                break
            if time.monotonic() > deadline:
                return "the probe's phone got no INVITE"
        phone.send(response(phone.own, arrived, 200, b"probe", SDP))
        accepted = caller.receive(200, 2.0)
        if accepted is None:
            return "the probe's caller got no 200"
        target = address_of(accepted.one("Contact")).encode()
        caller.send(acknowledgement(invite, accepted, caller.own, target))
        if phone.receive("ACK", 2.0) is None:
            return "the probe's phone got no ACK"
        caller.send(
            within(
                caller.own,
                b"BYE",
                local=invite.get(b"From"),
                remote=accepted.one("To").encode(),
                call_id=invite.get(b"Call-ID"),
                cseq=int(invite.get(b"CSeq").split()[0]) + 1,
                target=target,
            )
        )
        bye = phone.receive("BYE", 2.0)
        if bye is None:
            return "the probe's phone got no BYE"
        phone.send(response(phone.own, bye, 200, b""))
    return ""


def play(site: Site, name: str, *, settle: bool) -> str:
    """Play one case; returns the engine's fault, empty without one."""
    engine = site.engine
    before = len(engine.trouble())
    problem = ""
    with closing(Peer(engine.address)) as caller, closing(Peer(engine.address)) as phone:
        line = next(LINES)
        site.write_line(line, (phone.uri(),))
        try:
            CASES[name](Ground(caller, phone, line.encode()))
        except AssertionError as error:
            problem = f"did not reach its end: {error}"
    if engine.status() is not None:
        return engine.death()
    if engine.get("/healthz")[0] != 200:
        return "no /healthz"
    if len(engine.trouble()) > before:
        return engine.trouble()[-1]
    if settle and (standing := engine.settle(SETTLE_S)):
        return f"left {standing}; open: {engine.counts()['open']}"
    return problem


def main(parts: list[str]) -> int:
    """Play the cases whose names contain one of `parts` (none: all), with a new engine after each
    crash."""
    names = [n for n in CASES if not parts or any(part in n for part in parts)]
    failed = 0
    while names:
        with open_site() as site:
            while names:
                name = names.pop(0)
                problem = play(site, name, settle=True)
                if problem:
                    failed += 1
                    print(f"{name}: {problem}", flush=True)
                if site.engine.status() is not None:
                    break
                if problem.startswith("left"):
                    break
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
