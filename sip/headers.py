"""What crosses the B2BUA, and the headers that tell of a diversion. Pure functions on bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from sip import grammar
from sip.grammar import name_addr, parameter, parameters, split_list
from sip.message import Message

# Belongs to the hop, to the dialog or to the transaction (RFC 3261 8.1.1, 12.2, 22): made anew for
# each leg. Everything else passes, known or not. Challenges and credentials are the hop's (22.3).
HOP = frozenset(
    b"via from to call-id cseq contact max-forwards route record-route path service-route "
    b"content-length content-type timestamp rseq rack "
    b"authorization proxy-authorization www-authenticate proxy-authenticate "
    b"authentication-info proxy-authentication-info proxy-require".split()
)
# These grow with each forward.
STORY = frozenset((b"diversion", b"history-info"))
# RFC 3325 9.1: an asserted identity that its owner wants private stays inside the trust domain.
_NONE: frozenset[bytes] = frozenset()
IDENTITY = frozenset((b"p-asserted-identity", b"p-preferred-identity", b"remote-party-id"))

# Reliability is each leg's own: who asks for it and who gets it is said anew (reliable.py).
_OPTIONS = re.compile(rb"^(supported|k|require)[ \t]*:(.*)$", re.IGNORECASE | re.MULTILINE)

OUTSIDE_HOP = HOP | IDENTITY

_LONGEST_RSEQ = 10  # digits: 2**31 - 1
_INDEX = re.compile(rb"[0-9.]{1,256}")
_CAUSE_PARAM = re.compile(rb"(?:[;?&]|%3B)\s*cause(?:=|%3D)\s*\d{3}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Diverted:
    """One forward of this call: what the next leg's headers must tell.

    `line` is the forwarding line's number in E.164; `reason` and `cause` as in domain.md 2.
    """

    line: str
    reason: str
    cause: int


def user_of(value: bytes) -> str:
    """The user of the SIP URI, or the number of the tel URI, in a header value; "" without one. Of
    a Request-URI, which is no header value, it is told by `grammar.user_of`."""
    return grammar.user_of(name_addr(value).uri)


def without_tag(value: bytes) -> bytes:
    """A From or To value without its tag and other parameters of the header."""
    return name_addr(value).shown


def q850_cause(message: Message | None) -> int | None:
    """The ISUP cause of the Reason header (RFC 3326), None without one."""
    if message is None or message.head.lower().find(b"reason") < 0:
        return None
    for value in entries(message, b"reason"):
        protocol, semicolon, rest = value.partition(b";")
        if protocol.strip().upper() == b"Q.850":
            cause = parameters(semicolon + rest).get(b"cause", b"")
            if cause.isdigit() and len(cause) <= 3:
                return int(cause)
    return None


def reason_field(message: Message | None) -> bytes:
    """The whole first Reason header field, to be passed on; empty without one."""
    if message is None or message.head.lower().find(b"reason") < 0:
        return b""
    value = message.first(b"reason")
    return b"Reason: " + value if value else b""


def entries(message: Message, name: bytes) -> list[bytes]:
    """The comma-separated entries of every `name` header, in order."""
    values = message.values(name)
    return [entry for value in values for entry in split_list(value)] if values else []


def diversions(message: Message) -> int:
    """How often the call was forwarded before it came here: the larger of what Diversion
    (RFC 5806, with its counters) and History-Info (RFC 7044, entries with a cause) tell."""
    if message.first(b"diversion") is None and message.first(b"history-info") is None:
        return 0
    by_diversion = 0
    for entry in entries(message, b"diversion"):
        counter = parameter(entry, b"counter") or b""
        by_diversion += max(1, int(counter[:9])) if counter.isdigit() else 1
    told = [name_addr(entry).uri for entry in entries(message, b"history-info")]
    by_history = sum(1 for uri in told if _CAUSE_PARAM.search(uri))
    return max(by_diversion, by_history)


ANONYMOUS = b'"Anonymous" <sip:anonymous@anonymous.invalid>'


def caller_shown(message: Message, *, trusted: bool) -> bytes:
    """The From of a new leg: as received, or anonymous towards a phone when the caller withholds
    the number (RFC 3323 4.1.1.3)."""
    if not trusted and is_private(message):
        return ANONYMOUS
    return without_tag(message.first(b"from") or b"")


def is_private(message: Message) -> bool:
    """Whether the caller withholds the number (RFC 3323, RFC 3325)."""
    return message.first(b"privacy") is not None and any(
        word.strip().lower() in (b"id", b"user", b"header", b"session", b"critical")
        for value in message.values(b"privacy")
        for word in value.replace(b",", b";").split(b";")
    )


def has_option(message: Message, name: bytes, tag: bytes) -> bool:
    """Whether the header `name` (Supported, Require ...) lists the option `tag`."""
    return message.first(name) is not None and any(
        word.strip().lower() == tag for value in message.values(name) for word in value.split(b",")
    )


def unsupported(message: Message, name: bytes, known: frozenset[bytes]) -> bytes:
    """The option tags that the header `name` asks for and are not `known`, for Unsupported."""
    if message.first(name) is None:
        return b""
    words = (word.strip() for value in message.values(name) for word in value.split(b","))
    return b", ".join(word for word in words if word and word.lower() not in known)


def requires_100rel(message: Message) -> bool:
    return message.head.find(b"100rel") >= 0 and has_option(message, b"require", b"100rel")


def supports_100rel(message: Message) -> bool:
    return has_option(message, b"supported", b"100rel") or requires_100rel(message)


def rseq(message: Message) -> int:
    """The RSeq of a reliable provisional response (RFC 3262 7.1), 0 if it is not reliable."""
    value = message.first(b"rseq")
    if value is None or not value.isdigit() or not requires_100rel(message):
        return 0
    return int(value) if len(value) <= _LONGEST_RSEQ else 0


def rack(message: Message) -> tuple[int, int, bytes] | None:
    """The RAck of a PRACK (RFC 3262 7.2): RSeq, CSeq number and method; None without a valid one.
    """
    words = (message.first(b"rack") or b"").split()
    if len(words) != 3 or not all(w.isdigit() and len(w) <= _LONGEST_RSEQ for w in words[:2]):
        return None
    return int(words[0]), int(words[1]), words[2]


def tag_of(value: bytes) -> bytes:
    """The tag parameter of a From or To value, empty without one."""
    return parameter(value, b"tag") or b""


def uri_of(value: bytes) -> bytes:
    """The URI of a Contact value, empty if there is none between angle brackets or bare."""
    return name_addr(value).uri


def crossing(
    message: Message,
    *,
    to_trusted: bool = True,
    also_not: frozenset[bytes] = _NONE,
    keep_100rel: bool = False,
) -> bytes:
    """The header fields of `message` that go on to the other side, as text.

    An identity that its owner withholds does not leave the trust domain, and one that comes from
    outside is not believed (RFC 3325 5, 9.1).
    """
    hop = HOP
    if message.untrusted or (not to_trusted and is_private(message)):
        hop = OUTSIDE_HOP
    if also_not:
        hop |= also_not
    text = message.passing(hop)
    return text if keep_100rel or text.find(b"100rel") < 0 else _without_100rel(text)


def _without_100rel(text: bytes) -> bytes:
    def rewrite(line: re.Match[bytes]) -> bytes:
        words = [word.strip() for word in line[2].split(b",")]
        kept = [word for word in words if word.lower() != b"100rel"]
        return line[1] + b": " + b", ".join(kept) if kept else b""

    lines = _OPTIONS.sub(rewrite, text.replace(b"\r\n", b"\n")).split(b"\n")
    return b"\r\n".join(line for line in lines if line)


def voicemail_parameters(mailbox_uri: str, cause: int) -> str:
    """RFC 4458 2: the mailbox and the reason, as parameters of the voicemail's Request-URI."""
    return f";target={quote(mailbox_uri, safe='')};cause={cause}"




