"""Registrations: where a line's phones are, read from the members of `reg:<number>`.

Any program may write there, and the value becomes a Request-URI and a Route header. So only
well-formed contacts are accepted.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from rules.model import DocumentError

# Phones that one call may ring: a registration with hundreds of contacts would turn each call into
# a storm.
MOST_RUNG = 20
FAR_S = 10**11
"""Unix seconds. Another program may write a contact that never expires (+inf); whatever needs a
time takes this one."""
_LONGEST_MEMBER = 1024
_MOST_COMPARED = 100

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?\.?|\[[0-9A-Fa-f:.]{2,45}\])"
# No "?": header fields of a URI would become headers of our INVITE (RFC 3261 19.1.1).
_SIP_URI = re.compile(
    rf"(?i:sips?):(?:[^\s<>\"?@\x00-\x20\x7f-\U0010ffff]+@)?{_HOST}(?::(?P<port>\d{{1,5}}))?"
    r"(?:;[^\s<>\"?@\x00-\x20\x7f-\U0010ffff]*)?"
)
_TEXT = r"\"[^\"\\]*+(?:\\.[^\"\\]*+)*\""
# A name includes the space after it, so that there is one way to parse each value (no
# backtracking).
_PARAMETER = re.compile(rf";([^;\"=]++)(?:=\s*+(?:({_TEXT})\s*+|([^;\"]*+)))?")
_NAMED = re.compile(
    rf"<(?P<uri>[^<>]*)>\s*+(?P<parameters>(?:;[^;\"=]++(?:=\s*+(?:{_TEXT}\s*+|[^;\"]*+))?)*)"
)
# Each hop of a Path is in brackets, so that the content of its URI cannot end it.
_HOP = re.compile(
    rf"\s*+<([^<>]*)>\s*+(?:;[^;\"=,<>]++(?:=\s*+(?:{_TEXT}\s*+|[^;\",<>]*+))?)*(?:,|$)"
)
_PRINTABLE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class Contact:
    """One registered phone.

    Attributes:
        uri: its SIP URI, without brackets.
        path: the Path it registered through, as one or more `<sip:...;lr>` (RFC 3327); or None.
        expires: unix seconds.
        q: preference, 0 to 1.
        instance: the phone's instance id, a URN in brackets (RFC 5626 4.1); "" = none.
        reg_id: which of the phone's flows it is (RFC 5626 4.2); "" = none.
    """

    uri: str
    path: str | None
    expires: float
    q: float = 1.0
    # Identifies the phone, not its address; `engine.registration.bindings` compares it.
    instance: str = field(default="", compare=False)
    reg_id: str = field(default="", compare=False)

    @property
    def first_hop(self) -> str:
        """The URI that a call to it is sent to first."""
        hop = _HOP.match(self.path) if self.path else None
        return hop[1] if hop is not None else self.uri


def read_contacts(
    members: Iterable[tuple[bytes, float]],
    leads_here: Callable[[str], bool] | None = None,
    same_phone: Callable[[Contact, Contact], bool] | None = None,
) -> tuple[tuple[Contact, ...], Sequence[DocumentError]]:
    """The contacts of a registration, preferred first, and the members that were refused.

    Args:
        members: pairs of member and expiry in unix seconds.
        leads_here: whether a URI leads to this engine. Such a contact is refused (its Path counts,
            if it has one), because each call to it would come back as a call to it.
        same_phone: whether two contacts are one phone. Then only the one that expires last is used:
            two would mean two INVITEs for one call.
    """
    contacts, refused = [], []
    for member, expires in members:
        try:
            contact = read_contact(member, expires)
            if leads_here is not None and leads_here(contact.first_hop):
                raise DocumentError("contact", contact.first_hop, "leads to the engine itself")
            contacts.append(contact)
        except DocumentError as error:
            refused.append(error)
    if same_phone is not None and len(contacts) > 1:
        contacts = _distinct(contacts, same_phone)
    contacts.sort(key=lambda contact: (-contact.q, -contact.expires))
    return tuple(contacts), refused


def _distinct(
    contacts: list[Contact], same_phone: Callable[[Contact, Contact], bool]
) -> list[Contact]:
    """Each phone once, by its latest registration."""
    newest = sorted(contacts, key=lambda contact: -contact.expires)
    kept: list[Contact] = []
    for contact in newest[:_MOST_COMPARED]:
        if not any(same_phone(contact, other) for other in kept):
            kept.append(contact)
    return kept + newest[_MOST_COMPARED:]


def groups(contacts: Sequence[Contact]) -> list[Sequence[Contact]]:
    """Contacts to ring, in the order to ring them: those of one q together, the highest q first
    (RFC 3261 16.6). At most MOST_RUNG of them: the preferred, then the newest."""
    if len(contacts) < 2:
        return [contacts] if contacts else []
    return [list(group) for _, group in groupby(contacts[:MOST_RUNG], key=lambda c: c.q)]


def read_contact(member: bytes | str, expires: float) -> Contact:
    """Read a bare URI, or `<URI>;path="<sip:edge;lr>";q=0.5;+sip.instance="<urn:...>";reg-id=1`.
    Other parameters are ignored.

    Raises:
        DocumentError: of field "contact", "path" or "q".
    """
    text = _plain_text(member)
    if not text.startswith("<"):
        return Contact(_uri("contact", text), None, expires)
    named = _NAMED.fullmatch(text)
    if named is None:
        raise DocumentError("contact", text, "is neither a URI nor <URI>;name=value")
    path, q = None, 1.0
    given = {}
    for name, quoted, bare in _PARAMETER.findall(named["parameters"]):
        given[name.strip().lower()] = _bare(quoted) if quoted else bare.strip()
    if "path" in given:
        path = _path(given["path"])
    if "q" in given:
        q = _preference(given["q"])
    instance, reg_id = given.get("+sip.instance", ""), given.get("reg-id", "")
    return Contact(_uri("contact", named["uri"]), path, expires, q, instance, reg_id)


def member_of(contact: Contact) -> str:
    """The member of `reg:<number>` that `read_contact` reads as this contact."""
    given = [f";path={_quoted(contact.path)}"] if contact.path else []
    given += [f";q={contact.q:g}"] if contact.q != 1 else []
    given += [f";+sip.instance={_quoted(contact.instance)}"] if contact.instance else []
    given += [f";reg-id={contact.reg_id}"] if contact.reg_id else []
    return f"<{contact.uri}>{''.join(given)}" if given else contact.uri


def _quoted(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _bare(quoted: str) -> str:
    return re.sub(r"\\(.)", r"\1", quoted[1:-1])


def _plain_text(member: bytes | str) -> str:
    text = member.decode("latin-1") if isinstance(member, bytes) else member
    if len(text) > _LONGEST_MEMBER:
        raise DocumentError("contact", text, f"is over {_LONGEST_MEMBER} characters")
    if not _PRINTABLE.fullmatch(text):
        raise DocumentError("contact", text, "has control or non-ASCII characters")
    return text


def _uri(field: str, text: str) -> str:
    if text[:4].lower() != "sip:" and text[:5].lower() != "sips:":
        raise DocumentError(field, text, "is no sip: or sips: URI")
    if "?" in text:
        raise DocumentError(field, text, "carries header fields (?)")
    found = _SIP_URI.fullmatch(text)
    if found is None or not 0 < int(found["port"] or 5060) < 65_536:
        raise DocumentError(field, text, "is no valid SIP URI")
    return text


def _path(text: str) -> str:
    at = 0
    while at < len(text) or at == 0:
        hop = _HOP.match(text, at)
        if hop is None:
            raise DocumentError("path", text, "is not <URI>, or several with commas")
        _uri("path", hop[1])
        at = hop.end()
    return text


def _preference(text: str) -> float:
    try:
        q = float(text)
    except ValueError:
        q = -1.0
    if not 0 <= q <= 1:
        raise DocumentError("q", text, "is not from 0 to 1")
    return q
