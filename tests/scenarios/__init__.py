"""Acceptance scenarios: real calls through a real engine, with real SIPp and a real Redis."""
