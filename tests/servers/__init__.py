"""Tests with real telephony servers beside the engine: `make test-servers`."""
