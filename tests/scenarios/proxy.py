"""Proxies on the way, as the scenarios play them.

A proxy is a socket that belongs to the endpoint behind it: what comes there is of that endpoint's
calls, and `Endpoint.requests` tells which of the two sockets a request came to.
"""

from __future__ import annotations

from tests.scenarios.endpoint import Endpoint
from tests.scenarios.message import Message
from tests.scenarios.setup import Setup

# Two proxies that nobody has to reach: only the first hop of a request gets one.
FAR = "<sip:far.example;lr>"
FURTHER = "<sip:192.0.2.77:5060;lr;x=y>"


async def proxy_of(setup: Setup, endpoint: Endpoint) -> tuple[Endpoint, str]:
    """A proxy before an endpoint, and its Record-Route."""
    proxy = await setup.endpoint()
    route = f"<{proxy.uri('edge')};lr>"
    proxy.calls = endpoint.calls
    return proxy, route


def check_route(request: Message, routes: list[str], target: str) -> None:
    assert request.values("Route") == routes
    assert request.uri == target
