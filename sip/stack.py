"""Which SIP core serves: PJSIP, or that of `sip/core` where there is no wheel of PJSIP, and when
tests choose it. See docs/core.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sip.core import compiled

if TYPE_CHECKING or compiled.serving() == "pjsip":
    from sip.endpoint import Endpoint
    from sip.outgoing import Outgoing
else:
    from sip.core.endpoint import Endpoint
    from sip.core.outgoing import Outgoing

__all__ = ["Endpoint", "Outgoing"]
