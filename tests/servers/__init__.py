"""The telephony servers that people run, real, beside the engine: `make test-servers`."""
