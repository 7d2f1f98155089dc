"""SIPp scenarios, written as lists of steps and rendered to the XML that SIPp reads.

Everything in square brackets is SIPp's own (`[branch]`, `[last_Via:]`, ...).
"""

from __future__ import annotations

from collections.abc import Sequence

OFFER = """v=0
o=caller 7461 1 IN IP4 192.0.2.10
s=-
c=IN IP4 192.0.2.10
t=0 0
m=audio 40000 RTP/AVP 8 96 101
a=rtpmap:96 x-future-codec/48000/2
a=fmtp:96 mode=7;unheard-of=yes
a=rtpmap:101 telephone-event/8000
a=x-private:kept  as it  is
m=video 40002 UDP/TLS/RTP/SAVPF 120
a=rtpmap:120 AV9/90000
"""
ANSWER = """v=0
o=phone 99 3 IN IP4 192.0.2.20
s=-
c=IN IP4 192.0.2.20
t=0 0
m=audio 50000 RTP/AVP 96
a=rtpmap:96 x-future-codec/48000/2
a=silenceSupp:off - - - -
m=video 0 UDP/TLS/RTP/SAVPF 120
"""
VIA = "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]"
TAG = ";tag=[pid]S[call_number]"
# 181, 199 and any number of ringing messages may come before the answer
PROVISIONAL = (100, 180, 181, 183, 199)


def render(steps: Sequence[str]) -> str:
    """The XML of a whole scenario."""
    head = '<?xml version="1.0" encoding="UTF-8" ?>\n<scenario name="renvoi">'
    return "\n".join([head, *steps, "</scenario>", ""])


def send(lines: Sequence[str], body: str = "", *, repeat: bool = False) -> str:
    """One message out; `repeat` retransmits it until it is answered."""
    tail = ["Content-Length: [len]", "", body] if body else ["Content-Length: 0", "", ""]
    text = "\n".join([*(line for line in lines if line), *tail])
    flags = ' retrans="500"' if repeat else ""
    return f"<send{flags}><![CDATA[\n{text}]]></send>"


def receive(what: int | str, *, optional: bool = False, route: bool = False) -> str:
    """Expect a response of that code or a request of that method."""
    kind = "response" if isinstance(what, int) else "request"
    flags = ' optional="true"' if optional else ""
    flags += ' rrs="true"' if route else ""
    return f'<recv {kind}="{what}"{flags}/>'


def pause(seconds: float) -> str:
    """Pause for this time."""
    return f'<pause milliseconds="{int(seconds * 1000)}"/>'


# The calling side


def invite(called: str, caller: str, headers: Sequence[str] = (), body: str = OFFER) -> str:
    """The first INVITE of a call."""
    return send(
        [
            f"INVITE sip:{called}@[remote_ip]:[remote_port] SIP/2.0",
            VIA,
            f'From: "Caller" <sip:{caller}@caller.example>;tag=[pid]C[call_number]',
            f"To: <sip:{called}@office.example>",
            "Call-ID: [call_id]",
            "CSeq: 1 INVITE",
            f"Contact: <sip:{caller}@[local_ip]:[local_port]>",
            "Max-Forwards: 70",
            *headers,
            "Content-Type: application/sdp" if body else "",
        ],
        body,
        repeat=True,
    )


def within(method: str, called: str, caller: str, cseq: int) -> list[str]:
    """The lines of a caller's request inside the dialog."""
    return [
        f"{method} [next_url] SIP/2.0",
        VIA,
        f'From: "Caller" <sip:{caller}@caller.example>;tag=[pid]C[call_number]',
        f"To: <sip:{called}@office.example>[peer_tag_param]",
        "[routes]",
        "Call-ID: [call_id]",
        f"CSeq: {cseq} {method}",
        "Max-Forwards: 70",
    ]


def provisional() -> list[str]:
    """The responses that may come before the final one."""
    return [receive(code, optional=True) for code in PROVISIONAL]


def answered_call(
    called: str,
    caller: str,
    *,
    headers: Sequence[str] = (),
    body: str = OFFER,
    talk_s: float = 0.05,
    ends: str = "caller",
) -> str:
    """A caller that is answered; `ends` is the side that hangs up: "caller" or "callee"."""
    steps = [
        invite(called, caller, headers, body),
        *provisional(),
        receive(200, route=True),
        send(within("ACK", called, caller, 1)),
    ]
    if ends == "caller":
        steps += [
            pause(talk_s),
            send(within("BYE", called, caller, 2), repeat=True),
            receive(200),
        ]
    else:
        steps += [receive("BYE"), send(reply("200 OK"))]
    return render(steps)


def refused_call(called: str, caller: str, code: int, *, headers: Sequence[str] = ()) -> str:
    """A caller that is refused with exactly that code."""
    return render(
        [
            invite(called, caller, headers),
            *provisional(),
            receive(code),
            send(refusal_ack(called, caller)),
        ]
    )


