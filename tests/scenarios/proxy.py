"""Proxies on the route, simulated by the scenarios.

A proxy is a socket of the endpoint behind it: messages to it belong to that endpoint's calls, and
`Endpoint.requests` shows which of the two sockets received a request.
"""

from __future__ import annotations

from tests.scenarios.endpoint import Endpoint
from tests.scenarios.message import Message
from tests.scenarios.setup import Setup

# Two proxies without sockets: the engine sends a request only to the first hop.
FAR = "<sip:far.example;lr>"
FURTHER = "<sip:192.0.2.77:5060;lr;x=y>"


async def proxy_of(setup: Setup, endpoint: Endpoint) -> tuple[Endpoint, str]:
    """A proxy in front of an endpoint, and its Record-Route."""
    proxy = await setup.endpoint()
    route = f"<{proxy.uri('edge')};lr>"
    proxy.calls = endpoint.calls
    return proxy, route


def check_route(request: Message, routes: list[str], target: str) -> None:
    assert request.values("Route") == routes
    assert request.uri == target