def invite_block(
    message: Message,
    *,
    trusted: bool,
    diverted: list[Diverted],
    target: str,
    host: str,
    reliable: bool = False,
    extra: bytes = b"",
) -> bytes:
    """The header text of a new leg's INVITE: what passes, and the story of the forwards so far.

    `target` is the new leg's Request-URI, `host` the domain of the forwarding line's address.
    An untrusted leg (a phone) is not told an identity that its owner withholds. `reliable` offers
    100rel: a caller who requires it gets it from the engine if need be, so that it is only offered.
    `extra` holds header fields of the engine's own.
    """
    # Who forwarded the call before it came here may give a caller away who withholds the number.
    hidden = not trusted and is_private(message)
    before = [] if hidden else entries(message, b"history-info")
    parts: list[bytes] = []
    for done in reversed(diverted):
        told = f"<sip:{done.line}@{host}>;reason={done.reason};counter=1;privacy=off"
        parts.append(b"Diversion: " + told.encode())
    if not hidden:
        parts += [b"Diversion: " + entry for entry in entries(message, b"diversion")]
    parts += [b"History-Info: " + entry for entry in history(before, diverted, target, host)]
    required = reliable and requires_100rel(message)
    passing = crossing(
        message, to_trusted=trusted, also_not=STORY, keep_100rel=reliable and not required
    )
    if passing:
        parts.append(passing)
    if required:
        parts.append(b"Supported: 100rel")
    if extra:
        parts.append(extra)
    return b"\r\n".join(parts)


def history(
    received: list[bytes], diverted: list[Diverted], target: str, host: str
) -> list[bytes]:
    """The History-Info entries of a new leg (RFC 7044 9, 10.3): those received, one for each line
    that forwarded, and the new target with the `cause` of the last forward (RFC 4458 as
    RFC 7544 uses it). A leg that no forward led to passes what it received."""
    if not diverted:
        return received
    given = [parameter(entry, b"index") or b"" for entry in received]
    indexes = [index.rstrip(b".") for index in given if _INDEX.fullmatch(index)]
    told = list(received)
    index = indexes[-1] if indexes else b""
    for hop_number, done in enumerate(diverted):
        if hop_number == 0 and index:
            # The last entry received is the address by which the call came to this line.
            continue
        index = index + b".1" if index else b"1"
        cause = f";cause={diverted[hop_number - 1].cause}" if hop_number else ""
        told.append(f"<sip:{done.line}@{host}{cause}>;index=".encode() + index)
    last = diverted[-1]
    uri = target if ";cause=" in target else f"{target};cause={last.cause}"
    told.append(f"<{uri}>;index=".encode() + index + b".1")
    return told
