"""The parts of a worker that a call uses."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.call_facts import CallFacts
from engine.diversion_marks import Marks
from engine.event_queue import Deadlines
from engine.forwards import Forwards
from engine.leases import LiveCalls
from engine.max_calls import MaxCalls
from engine.probing import Probing
from engine.records.spending_caps import SpendingCaps
from engine.registration.dialled import Dialled
from engine.registration.registrar import Registrar
from engine.services import Services


@dataclass(slots=True)
class CallServices(Services):
    """`changed` holds the calls whose facts are not yet in the journal. `probing` and `registrar`
    are made from these services, and the worker sets them before the first call."""

    live: LiveCalls
    forwards: Forwards
    max_calls: MaxCalls
    spending_caps: SpendingCaps
    marks: Marks
    dialled: Dialled
    changed: set[CallFacts]
    deadlines: Deadlines
    probing: Probing = field(init=False)
    registrar: Registrar = field(init=False)
