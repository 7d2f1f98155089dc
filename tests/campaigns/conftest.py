"""The fixtures of the scenarios, for the short runs that use them."""

from __future__ import annotations

from tests.scenarios.conftest import running_engine, setup, shared_redis

__all__ = ["running_engine", "setup", "shared_redis"]
