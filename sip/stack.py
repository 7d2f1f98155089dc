"""Which SIP core serves. That of `sip/core` is chosen by tests only: docs/core.md."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sip.core.compiled import SWITCH

if TYPE_CHECKING or SWITCH not in os.environ:
    from sip.endpoint import Endpoint
    from sip.outgoing import Outgoing
else:
    from sip.core.endpoint import Endpoint
    from sip.core.outgoing import Outgoing

__all__ = ["Endpoint", "Outgoing"]
