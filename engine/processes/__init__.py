"""Runs and replaces worker processes, for `engine/supervisor.py`."""
