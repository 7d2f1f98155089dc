"""The effect of forwards before they are in force: their cost, their obstacles, and the path of the
next call, from the engine's own decision (`renvoi explain`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.explain import Explanation, Stage
from manager.costs import Cost, Costs
from manager.target_words import TargetWords
from manager.targets_and_usage import Around
from rules.decide import BLOCKED, Decision, ForwardTo, Reject, Ring
from rules.model import Condition, Line


@dataclass(slots=True)
class Step:
    """One step of the next call's path: the condition, the action and the result. `end`: nobody is
    reached."""

    icon: str
    what: str
    where: str = ""
    end: bool = False
    then: list[Step] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outlook:
    """The whole effect. `sentence` describes the next call's path in one sentence, `refused` are
    forwards without effect because of their target."""

    costs: Sequence[Cost]
    conflicts: Sequence[str]
    sentence: str
    steps: Sequence[Step]
    refused: Sequence[str] = ()

    @property
    def paid(self) -> bool:
        return any(cost.paid for cost in self.costs)


class Teller:
    """Describes the forwards of `line` in one language."""

    def __init__(self, places: TargetWords) -> None:
        self.places = places
        self.costs = Costs(places)
        self._say = places.say

    def outlook(self, line: Line, known: Around, explanation: Explanation) -> Outlook:
        costs = self.costs.of(line, known)
        return Outlook(
            costs,
            self.costs.conflicts(line, known, costs),
            self.sentence(line, explanation),
            self.steps(line, explanation),
            self.costs.refused(line, known),
        )

    def sentence(self, line: Line, explanation: Explanation) -> str:
        say, first = self._say, explanation.stages[0].decision
        if isinstance(first, Ring):
            return say("say_rings")
        if isinstance(first, Reject):
            if first.condition is None:
                return say("say_refused", end=self.end(first))
            end = self.end(first)
            return say(
                "say_end", state=self._state(line, first.condition), end=end[0].lower() + end[1:]
            )
        where = self.places.where(line.fleet, line.number, first.kind, first.number)
        if first.condition is Condition.UNCONDITIONAL:
            return say("say_all", where=where)
        return say("say_now", state=self._state(line, first.condition), where=where)

    def steps(self, line: Line, explanation: Explanation) -> list[Step]:
        """The path as a list of steps, with those at other lines inside the step that leads
        there."""
        say = self._say
        steps = [Step("in", say("step_arrives", number=self.places.shown.number(line.number)))]
        for stage in explanation.stages:
            if stage.when.startswith(" "):
                steps[-1].then.append(self._at_other(line, stage))
            else:
                steps.append(self._step(line, stage, first=len(steps) == 1))
        return steps

    def _step(self, line: Line, stage: Stage, first: bool) -> Step:
        decision = stage.decision
        if isinstance(decision, Ring):
            return Step("ring", self._rings(decision))
        what = ""
        if decision.condition is not None:
            if first:
                what = self._state(line, decision.condition)
            else:
                what = self._say(f"step_{decision.condition}")
        return self._ending(line, stage.number, decision, what)

    def _at_other(self, line: Line, stage: Stage) -> Step:
        name = self.places.line(line.fleet, stage.number)
        what = self._say("step_then", number=name)
        if isinstance(stage.decision, Ring):
            return Step("ring", what, self._rings(stage.decision))
        return self._ending(line, stage.number, stage.decision, what)

    def _ending(self, line: Line, number: str, decision: Decision, what: str) -> Step:
        if isinstance(decision, ForwardTo):
            where = self.places.where(
                line.fleet, number, decision.kind, decision.number, line.number
            )
            return Step(decision.kind, what, where)
        assert isinstance(decision, Reject)
        return Step("end", what, self.end(decision), end=True)

    def _rings(self, decision: Ring) -> str:
        if decision.after_s is None:
            return self._say("step_rings")
        return self._say("step_rings_for", seconds=decision.after_s)

    def _state(self, line: Line, condition: Condition) -> str:
        """The present reason why a call is not tried at the phones."""
        if condition is Condition.BUSY and line.do_not_disturb:
            return self._say("step_undisturbed")
        if condition is Condition.UNCONDITIONAL:
            return self._say("step_all")
        if condition is Condition.NO_ANSWER:
            return self._say("step_no_answer")
        return self._say(f"step_{condition}_now")

    def end(self, decision: Reject) -> str:
        """What a caller gets if nobody answers."""
        if decision.why in ("suspended", "fleet_suspended"):
            return self._say("end_suspended")
        if decision.why == BLOCKED:
            return self._say("end_blocked")
        known = decision.condition in (Condition.BUSY, Condition.NO_ANSWER, Condition.UNREACHABLE)
        return self._say(f"end_{decision.condition}" if known else "end_other")
