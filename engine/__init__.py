"""The engine: the call flow and everything that runs it."""

__version__ = "0.1.0"
