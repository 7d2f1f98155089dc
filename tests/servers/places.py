"""The addresses in docs/integration.md and the shipped files."""

from __future__ import annotations

TRUNK, ENGINE, SECOND_ENGINE = "192.0.2.10", "192.0.2.20", "192.0.2.21"
SERVER, PHONE, STRANGER = "192.0.2.30", "192.0.2.40", "192.0.2.66"
# For OpenSIPS and its engine, because Asterisk and its engine have the addresses of the files.
OTHER_SERVER, OTHER_ENGINE = "192.0.2.31", "192.0.2.22"
ADDRESSES = (
    TRUNK, ENGINE, SECOND_ENGINE, SERVER, PHONE, STRANGER, OTHER_SERVER, OTHER_ENGINE,
)  # fmt: skip
SIP_PORT, PHONES_PORT, ENGINE_PORT = 5060, 5070, 5080
WITHOUT = "RENVOI_SERVERS_WITHOUT"
"""Environment variable: why these tests are skipped."""
