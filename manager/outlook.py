"""What forwards will do, before they are in force: their cost, what gets in their way, and the way
of the next call, told out of the engine's own decision (`renvoi explain`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.explain import Stage, Told
from manager.forms import ORDER
from manager.records import Month, Purse
from manager.shown import Shown, duration
from manager.words import Say
from rules.billing import billing_class
from rules.decide import Decision, ForwardTo, Reject, Ring
from rules.model import CAPPED, Billing, Condition, Destination, Kind, Line

Targets = Mapping[str, Line | None]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one forward costs. `level`: the billing class, for its colour and sign."""

    condition: Condition
    where: str
    level: Billing
    text: str


@dataclass(slots=True)
class Step:
    """One step of the next call's way: when, what, and where it ends up. `end`: nobody is
    reached."""

    icon: str
    what: str
    where: str = ""
    end: bool = False
    then: list[Step] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outlook:
    """All of it. `sentence` says the next call's way in one sentence, `refused` which forwards do
    nothing because of their number."""

    costs: Sequence[Cost]
    conflicts: Sequence[str]
    sentence: str
    steps: Sequence[Step]
    refused: Sequence[str] = ()

    @property
    def paid(self) -> bool:
        return any(cost.level is not Billing.FREE for cost in self.costs)


class Teller:
    """Tells in one language. `line` is the one whose forwards are told."""

    def __init__(self, say: Say, shown: Shown) -> None:
        self._say = say
        self._shown = shown

    def outlook(
        self, line: Line, targets: Targets, month: Month, told: Told, purse: Purse
    ) -> Outlook:
        costs = self.costs(line, targets, month)
        conflicts = self.conflicts(line, targets)
        if purse.empty and any(cost.level in CAPPED for cost in costs):
            conflicts.append(self._say("cap_empty"))
        return Outlook(
            costs,
            conflicts,
            self.sentence(line, told),
            self.steps(line, told),
            self.refused(line, targets, purse),
        )

    def refused(self, line: Line, targets: Targets, purse: Purse) -> list[str]:
        """The forwards that are on and do nothing, because of the number they lead to."""
        inside = {number for number, target in targets.items() if target is not None}
        return [
            self._say(
                "refused",
                what=self._say("quoted", text=self._say(condition)),
                number=self._shown.number(to.number),
                why=self._say(_word_for(why)),
            )
            for condition, to, why in line.refused_targets(inside, purse.countries)
        ]

    def destination(self, line: Line, to: Destination, inside: bool) -> str:
        """Where a forward leads, in words. `inside`: the target is a line of the fleet."""
        kind = "line" if inside and to.kind is Kind.NUMBER else to.kind.value
        return self._where(line.number, kind, to.number)

    def costs(self, line: Line, targets: Targets, month: Month) -> list[Cost]:
        """What the forwards that are on will cost, in the guide's order."""
        result = []
        for condition in ORDER:
            forward = line.forwards.get(condition)
            if forward is None or not forward.on or forward.to is None:
                continue
            to = forward.to
            inside = to.kind is not Kind.NUMBER or targets.get(to.number) is not None
            if to.why_refused(inside, None) is not None:
                continue
            kind = "line" if inside and to.kind is Kind.NUMBER else to.kind.value
            left_s = month.plan_left_s
            level = billing_class(
                line, kind, to.number, to.mobile, inside, left_s, to.tariff
            )
            text = self._cost(line, kind, level, month)
            result.append(Cost(condition, self.destination(line, to, inside), level, text))
        return result

    def _cost(self, line: Line, kind: str, level: Billing, month: Month) -> str:
        say, hours = self._say, f"{line.offer.mobile_hours:g}"
        if level is Billing.FREE:
            return say(f"cost_free_{kind}")
        if level is Billing.STANDARD:
            return say("cost_standard")
        if level is Billing.DEDUCTED:
            left = (
                line.offer.mobile_hours * 3600 if month.plan_left_s is None else month.plan_left_s
            )
            return say("cost_deducted", hours=hours, left=duration(left))
        if level is not Billing.OUT_OF_PLAN:
            return say(f"cost_{level}")
        if line.offer.mobile == "hours":
            return say("cost_spent", hours=hours)
        return say("cost_unlimited" if line.offer.mobile == "unlimited" else "cost_none")

    def conflicts(self, line: Line, targets: Targets) -> list[str]:
        """What of the forwards will not do what one may expect."""
        say, on = self._say, [c for c in ORDER if (f := line.forwards.get(c)) and f.on]
        result = []
        others = [say("quoted", text=say(c)) for c in on if c is not Condition.UNCONDITIONAL]
        if Condition.UNCONDITIONAL in on and others:
            key = "conflict_all" if len(others) > 1 else "conflict_all_one"
            result.append(say(key, others=", ".join(others)))
        if Condition.BUSY in on and Condition.UNCONDITIONAL not in on and line.max_calls is None:
            result.append(say("conflict_busy"))
        for condition in on:
            to = line.forwards[condition].to
            target = targets.get(to.number) if to and to.kind is Kind.NUMBER else None
            back = target.forwards.values() if target else ()
            if target and any(
                f.on and f.to and f.to.kind is Kind.NUMBER and f.to.number == line.number
                for f in back
            ):
                result.append(say("conflict_same", other=self._shown.number(target.number)))
        return list(dict.fromkeys(result))

    def sentence(self, line: Line, told: Told) -> str:
        say, first = self._say, told.stages[0].decision
        if isinstance(first, Ring):
            return say("say_rings")
        if isinstance(first, Reject):
            if first.condition is None:
                return say("say_refused", end=self._end(first))
            end = self._end(first)
            return say("say_end", state=self._state(first.condition), end=end[0].lower() + end[1:])
        where = self._where(line.number, first.kind, first.number)
        if first.condition is Condition.UNCONDITIONAL:
            return say("say_all", where=where)
        return say("say_now", state=self._state(first.condition), where=where)

    def steps(self, line: Line, told: Told) -> list[Step]:
        """The way as a list of steps, those at other lines inside the step that leads there."""
        say = self._say
        steps = [Step("in", say("step_arrives", number=self._shown.number(line.number)))]
        for stage in told.stages:
            if stage.when.startswith(" "):
                steps[-1].then.append(self._at_other(stage))
            else:
                steps.append(self._step(stage, first=len(steps) == 1))
        return steps

    def _step(self, stage: Stage, first: bool) -> Step:
        decision = stage.decision
        if isinstance(decision, Ring):
            return Step("ring", self._rings(decision))
        what = ""
        if decision.condition is not None:
            if first:
                what = self._state(decision.condition)
            else:
                what = self._say(f"step_{decision.condition}")
        return self._ending(stage.number, decision, what)

    def _at_other(self, stage: Stage) -> Step:
        what = self._say("step_then", number=self._shown.number(stage.number))
        if isinstance(stage.decision, Ring):
            return Step("ring", what, self._rings(stage.decision))
        return self._ending(stage.number, stage.decision, what)

    def _ending(self, number: str, decision: Decision, what: str) -> Step:
        if isinstance(decision, ForwardTo):
            return Step(decision.kind, what, self._where(number, decision.kind, decision.number))
        assert isinstance(decision, Reject)
        return Step("end", what, self._end(decision), end=True)

    def _rings(self, decision: Ring) -> str:
        if decision.after_s is None:
            return self._say("step_rings")
        return self._say("step_rings_for", seconds=decision.after_s)

    def _state(self, condition: Condition) -> str:
        """What is the case now, when a call is not even tried at the phones."""
        if condition is Condition.UNCONDITIONAL:
            return self._say("step_all")
        if condition is Condition.NO_ANSWER:
            return self._say("step_no_answer")
        return self._say(f"step_{condition}_now")

    def _end(self, decision: Reject) -> str:
        if decision.why in ("suspended", "fleet_suspended"):
            return self._say("end_suspended")
        known = decision.condition in (Condition.BUSY, Condition.NO_ANSWER, Condition.UNREACHABLE)
        return self._say(f"end_{decision.condition}" if known else "end_other")

    def _where(self, own: str, kind: str, number: str) -> str:
        if kind == Kind.VOICEMAIL and number == own:
            return self._say("go_own_voicemail")
        # A number is not torn apart at the end of a line.
        number = self._shown.number(number).replace(" ", "\u00a0")
        return self._say(f"go_{kind}", number=number)


def _word_for(why: str) -> str:
    """The word for why a number is refused; `error_country` is that of an unknown country code."""
    return "error_country_refused" if why == "country" else f"error_{why}"
