"""Values of configuration keys: each function reads one value and raises ValueError saying what
was expected. None of them opens, resolves or creates anything.
"""

from __future__ import annotations

import ipaddress
import math
import re
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import phonenumbers

from rules.notify import is_address
from rules.plan import has_country_code, is_country
from store.url import read_url

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

TRANSPORTS = ("udp", "tcp", "tls")
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?")
_PREFIX = re.compile(r"\+[1-9][0-9]{0,14}")
_LONGEST_NAME = 253  # characters (RFC 1035 2.3.4)
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
# A URI that is copied into a request: no blanks, quotes, brackets or control characters.
_URI_TEXT = re.compile(r"""[^\s<>"`\\^|\x00-\x20\x7f]+""")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a TCP server. `host` is an IP address, IPv6 without brackets; port 0 = any."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def reached_here(self, place: int = 0) -> Address:
        """The address at which this machine reaches the server, or the one `place` ports above
        it."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        return Address(everywhere.get(self.host, self.host), self.port + place)


@dataclass(frozen=True, slots=True)
class Listen:
    """A SIP listening address. `transport`: udp, tcp or tls; `host` and `port` as in Address."""

    transport: str
    host: str
    port: int

    @property
    def ipv6(self) -> bool:
        return ":" in self.host

    def __str__(self) -> str:
        return f"{self.transport}:{Address(self.host, self.port)}"


def shown(value: object) -> str:
    """A value for an error message: one line, at most 120 characters, without the password of a
    URL, which may be anywhere, as under a misspelt key."""
    text = without_secret(repr(value))
    return text if len(text) <= 120 else text[:117] + "..."


def text(value: Any) -> str:
    if not isinstance(value, str):
        hint = ", put it in quotes" if isinstance(value, bool | int | float) else ""
        raise ValueError(f"expected a string{hint}")
    return value


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    return read


def seconds(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        number = not isinstance(value, bool) and isinstance(value, int | float)
        if not number or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"expected a number of seconds from {low} to {high}")
        return float(value)

    return read


def share(value: Any) -> float:
    """A part of the whole, from 0 to 1."""
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not number or not 0 <= value <= 1:  # a NaN fails both comparisons
        raise ValueError("expected a number from 0 to 1")
    return float(value)


def zero_or(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        whole_number = isinstance(value, int) and not isinstance(value, bool)
        if not whole_number or not (value == 0 or low <= value <= high):
            raise ValueError(f"expected 0, or whole seconds from {low} to {high}")
        return int(value)

    return read


def zero_or_seconds(low: float, high: float) -> Callable[[Any], float]:
    """0 = never."""
    between = seconds(low, high)

    def read(value: Any) -> float:
        if value == 0 and not isinstance(value, bool):
            return 0.0
        try:
            return between(value)
        except ValueError:
            raise ValueError(f"expected 0, or a number of seconds from {low} to {high}") from None

    return read


def one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return str(value)

    return read


def optional(read: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else read(value)


def several(read: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    def read_all(value: Any) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError("expected a list")
        result = []
        for item in value:
            try:
                result.append(read(item))
            except ValueError as error:
                raise ValueError(f"{error}, item {shown(item)}") from None
        return tuple(result)

    return read_all


def host(value: Any) -> str:
    """A host name or an IP address; IPv6 with or without brackets, kept without."""
    name = text(value)
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    # An invalid IPv4 address would only fail later, in a DNS look-up.
    is_name = _HOST_NAME.fullmatch(name) and len(name) <= _LONGEST_NAME
    if bare != name or not is_name or name.replace(".", "").isdigit():
        raise ValueError("expected a host name or an IP address")
    return name


def address(value: Any) -> Address:
    """`host:port`, the host an IP address (an IPv6 one in brackets)."""
    wanted = "expected IPv4:port or [IPv6]:port"
    name, colon, port = text(value).rpartition(":")
    bracketed = name.startswith("[") and name.endswith("]")
    try:
        ip = ipaddress.ip_address(name[1:-1] if bracketed else name)
    except ValueError:
        raise ValueError(wanted) from None
    if not colon or bracketed != (ip.version == 6):
        raise ValueError(wanted)
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{wanted}, the port from 0 (any free one) to 65535")
    return Address(str(ip), int(port))


def nameserver(value: Any) -> Address:
    """`address` or `address:port`; the default port is 53."""
    bare = text(value)
    try:
        return Address(str(ipaddress.ip_address(bare)), 53)
    except ValueError:
        return address(bare)


def capture_server(value: Any) -> Address:
    """`udp:address:port`."""
    transport, _, rest = text(value).partition(":")
    if transport != "udp":
        raise ValueError("expected udp:address:port, such as udp:10.0.0.5:9060")
    where = address(rest)
    if where.port == 0:
        raise ValueError("expected a port from 1 to 65535")
    return where


def http_url(value: Any) -> str:
    """http://host:port, without user and password."""
    url = text(value)
    wanted = "expected http://host:port or https://host:port"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(wanted) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(wanted)
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{wanted}, keys go into OTEL_EXPORTER_OTLP_HEADERS")
    return url


