"""Random calls, transfers, takeovers, hang-ups and suspensions against a model of who pays.

`python -m tests.campaigns.transfers --examples 20 --steps 60 --seed 1`: real calls over a real
engine with two workers and a real Redis. After each step `/calls` and `forwards:<line>` must match
the model: who pays for what, and the number of forwards in progress, never above the limit. In the
end the records must have the payers of the model, `usage` the seconds of the records, and every
INVITE that reached the gateway belongs to a record with a payer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.changes.acks import in_force_blocking
from tests.patience import within
from tests.scenarios import numbers
from tests.scenarios.endpoint import Call, Endpoint
from tests.scenarios.expect import connect
from tests.scenarios.processes import RedisServer
from tests.scenarios.setup import OFFER_BYTES, Setup, identity, started_engine, to_number
from tests.scenarios.worker_pool import WorkerPool

WORKERS = 2
LIMIT = 2
FLEETS = ("red", "blue")
SETTINGS = {"limits": {"forwards_per_line": LIMIT}}
Side = tuple[str, str]  # the Call-ID of a call's caller, and "a" (the caller) or "b"


@dataclass
class Line:
    """A line of the model: one that forwards all calls to its `mobile`, or one with a `phone`."""

    number: str
    fleet: str
    mobile: str = ""
    phone: Endpoint | None = None
    suspended: bool = False
    on: bool = True


@dataclass
class Standing:
    """A call in progress: its two sides, and the lines that pay for each."""

    a: Call
    b: Call
    caller: str
    called: str
    at_b: str  # the number at the called side
    for_a: list[str] = field(default_factory=list)
    for_b: list[str] = field(default_factory=list)

    @property
    def payers(self) -> list[str]:
        return [*self.for_a, *self.for_b]


class Refused(Exception):
    """By the model the call is refused with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Model:
    """The expected state: the lines, the calls in progress, the transfers that have not arrived
    yet."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}  # called lines
        self.colleagues: dict[str, Line] = {}  # by fleet: lines that only take calls over
        self.stopped: set[str] = set()  # fleets
        self.calls: dict[str, Standing] = {}  # by the Call-ID of the caller
        self.pending: dict[tuple[str, str], tuple[Side, list[str], str]] = {}
        self.ended: dict[str, list[str]] = {}  # payers by Call-ID
        self.at_gateway: Counter[str] = Counter()  # INVITEs by mobile

    @property
    def known(self) -> dict[str, Line]:
        return self.lines | {line.number: line for line in self.colleagues.values()}

    def count(self, line: str) -> int:
        """The forwards of a line in progress."""
        return sum(line in call.payers for call in self.calls.values())

    def is_stopped(self, line: Line) -> bool:
        return line.suspended or line.fleet in self.stopped

    def admit(self, line: str, held: set[str], *, forwards: bool) -> None:
        """Let a line pay for one more call. Raises Refused."""
        known = self.known[line]
        if self.is_stopped(known) or (forwards and not known.on):
            raise Refused(403)
        if line not in held and self.count(line) >= LIMIT:
            raise Refused(480)
        held.add(line)

    def arrive(self, caller: str, called: str) -> tuple[list[str], list[str], set[str]]:
        """The payers of a call that comes from a transfer: for its caller's side, and for the
        transfer; and the lines on whose forwards it counts. Raises Refused."""
        held: set[str] = set()
        _, paid, by = self.pending.pop((caller, called), (("", ""), [], ""))
        for line in paid:
            self.admit(line, held, forwards=bool(self.known[line].mobile))
        if by:
            self.admit(by, held, forwards=False)
        return paid, [by] if by else [], held

    def refer(self, side: Side, key: tuple[str, str], paid: list[str], by: str) -> None:
        """A newer REFER to a side replaces an older one."""
        for old, (known, _, _) in list(self.pending.items()):
            if known == side:
                del self.pending[old]
        self.pending[key] = side, paid, by

    def end(self, call: Standing) -> None:
        """A call has ended; its transfers can no longer be reported."""
        self.calls.pop(call.a.call_id)
        self.ended[call.a.call_id] = call.payers


class Play:
    """One example: random steps on the wire, each compared with the model."""

    def __init__(self, setup: Setup, seed: int) -> None:
        assert isinstance(setup.engine, WorkerPool)
        self.setup, self.pool, self.seed = setup, setup.engine, seed
        self.random = random.Random(seed)
        self.model = Model()
        self.facts: list[str] = []
        self.begun = len(setup.records())

    async def run(self, steps: int) -> None:
        """Raises AssertionError with the seed and the steps so far."""
        try:
            await self._set_up()
            actions = [self.call] * 4 + [self.refer] * 3 + [self.follow] * 4 + [self.take_over] * 4
            actions += [self.hang_up] * 2 + [self.switch]
            for _ in range(steps):
                await self.random.choice(actions)()
                await self.compare()
            for call in list(self.model.calls.values()):
                await self._hang_up(call)
            await self.check_records()
        except Exception as error:
            facts = "\n".join(self.facts)
            raise AssertionError(f"seed {self.seed}: {error!r}; after\n{facts}") from error

    # -- steps ------------------------------------------------------------------------------------

    async def call(self) -> None:
        line = self.random.choice(list(self.model.lines.values()))
        await self._call(numbers.caller_number(), line.number)

    async def refer(self) -> None:
        """One side transfers the other to a line."""
        call = self._any_call()
        if call is None:
            return
        by_caller = self.random.random() < 0.6
        referrer, referee = (call.a, call.b) if by_caller else (call.b, call.a)
        who, whom = (call.caller, call.at_b) if by_caller else (call.at_b, call.caller)
        target = self.random.choice(list(self.model.lines))
        sender = self.model.known.get(who)
        if sender is not None and self.model.is_stopped(sender):
            self._note(f"{who} is suspended and transfers {whom} to {target}")
            referrer.request("REFER", headers=[("Refer-To", f"<sip:{target}@h>")])
            await referrer.receive(403, "REFER")
            return
        self._note(f"{who} sends {whom} to {target}")
        code = self.random.choice([202, 202, 202, 603])
        referrer.request("REFER", headers=[("Refer-To", f"<sip:{target}@h>")])
        referee.respond(code, to=await referee.receive("REFER"))
        await referrer.receive(code, "REFER")
        side = call.a.call_id, "b" if by_caller else "a"
        paid = call.for_b if by_caller else call.for_a
        by = who if sender is not None else ""
        self.model.refer(side, (whom, target), list(paid), by)
        if code >= 300 or not (paid or by):
            del self.model.pending[whom, target]
        await self._heard(f"transfer:{whom}:{target}", (whom, target) in self.model.pending)

    async def follow(self) -> None:
        """A transferred side places its call."""
        if self.model.pending:
            caller, called = self.random.choice(list(self.model.pending))
            await self._call(caller, called)

    async def take_over(self) -> None:
        """A phone takes over the far end of a call, or tries to."""
        call = self._any_call()
        if call is None:
            return
        kind = self.random.choice(["side", "side", "colleague", "stranger", "caller's"])
        fleet = self.model.lines[call.called].fleet
        who = call.caller
        if kind in ("colleague", "caller's"):
            who = self._colleague(fleet)
        elif kind == "stranger":
            who = numbers.caller_number()
        of_caller = kind == "caller's"
        name = _own(call.a if of_caller else call.b)
        if self.random.random() < 0.5:
            name = _seen_by(call.b if of_caller else call.a)
        taking = await self._start(who, call.called, ("Replaces", name))
        self._note(f"{who} ({kind}) takes over {call.at_b}'s call from {call.caller}")
        model = self.model
        for_a: list[str] = []
        sent: list[str] = []
        try:
            for_a, sent, held = model.arrive(who, call.called)
            number, paid = (call.caller, call.for_a) if of_caller else (call.at_b, call.for_b)
            line = model.known.get(number)
            if kind == "stranger" or (of_caller and (line is None or who == number)):
                raise Refused(403)
            if line is not None and model.is_stopped(line):
                raise Refused(403)
            for payer in paid:
                model.admit(payer, held, forwards=bool(model.known[payer].mobile))
            if of_caller:
                if line is None or line.phone is None:
                    raise Refused(480)
                ring = await line.phone.incoming()  # its phone gets another dialog, or none
                ring.respond(486)
                raise Refused(486)
        except Refused as refused:
            await self._refused(taking, refused.code, for_a + sent)
            return
        ring = await self._ring(call.at_b)
        await connect(taking, ring)
        await call.a.receive("BYE")
        await call.b.receive("BYE")
        model.end(call)
        model.calls[taking.call_id] = Standing(
            taking, ring, who, call.called, call.at_b, for_a, sent + call.for_b
        )

    async def hang_up(self) -> None:
        call = self._any_call()
        if call is not None:
            self._note(f"{call.caller} and {call.at_b} part")
            await self._hang_up(call)

    async def switch(self) -> None:
        """Suspend or resume a line or a fleet, or switch a forward."""
        line = self.random.choice(list(self.model.lines.values()))
        what = self.random.choice(["suspended", "on", "fleet"])
        if what == "fleet":
            self.model.stopped ^= {line.fleet}
            stopped = line.fleet in self.model.stopped
            document = {"name": line.fleet, "suspended": stopped}
            self.setup.redis.set(f"fleet:{line.fleet}", json.dumps(document))
        elif what == "suspended":
            line.suspended = not line.suspended
            self.setup.change(line.number, suspended=line.suspended)
        elif line.mobile:
            line.on = not line.on
            forward = {**to_number(line.mobile), "on": line.on}
            self.setup.change(line.number, forwards={"unconditional": forward})
        self._note(f"{what} of {line.number} ({line.fleet}) changes")
        await self._in_force(line.number)
        await self.setup.settle(fleets=what == "fleet")

    # -- on the wire ------------------------------------------------------------------------------

    async def _set_up(self) -> None:
        for fleet in FLEETS:
            self.setup.redis.set(f"fleet:{fleet}", json.dumps({"name": fleet}))
            mobile = numbers.mobile_number()
            number = self.setup.line(
                fleet=fleet, offer={"mobile": "unlimited"},
                forwards={"unconditional": to_number(mobile)},
            )  # fmt: skip
            self.model.lines[number] = Line(number, fleet, mobile=mobile)
            phone = await self.setup.endpoint()
            number = self.setup.line(to=[phone.uri()], fleet=fleet)
            self.model.lines[number] = Line(number, fleet, phone=phone)
            number = self.setup.line(fleet=fleet)
            self.model.colleagues[fleet] = Line(number, fleet)
        await self.setup.settle()

    async def _start(self, caller: str, called: str, *headers: tuple[str, str]) -> Call:
        endpoint = await self.setup.endpoint()
        worker = self.random.randrange(WORKERS)
        return endpoint.start(
            self.pool.address_of(worker), called, caller=caller,
            headers=[identity(caller), *headers], body=OFFER_BYTES,
        )  # fmt: skip

    async def _ring(self, number: str) -> Call:
        line = self.model.lines.get(number)
        if line is not None and line.phone is not None:
            return await line.phone.incoming()
        self.model.at_gateway[number] += 1
        return await self.setup.server("number").incoming(number)

    async def _call(self, caller: str, called: str) -> None:
        self._note(f"{caller} calls {called}")
        call = await self._start(caller, called)
        line = self.model.lines[called]
        for_a: list[str] = []
        sent: list[str] = []
        try:
            for_a, sent, held = self.model.arrive(caller, called)
            if self.model.is_stopped(line):
                raise Refused(403)
            if line.mobile:
                full = called not in held and self.model.count(called) >= LIMIT
                if not line.on or full or caller == line.mobile:
                    raise Refused(480)  # the forward counts as off, and no phone is registered
        except Refused as refused:
            await self._refused(call, refused.code, for_a + sent)
            return
        at_b = line.mobile or called
        ring = await self._ring(at_b)
        await connect(call, ring)
        for_b = [called] if line.mobile else []
        self.model.calls[call.call_id] = Standing(
            call, ring, caller, called, at_b, for_a, sent + for_b
        )

    async def _refused(self, call: Call, code: int, payers: list[str]) -> None:
        got = (await call.final()).code
        assert got == code, f"{got}, the model says {code}"
        self.model.ended[call.call_id] = payers

    async def _hang_up(self, call: Standing) -> None:
        await call.a.hang_up()
        await call.b.receive("BYE")
        self.model.end(call)

    async def _heard(self, key: str, exists: bool) -> None:
        """Wait until Redis has the key, or no longer, and every worker has read the change."""
        await self._until(lambda: bool(self.setup.redis.exists(key)) == exists, key)
        await self._in_force(next(iter(self.model.lines)))

    async def _in_force(self, line: str) -> None:
        """Wait until every worker has read the last writes."""
        proof = await asyncio.to_thread(in_force_blocking, self.setup.redis, line, within(2))
        assert proof.complete, proof.in_words()

    # -- what is compared -------------------------------------------------------------------------

    async def compare(self) -> None:
        """Compare the engine with the model."""
        model = self.model
        wanted = {call.a.call_id: (call.payers or [""])[-1] for call in model.calls.values()}

        def same() -> bool:
            return {c["call_id"]: c["payer"] for c in self.pool.calls()} == wanted

        await self._until(same, f"/calls: {wanted}")
        for line in model.known:
            count = model.count(line)
            assert count <= LIMIT, f"{count} forwards of {line}"

            def counted(key: str = f"forwards:{line}", count: int = count) -> bool:
                return int(self.setup.redis.zcard(key)) == count

            await self._until(counted, f"forwards:{line}: {count}")

    async def check_records(self) -> None:
        """Check who pays, and the usage."""
        model = self.model
        await self._until(
            lambda: len(self.setup.records()) - self.begun >= len(model.ended), "records"
        )
        used: Counter[str] = Counter()
        legs: Counter[str] = Counter()
        for record in self.setup.records()[self.begun :]:
            forwards = json.loads(record["forwards"])
            recorded = [forward["line"] for forward in forwards]
            payers = model.ended.pop(record["call_id"])
            assert recorded == payers, f"{record['call_id']}: {recorded}, the model says {payers}"
            for forward in forwards:
                used[forward["line"]] += forward["seconds"]
            for leg in json.loads(record["legs"]):
                if leg["role"] != "line":
                    assert payers, f"{record['call_id']} left the fleet without a payer"
                    legs[leg["number"]] += 1
        assert not model.ended, model.ended
        assert legs == model.at_gateway, f"{legs}, the gateway saw {model.at_gateway}"
        for line in model.known:
            seconds = sum(
                int(value)
                for key in self.setup.redis.keys(f"usage:{line}:*")
                for value in self.setup.redis.hgetall(key).values()
            )
            assert seconds == used[line], f"usage of {line}: {seconds}, records {used[line]}"

    async def _until(self, condition: Any, what: str, within_s: float = 10) -> None:
        deadline = time.monotonic() + within(within_s)
        while not condition():
            calls = [(c["call_id"], c["payer"]) for c in self.pool.calls()]
            assert time.monotonic() < deadline, f"{what}; the engine has {calls}"
            await asyncio.sleep(0.01)

    # -- small things -----------------------------------------------------------------------------

    def _any_call(self) -> Standing | None:
        calls = list(self.model.calls.values())
        return self.random.choice(calls) if calls else None

    def _colleague(self, fleet: str) -> str:
        return self.model.colleagues[fleet].number

    def _note(self, what: str) -> None:
        self.facts.append(what)


def _seen_by(side: Call) -> str:
    tag = side.remote.rpartition("tag=")[2]
    return f"{side.call_id};to-tag={tag};from-tag={side.tag}"


def _own(side: Call) -> str:
    tag = side.remote.rpartition("tag=")[2]
    return f"{side.call_id};to-tag={side.tag};from-tag={tag}"


async def play(examples: int, steps: int, seed: int) -> None:
    """Play `examples` examples on one engine, the first with this seed."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            pool = WorkerPool(Path(folder), server.url, WORKERS, SETTINGS)
            with started_engine(pool, server.client, Path(folder)) as running_engine:
                async with running_engine.endpoints() as servers:
                    for example in range(examples):
                        async with Setup(running_engine, servers) as setup:
                            await Play(setup, seed + example).run(steps)
                        print(f"seed {seed + example}: {steps} steps agree", flush=True)
        finally:
            server.stop()


def run(examples: int, steps: int, seed: int) -> str:
    """Play them; returns a summary. Raises AssertionError where engine and model differ."""
    asyncio.run(play(examples, steps, seed))
    return f"{examples} examples of {steps} steps from seed {seed}: engine and model agree"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(run(given.examples, given.steps, given.seed))


if __name__ == "__main__":
    main()
