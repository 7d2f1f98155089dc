"""Campaigns against a running engine: hostile messages (`fuzz`) and endurance (`leaks`)."""
