"""Sippy B2BUA as a forwarding server: the smallest fair application of Sippy's own classes.

Runs in a virtual environment of its own (requirements.txt), not in Renvoi's. It is what Sippy's
`b2bua_simple` and `b2bua` do (a call map, a controller of two user agents a call, a list of routes
tried in turn), with the called line's forwards from Redis, kept for a minute in memory. Signalling
only, no RTP proxy. One line of accounting a call on standard output.

    python sippy_b2bua.py HOST PORT REDIS_PORT PEER
"""

import sys
import time

import redis
from sippy.CCEvents import CCEventDisconnect, CCEventFail, CCEventTry
from sippy.Core.EventDispatcher import ED2
from sippy.SipConf import SipConf
from sippy.SipContact import SipContact
from sippy.SipLogger import SipLogger
from sippy.SipTransactionManager import SipTransactionManager
from sippy.UA import UA
from sippy.Udp_server import Udp_server_opts

FIELDS = ("fleet", "contact", "unconditional", "busy", "no_answer", "after_ms", "unreachable")
KEEP_S = 60.0
PRE_RINGING_S = 5.0
MAX_RING_S = 180.0
BUSY = (486, 600, 603)
UNREACHABLE = (404, 408, 410)


class Rules:
    """The forwards of lines: a hash in Redis each, remembered for a minute."""

    def __init__(self, port):
        self._redis = redis.Redis(host="127.0.0.1", port=port, decode_responses=True)
        self._kept = {}

    def of(self, number):
        """Field -> value of the line, None when there is no such line."""
        found = self._kept.get(number)
        if found is not None and found[0] > time.monotonic():
            return found[1]
        values = self._redis.hmget(f"rules:{number}", FIELDS)
        line = dict(zip(FIELDS, values, strict=True)) if values[0] is not None else None
        self._kept[number] = (time.monotonic() + KEEP_S, line)
        return line


def contact():
    """A Contact without a display name, which SIPp would take for part of the URI."""
    made = SipContact()
    made.address.name = None
    return made


class Controller:
    """One call: the caller's agent and that of the callee that is tried now."""

    def __init__(self, config, rules):
        self._config, self._rules = config, rules
        self.caller = UA(config, self.on_event, disc_cbs=(self.ended,), fail_cbs=(self.ended,))
        self.caller.lContact = contact()
        self._callee = None
        self._try = None
        self._line = None
        self._rang = False

    def on_event(self, event, agent):
        if agent is self.caller:
            self._from_caller(event)
        elif agent is self._callee:
            self._from_callee(event)

    def _from_caller(self, event):
        if self._callee is not None:
            self._callee.recvEvent(event)
            return
        if not isinstance(event, CCEventTry):
            self.caller.recvEvent(CCEventDisconnect())
            return
        self._try = event
        number = event.getData()[2]
        self._line = self._rules.of(number)
        if self._line is None:
            self.caller.recvEvent(CCEventFail((404, "Not Found")))
        elif self._line["unconditional"]:
            self._forward("unconditional")
        elif not self._line["contact"]:
            self._forward("unreachable")
        else:
            after_ms = self._line["after_ms"] if self._line["no_answer"] else None
            self._dial(self._line["contact"], int(after_ms) / 1000 if after_ms else MAX_RING_S)

    def _from_callee(self, event):
        if isinstance(event, (CCEventFail, CCEventDisconnect)) and not self.caller.isConnected():
            condition = self._condition(event)
            if condition and self._line and self._line.get(condition):
                self._forward(condition)
                return
        elif not isinstance(event, (CCEventFail, CCEventDisconnect)):
            self._rang = True
        self.caller.recvEvent(event)

    def _condition(self, event):
        code = event.getData()[0] if isinstance(event, CCEventFail) else None
        if code in BUSY:
            return "busy"
        if code is None or code == 480:  # its time ran out
            return "no_answer" if self._rang else "unreachable"
        return "unreachable" if code in UNREACHABLE or 500 <= code < 600 else None

    def _forward(self, condition):
        target, self._line = self._line.get(condition), None  # one forward a call
        if not target:
            self.caller.recvEvent(CCEventFail((480, "Temporarily Unavailable")))
            return
        self._dial(target, MAX_RING_S)

    def _dial(self, uri, ring_s):
        user, _, place = uri.removeprefix("sip:").partition("@")
        host, _, port = place.partition(":")
        call_id, caller, _called, body, _auth, name = self._try.getData()
        self._callee = UA(
            self._config,
            self.on_event,
            nh_address=(host, int(port or 5060)),
            expire_time=ring_s,
            no_progress_time=PRE_RINGING_S + ring_s,
        )
        self._callee.lContact = contact()
        body = body.getCopy() if body is not None else None
        attempt = CCEventTry((call_id + f"-{id(self._callee):x}", caller, user, body, None, name))
        if self._try.max_forwards is not None:
            attempt.max_forwards = self._try.max_forwards - 1
        self._callee.recvEvent(attempt)

    def ended(self, agent, *_):
        duration_s, delay_s, connected, _over = agent.getAcct()
        call_id, caller, called, *_ = self._try.getData() if self._try else ("", "", "")
        print(
            f"{time.time():.3f} {call_id} {caller} {called} {connected} {delay_s} {duration_s}",
            flush=True,
        )


class CallMap:
    """Takes requests that belong to no call yet."""

    def __init__(self, config, rules, peer):
        self._config, self._rules, self._peer = config, rules, peer

    def on_request(self, request, transaction):
        if request.getHFBody("to").getTag() is not None:
            return (request.genResponse(481, "Call Leg/Transaction Does Not Exist"), None, None)
        if request.getMethod() == "INVITE":
            if request.getSource()[0] != self._peer:
                return (request.genResponse(403, "Forbidden"), None, None)
            return Controller(self._config, self._rules).caller.recvRequest(request, transaction)
        if request.getMethod() == "OPTIONS":
            return (request.genResponse(200, "OK"), None, None)
        return (request.genResponse(501, "Not Implemented"), None, None)


def main():
    host, port, redis_port, peer = sys.argv[1:]
    SipConf.my_uaname = "Sippy B2BUA"
    # With its usual three threads a socket, a 200 overtakes the 180 before it and SIPp gives up.
    Udp_server_opts.nworkers = 1
    config = {
        "nh_addr": (host, 5060),
        "_sip_address": host,
        "_sip_port": int(port),
        "_sip_logger": SipLogger("b2bua"),
    }
    calls = CallMap(config, Rules(int(redis_port)), peer)
    config["_sip_tm"] = SipTransactionManager(config, calls.on_request)
    ED2.loop()


if __name__ == "__main__":
    main()
