"""Where everybody is: the addresses that docs/integration.md and the shipped files name."""

from __future__ import annotations

TRUNK, ENGINE, SECOND_ENGINE = "192.0.2.10", "192.0.2.20", "192.0.2.21"
SERVER, PHONE, STRANGER = "192.0.2.30", "192.0.2.40", "192.0.2.66"
# What stands where Asterisk and its engine do, when they are there too.
OTHER_SERVER, OTHER_ENGINE = "192.0.2.31", "192.0.2.22"
ADDRESSES = (
    TRUNK, ENGINE, SECOND_ENGINE, SERVER, PHONE, STRANGER, OTHER_SERVER, OTHER_ENGINE,
)  # fmt: skip
SIP_PORT, PHONES_PORT, ENGINE_PORT = 5060, 5070, 5080
WITHOUT = "RENVOI_SERVERS_WITHOUT"
"""In the environment: why there are no servers here."""
