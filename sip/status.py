"""Reason phrases of the engine's own responses (RFC 3261 21 and its extensions)."""

from __future__ import annotations

PHRASES = {
    100: b"Trying", 180: b"Ringing", 181: b"Call Is Being Forwarded", 182: b"Queued",
    183: b"Session Progress", 199: b"Early Dialog Terminated", 200: b"OK", 202: b"Accepted",
    204: b"No Notification", 300: b"Multiple Choices", 301: b"Moved Permanently",
    302: b"Moved Temporarily", 305: b"Use Proxy", 380: b"Alternative Service",
    400: b"Bad Request", 401: b"Unauthorized", 402: b"Payment Required", 403: b"Forbidden",
    404: b"Not Found", 405: b"Method Not Allowed", 406: b"Not Acceptable",
    407: b"Proxy Authentication Required", 408: b"Request Timeout", 410: b"Gone",
    413: b"Request Entity Too Large", 414: b"Request-URI Too Long",
    415: b"Unsupported Media Type", 416: b"Unsupported URI Scheme", 420: b"Bad Extension",
    421: b"Extension Required", 422: b"Session Interval Too Small", 423: b"Interval Too Brief",
    428: b"Use Identity Header", 429: b"Provide Referrer Identity", 433: b"Anonymity Disallowed",
    436: b"Bad Identity-Info", 437: b"Unsupported Certificate", 438: b"Invalid Identity Header",
    480: b"Temporarily Unavailable", 481: b"Call/Transaction Does Not Exist",
    482: b"Loop Detected", 483: b"Too Many Hops", 484: b"Address Incomplete", 485: b"Ambiguous",
    486: b"Busy Here", 487: b"Request Terminated", 488: b"Not Acceptable Here",
    489: b"Bad Event", 491: b"Request Pending", 493: b"Undecipherable",
    500: b"Server Internal Error", 501: b"Not Implemented", 502: b"Bad Gateway",
    503: b"Service Unavailable", 504: b"Server Timeout", 505: b"Version Not Supported",
    513: b"Message Too Large", 580: b"Precondition Failure", 600: b"Busy Everywhere",
    603: b"Decline", 604: b"Does Not Exist Anywhere", 606: b"Not Acceptable", 607: b"Unwanted",
    608: b"Rejected",
}  # fmt: skip


def line(code: int, phrase: bytes = b"") -> bytes:
    """A status line, with its line end."""
    return b"SIP/2.0 %d %s\r\n" % (code, phrase or PHRASES.get(code, b"-"))


CHALLENGES = (401, 407)  # never passed on


def passed_on(code: int) -> int:
    """The code with which a response of one side reaches the other. A 503 concerns the hop that
    sent it: whoever gets it sends nothing more to this engine for its Retry-After (RFC 3261 16.7,
    21.5.4). So does a challenge, which does not cross; a 401 or 407 without it is invalid (20.27,
    20.44)."""
    if code in CHALLENGES:
        return 403
    return 500 if code == 503 else code


LINES = {code: line(code) for code in PHRASES}
