"""The shared parts of one worker: configuration, metrics, Redis, SIP endpoint."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from engine.config import Config
from engine.rejections import Rejections
from engine.telemetry.log import FilteringBoundLogger
from engine.telemetry.metrics import Metrics
from rules.numbers import Numbering
from sip.endpoint import Endpoint
from store.client import Client
from store.fleets import Fleets
from store.lines import Store


@dataclass(slots=True)
class Services:
    """Made by the worker. `config` and `numbering` are replaced when the configuration is read
    again, so read them at each use."""

    loop: asyncio.AbstractEventLoop
    config: Config
    numbering: Numbering
    log: FilteringBoundLogger
    metrics: Metrics
    rejections: Rejections
    redis: Client
    store: Store
    fleets: Fleets
    endpoint: Endpoint
