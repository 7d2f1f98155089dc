"""The fixtures of the scenarios, for the short runs that play on one."""

from __future__ import annotations

from tests.scenarios.conftest import shared_redis, stage, theatre

__all__ = ["shared_redis", "stage", "theatre"]