def mailbox(value: Any) -> str:
    """The address of a mailbox, without a name."""
    if not is_address(text(value)):
        raise ValueError("expected an e-mail address such as renvoi@example.com")
    return str(value)


nameservers = several(nameserver)


def listen(value: Any) -> Listen:
    """`transport:host:port`."""
    transport, _, rest = text(value).partition(":")
    if transport not in TRANSPORTS:
        raise ValueError(
            "expected transport:address:port, such as udp:127.0.0.1:5080, "
            f"with transport one of {', '.join(TRANSPORTS)}"
        )
    where = address(rest)
    return Listen(transport, where.host, where.port)


def listens(value: Any) -> tuple[Listen, ...]:
    """At least one listening address."""
    result = several(listen)(value)
    if not result:
        raise ValueError("expected at least one address to listen on")
    return result


def short_number(value: Any) -> str:
    number = text(value)
    if not (number.isascii() and number.isdigit() and len(number) <= 6):
        raise ValueError('expected up to 6 digits in quotes, such as "888"')
    return number


def network(value: Any) -> Network:
    try:
        return ipaddress.ip_network(text(value))
    except ValueError:
        raise ValueError("expected a network such as 10.0.0.0/8 (no host bits set)") from None


networks = several(network)


def sip_uri(value: Any) -> str:
    uri = text(value)
    scheme, _, rest = uri.partition(":")
    if scheme.lower() not in ("sip", "sips") or not _URI_TEXT.fullmatch(rest):
        raise ValueError("expected a SIP URI such as sip:10.0.0.1:5060;lr")
    where = rest.partition("?")[0].partition(";")[0].rpartition("@")[2]
    name, colon, port = where.rpartition(":")
    if not colon or where.endswith("]"):
        name, port = where, ""
    elif not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535:
        raise ValueError("expected a SIP URI with a port from 1 to 65535")
    try:
        host(_PLACEHOLDER.sub("0a", name))  # a template may use the number in the host's name
    except ValueError:
        raise ValueError("expected a SIP URI with a host") from None
    if ":" in name and not name.startswith("["):
        raise ValueError("expected a SIP URI with its IPv6 address in brackets")
    return uri


def template(value: Any) -> str:
    """A SIP URI with the placeholders {number} and {national}."""
    for placeholder in _PLACEHOLDER.findall(text(value)):
        if placeholder not in ("{number}", "{national}"):
            raise ValueError(f"unknown placeholder {placeholder}, known: {{number}}, {{national}}")
    if set(_PLACEHOLDER.sub("", value)) & set("{}"):
        raise ValueError("a brace is not closed or not opened")
    return sip_uri(value)


def quotable(value: Any) -> str:
    """Text that is valid between quotes in a header (RFC 3261 25.1)."""
    realm = text(value)
    if not realm or not realm.isprintable() or set(realm) & set('"\\'):
        raise ValueError("expected printable text without quotes or backslashes")
    return realm


def country(value: Any) -> str:
    code = text(value)
    if code not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError("expected a country's two letters, such as FR")
    return code


def forward_country(value: Any) -> str:
    if value is False:  # YAML 1.1 reads NO as false
        raise ValueError('expected a country in quotes, such as "NO" for Norway')
    code = text(value)
    if not is_country(code):
        raise ValueError("expected a country's two letters, such as FR, or 001 for no country")
    return code


countries = several(forward_country)


def number_prefix(value: Any) -> str:
    """A prefix of numbers in E.164."""
    prefix = text(value)
    if not _PREFIX.fullmatch(prefix) or not has_country_code(prefix):
        raise ValueError('expected + and the first digits of a number, such as "+33700"')
    return prefix


def timezone(value: Any) -> str:
    try:
        zoneinfo.ZoneInfo(text(value))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("expected a time zone such as Europe/Paris") from None
    return str(value)


def redis_url(value: Any) -> str:
    url = text(value)
    if url != "embedded":
        try:
            read_url(url)
        except ValueError as error:
            # urlsplit's error shows the text, which may contain a password.
            shown_safely = str(error) if str(error).startswith(("expected", "unknown")) else ""
            raise ValueError(shown_safely or "expected a URL") from None
    return url


def file(value: Any) -> Path:
    wanted = "expected the path of a file that is there"
    try:
        path = Path(text(value)).expanduser()
        is_there = path.is_file()
    except OSError as error:  # a directory on its way may not be entered
        raise ValueError(f"{wanted}: {error.strerror}") from None
    except RuntimeError:
        raise ValueError(f"{wanted}, of a user that there is") from None
    if not is_there:
        raise ValueError(wanted)
    return path


def directory(value: Any) -> Path:
    path = text(value)
    if not path or "\x00" in path:
        raise ValueError("expected a directory")
    return Path(path)


def without_secret(url: Any) -> str:
    """A Redis URL with its user and password left out."""
    return re.sub(r"(password=)[^&]*", r"\1***", re.sub(r"//.*@", "//***@", str(url)))
