"""Curves of what a call costs by calls in progress, lines, workers, forwards, delay of Redis."""
