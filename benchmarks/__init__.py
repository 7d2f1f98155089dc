"""Measurements of the running engine under SIPp load (see docs/measurements.md)."""