def cancelled_call(called: str, caller: str, *, after: int) -> str:
    """A caller that cancels as soon as a response of code `after` has arrived."""
    cancel = [
        f"CANCEL sip:{called}@[remote_ip]:[remote_port] SIP/2.0",
        "[last_Via:]",
        f'From: "Caller" <sip:{caller}@caller.example>;tag=[pid]C[call_number]',
        f"To: <sip:{called}@office.example>",
        "Call-ID: [call_id]",
        "CSeq: 1 CANCEL",
        "Max-Forwards: 70",
    ]
    before = [receive(code, optional=True) for code in PROVISIONAL if code != after]
    return render(
        [
            invite(called, caller),
            *before,
            receive(after),
            send(cancel, repeat=True),
            *provisional(),
            receive(200),
            receive(487),
            send(refusal_ack(called, caller)),
        ]
    )


def refusal_ack(called: str, caller: str) -> list[str]:
    """The ACK of a refusal, with the Via of the INVITE from the refusal."""
    return [
        f"ACK sip:{called}@[remote_ip]:[remote_port] SIP/2.0",
        "[last_Via:]",
        f'From: "Caller" <sip:{caller}@caller.example>;tag=[pid]C[call_number]',
        "[last_To:]",
        "Call-ID: [call_id]",
        "CSeq: 1 ACK",
        "Max-Forwards: 70",
    ]


# The called side


def reply(status: str, *, tag: bool = False, headers: Sequence[str] = ()) -> list[str]:
    """The lines of a response to the request received last; `tag` adds this side's To tag."""
    return [
        f"SIP/2.0 {status}",
        "[last_Via:]",
        "[last_Record-Route:]",
        "[last_From:]",
        f"[last_To:]{TAG if tag else ''}",
        "[last_Call-ID:]",
        "[last_CSeq:]",
        "Contact: <sip:phone@[local_ip]:[local_port]>",
        *headers,
    ]


def answering_phone(
    *, rings_s: float = 0.0, body: str = ANSWER, headers: Sequence[str] = (), ends: str = "caller"
) -> str:
    """A phone (or voicemail, fax, gateway) that rings, answers, and waits for BYE or sends it."""
    steps = [
        receive("INVITE"),
        send(reply("180 Ringing", tag=True)),
        # A pause of zero may block SIPp forever.
        *([pause(rings_s)] if rings_s else []),
        send(
            reply("200 OK", tag=True, headers=[*headers, "Content-Type: application/sdp"]),
            body,
            repeat=True,
        ),
        receive("ACK", route=ends == "callee"),
    ]
    if ends == "caller":
        steps += [receive("BYE"), send(reply("200 OK"))]
    else:
        bye = [
            "BYE [next_url] SIP/2.0",
            VIA,
            f"From: [$2]{TAG}",
            "To: [$1]",
            "Call-ID: [call_id]",
            "CSeq: 77 BYE",
            "Max-Forwards: 70",
        ]
        steps[0] = '<recv request="INVITE" rrs="true"><action>' + (
            '<ereg regexp="[^ ].*" search_in="hdr" header="From:" assign_to="1"/>'
            '<ereg regexp="[^ ].*" search_in="hdr" header="To:" assign_to="2"/></action></recv>'
        )
        steps[-1] = receive("ACK")
        steps += [pause(0.05), send(bye, repeat=True), receive(200)]
    return render(steps)


def refusing_phone(
    status: str, *, after: Sequence[str] = (), headers: Sequence[str] = (), delay_s: float = 0.05
) -> str:
    """A phone that sends the provisional answers `after`, then refuses with `status`."""
    steps = [receive("INVITE")]
    for provisional_status in after:
        steps += [send(reply(provisional_status, tag=True)), pause(delay_s)]
    steps += [
        send(reply(status, tag=True, headers=headers), repeat=True),
        receive("ACK"),
    ]
    return render(steps)


def cancelled_phone(*, after: Sequence[str] = ("180 Ringing",)) -> str:
    """A phone that sends those provisional answers and is then cancelled by the engine."""
    keep = (
        '<recv request="INVITE"><action><ereg regexp="[0-9]+ INVITE" search_in="hdr" '
        'header="CSeq:" assign_to="1"/></action></recv>'
    )
    gone = [
        "CSeq: [$1]" if line == "[last_CSeq:]" else line
        for line in reply("487 Request Terminated", tag=True)
    ]
    return render(
        [
            keep,
            *(send(reply(status, tag=True)) for status in after),
            receive("CANCEL"),
            send(reply("200 OK", tag=True)),
            send(gone, repeat=True),
            receive("ACK"),
        ]
    )
