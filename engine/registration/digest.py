"""Digest authentication (RFC 7616, RFC 8760 for SIP): challenges and credentials. Pure.

A nonce is signed, not stored, so that every worker with the same secret can verify it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

NONCE_LIFE_S = 300
# By the names of RFC 7616; the stronger one is offered first (RFC 8760 2.4).
ALGORITHMS = {"SHA-256": hashlib.sha256, "MD5": hashlib.md5}
# Each run of letters is read once, whatever its length, because an unknown phone sent it.
_FIELD = re.compile(
    r'(?<![a-zA-Z])([a-zA-Z]++)\s*+=\s*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*)"|([^\s,"]++))\s*+(?:,|$)'
)
_COUNT = re.compile(r"[0-9a-fA-F]{8}")


@dataclass(frozen=True, slots=True)
class Answer:
    """The Authorization of a request. `count` is the nonce count."""

    username: str
    realm: str
    nonce: str
    uri: str
    response: str
    algorithm: str
    cnonce: str
    nc: str

    @property
    def count(self) -> int:
        return int(self.nc, 16)


def read_answer(value: str) -> Answer | None:
    """Parse an Authorization value; None unless it is a complete Digest answer with qop=auth."""
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() != "digest":
        return None
    fields: dict[str, str] = {}
    for name, quoted, bare in _FIELD.findall(rest):
        fields.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or bare)
    algorithm = fields.get("algorithm", "MD5").upper()
    count = fields.get("nc", "")
    if algorithm not in ALGORITHMS or fields.get("qop") != "auth" or not _COUNT.fullmatch(count):
        return None
    try:
        return Answer(
            username=fields["username"],
            realm=fields["realm"],
            nonce=fields["nonce"],
            uri=fields["uri"],
            response=fields["response"].lower(),
            algorithm=algorithm,
            cnonce=fields["cnonce"],
            nc=count,
        )
    except KeyError:
        return None


def ha1(algorithm: str, user: str, realm: str, password: str) -> str:
    """H(user:realm:password), which a line document keeps instead of the password."""
    return ALGORITHMS[algorithm](f"{user}:{realm}:{password}".encode()).hexdigest()


def is_right(answer: Answer, method: str, known_ha1: str) -> bool:
    """Whether the answer was made with the password of `known_ha1` (RFC 7616 3.4.1)."""
    digest = ALGORITHMS[answer.algorithm]
    ha2 = digest(f"{method}:{answer.uri}".encode()).hexdigest()
    whole = f"{known_ha1.lower()}:{answer.nonce}:{answer.nc}:{answer.cnonce}:auth:{ha2}"
    expected = digest(whole.encode()).hexdigest()
    return hmac.compare_digest(expected.encode(), answer.response.encode())


class Nonces:
    """Signs and verifies nonces for a number. All workers share `secret`."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, number: str, now: float) -> str:
        """A nonce for a REGISTER of this number; `now` in unix seconds."""
        made = f"{int(now):08x}{secrets.token_hex(4)}"
        return made + self._sign(made, number)

    def is_ours(self, nonce: str, number: str) -> bool:
        """Whether an engine made it, for this number, at any time."""
        made, signature = nonce[:16], nonce[16:]
        return hmac.compare_digest(self._sign(made, number).encode(), signature.encode())

    def is_fresh(self, nonce: str, now: float) -> bool:
        """Whether a nonce of ours is still fresh."""
        return now - int(nonce[:8], 16) <= NONCE_LIFE_S

    def _sign(self, made: str, number: str) -> str:
        return hmac.new(self._secret, f"{made}:{number}".encode(), "sha256").hexdigest()[:32]


def challenges(realm: str, nonce: str, *, sha256: bool, stale: bool) -> list[str]:
    """The WWW-Authenticate values of a 401, one for each algorithm. SHA-256 is offered only if it
    can be checked: many phones give up at the first unknown algorithm, even if MD5 follows.
    """
    tail = ", stale=true" if stale else ""
    return [
        f'Digest realm="{realm}", nonce="{nonce}", algorithm={name}, qop="auth"{tail}'
        for name in ALGORITHMS
        if sha256 or name != "SHA-256"
    ]


class Guesses:
    """Counts wrong answers by key, to limit password guessing."""

    def __init__(self, most: int, window_s: float = 60.0, keys: int = 100_000) -> None:
        self._most = most
        self._window_s = window_s
        self._keys = keys
        self._counts: dict[str, tuple[float, int]] = {}  # since when, how many

    def wait_s(self, key: str, now: float) -> int:
        """Seconds until this key may try again, 0 if it may now."""
        since, count = self._counts.get(key, (now, 0))
        left = since + self._window_s - now
        return int(left) + 1 if count >= self._most and left > 0 else 0

    def wrong(self, key: str, now: float) -> None:
        """Count a wrong answer."""
        since, count = self._counts.pop(key, (now, 0))
        if now - since > self._window_s:
            since, count = now, 0
        if len(self._counts) >= self._keys:
            del self._counts[next(iter(self._counts))]
        self._counts[key] = since, count + 1
