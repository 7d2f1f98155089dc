"""A phone on PJSIP (pjsua2), an independent SIP stack, in its own process.

It executes commands in JSON lines on its standard input and reports events as JSON lines on its
standard output (softphone.py is the other end of both). It needs no sound card and echoes the
received audio.

PJSIP also prints to standard output, so events use a separate descriptor, the first argument.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import Any

import orjson
import pjsua2

TURN_MS = 10
WORDS = {1: "calling", 2: "called", 3: "early", 4: "connecting", 5: "confirmed", 6: "ended"}


class Phone:
    """One account and its calls; `plans` are the answers by called user: delays in seconds and
    codes. A call to another user waits for a command."""

    def __init__(self, events: int, host: str, transport: str) -> None:
        self._events = events
        self.calls: dict[int, Call] = {}
        self.plans: dict[str, list[tuple[float, int]]] = {}
        self.due: list[tuple[float, Call, int]] = []
        self.over: list[Call | None] = []
        self.endpoint = pjsua2.Endpoint()
        self.endpoint.libCreate()
        config = pjsua2.EpConfig()
        config.uaConfig.threadCnt = 0
        config.uaConfig.mainThreadOnly = True
        config.logConfig.level = config.logConfig.consoleLevel = 0
        config.medConfig.noVad = True
        self.endpoint.libInit(config)
        self.endpoint.audDevManager().setNullDev()
        where = pjsua2.TransportConfig()
        where.boundAddress = host
        kind = pjsua2.PJSIP_TRANSPORT_TCP if transport == "tcp" else pjsua2.PJSIP_TRANSPORT_UDP
        self.transport = self.endpoint.transportCreate(kind, where)
        self.endpoint.libStart()
        shown = self.endpoint.transportGetInfo(self.transport).localName
        self.host, _, self.port = shown.rpartition(":")
        self.account = Account(self)
        self.enrol({"number": "phone"})
        self.tell("ready", port=int(self.port))

    def tell(self, event: str, **fields: Any) -> None:
        """Report an event; the bytes of a message as Latin-1 characters."""
        if "message" in fields:
            raw = fields["message"].encode("utf-8", "surrogateescape")
            fields["message"] = raw.decode("latin-1")
        os.write(self._events, orjson.dumps({"event": event, **fields}) + b"\n")

    def enrol(self, given: dict[str, Any]) -> None:
        """Take this number; with a server, register there."""
        config = pjsua2.AccountConfig()
        server = given.get("server", f"{self.host}:{self.port}")
        config.idUri = f"<sip:{given['number']}@{server.partition(';')[0]}>"
        config.sipConfig.transportId = self.transport
        config.mediaConfig.transportConfig.boundAddress = self.host
        config.callConfig.timerUse = pjsua2.PJSUA_SIP_TIMER_OPTIONAL
        config.callConfig.prackUse = pjsua2.PJSUA_100REL_OPTIONAL
        if "server" in given:
            config.regConfig.registrarUri = f"sip:{server}"
            config.regConfig.timeoutSec = 120
            credentials = pjsua2.AuthCredInfo("digest", "*", given["user"], 0, given["password"])
            config.sipConfig.authCreds.append(credentials)
        if self.account.isValid():
            self.account.modify(config)
        else:
            self.account.create(config)

    def obey(self, given: dict[str, Any]) -> None:
        """Execute one command: `do`, and its arguments. `call` is the number of a call, by default
        the only one."""
        what = given["do"]
        if what == "enrol":
            self.enrol(given)
        elif what == "echo":
            self.tell("echo")
        elif what == "plan":
            self.plans.update({user: list(plan) for user, plan in given["plans"].items()})
        elif what == "dial":
            call = Call(self)
            call.makeCall(given["uri"], pjsua2.CallOpParam(True))
            self.calls[call.getId()] = call
        else:
            number = given.get("call")
            call = self.calls[number] if number is not None else list(self.calls.values())[-1]
            call.obey(what, given)

    def run(self) -> None:
        """Until standard input ends."""
        waiting = b""
        while True:
            self.over.clear()
            self.endpoint.libHandleEvents(TURN_MS)
            now = time.monotonic()
            for item in [item for item in self.due if item[0] <= now]:
                self.due.remove(item)
                item[1].answer_with(item[2])
            if not select.select([0], [], [], 0)[0]:
                continue
            data = os.read(0, 65536)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                try:
                    self.obey(orjson.loads(line))
                except pjsua2.Error as error:
                    self.tell("error", text=error.info())

    def close(self) -> None:
        self.calls.clear()
        self.account.shutdown()
        self.endpoint.libDestroy()


class Account(pjsua2.Account):  # type: ignore[misc]  # the bindings carry no types
    def __init__(self, phone: Phone) -> None:
        super().__init__()
        self._phone = phone

    def onRegState(self, prm: Any) -> None:  # noqa: N802
        self._phone.tell("registered", code=prm.code)

    def onIncomingCall(self, prm: Any) -> None:  # noqa: N802
        phone, call = self._phone, Call(self._phone, prm.callId)
        phone.calls[prm.callId] = call
        at = time.monotonic()
        phone.tell("incoming", call=prm.callId, message=prm.rdata.wholeMsg, at=at)
        target = prm.rdata.wholeMsg.split(" ", 2)[1]  # not To, which is that of the first line
        user = target.partition(":")[2].partition("@")[0]
        for delay_s, code in phone.plans.get(user, ()):
            at += delay_s
            phone.due.append((at, call, code))


class Call(pjsua2.Call):  # type: ignore[misc]
    def __init__(self, phone: Phone, number: int = pjsua2.PJSUA_INVALID_ID) -> None:
        super().__init__(phone.account, number)
        self._phone = phone

    def answer_with(self, code: int) -> None:
        if self._phone.calls.get(self.getId()) is self:
            prm = pjsua2.CallOpParam()
            prm.statusCode = code
            self.answer(prm)

    def obey(self, what: str, given: dict[str, Any]) -> None:
        prm = pjsua2.CallOpParam()
        if what == "answer":
            self.answer_with(given.get("code", 200))
        elif what == "hangup":
            prm.statusCode = given.get("code", 0)
            self.hangup(prm)
        elif what == "hold":
            self.setHold(prm)
        elif what == "resume":
            prm = pjsua2.CallOpParam(True)  # with sound
            prm.opt.flag = pjsua2.PJSUA_CALL_UNHOLD
            self.reinvite(prm)
        elif what == "digits":
            self.dialDtmf(given["digits"])
        elif what == "transfer":
            self.xfer(given["uri"], prm)
        elif what == "heard":
            got = self.getStreamStat(0).rtcp.rxStat.pkt
            self._phone.tell("heard", call=self.getId(), packets=got)

    def onCallState(self, prm: Any) -> None:  # noqa: N802
        info = self.getInfo()
        word = WORDS.get(info.state, str(info.state))
        self._phone.tell(word, call=info.id, code=info.lastStatusCode, reason=info.lastReason)
        if word == "ended":
            # Freed in the next turn, not while it is calling us.
            self._phone.over.append(self._phone.calls.pop(info.id, None))

    def onCallTsxState(self, prm: Any) -> None:  # noqa: N802
        event = prm.e.body.tsxState
        if event.type == pjsua2.PJSIP_EVENT_TX_MSG:
            self._phone.tell("sent", call=self.getId(), message=event.src.tdata.wholeMsg)

    def onCallMediaState(self, prm: Any) -> None:  # noqa: N802
        info = self.getInfo()  # what it holds goes with it
        for index, media in enumerate(info.media):
            if media.status == pjsua2.PJSUA_CALL_MEDIA_ACTIVE:
                sound = self.getAudioMedia(index)
                sound.startTransmit(sound)
                self._phone.tell("media", call=self.getId())
            else:
                self._phone.tell("held", call=self.getId())

    def onDtmfDigit(self, prm: Any) -> None:  # noqa: N802
        self._phone.tell("digit", call=self.getId(), digit=prm.digit)

    def onCallTransferStatus(self, prm: Any) -> None:  # noqa: N802
        self._phone.tell("transfer", call=self.getId(), code=prm.statusCode, last=prm.finalNotify)


def main() -> None:
    """Arguments: the descriptor for events, the host to be on, the transport."""
    phone = Phone(int(sys.argv[1]), sys.argv[2], sys.argv[3])
    try:
        phone.run()
    finally:
        phone.close()


if __name__ == "__main__":
    main()
