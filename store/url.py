"""The forms of `redis.url`, parsed without opening or importing anything.

    redis://[user:password@]host[:port][/database]       rediss:// over TLS
    unix:///path[?db=N&username=U&password=P]
    redis+sentinel://[user:password@]host[:port],...[/]master[/database]     rediss+sentinel://
    redis+cluster://[user:password@]host[:port],...                          rediss+cluster://

Options follow a `?`: `username`, `password`, `sentinel_username`, `sentinel_password`, and over TLS
`ca`, `cert`, `key` (paths of PEM files) and `verify` (true or false).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

SCHEMES = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster",
    "rediss+cluster",
)  # fmt: skip
SENTINEL_PORT, PORT = 26379, 6379
# Names in a URL -> redis-py's.
_TLS = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
_VERIFY = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Place:
    """A parsed URL.

    Attributes:
        shape: "single", "sentinel" or "cluster".
        hosts: of the sentinels, or of some nodes of the cluster; none for a single server.
        url: of a single server, as redis-py takes it.
        master: the master's name for the sentinels.
        settings: redis-py's options: user, password, database, TLS.
        asking: the same for the sentinels themselves.
    """

    shape: str
    hosts: tuple[tuple[str, int], ...] = ()
    url: str = ""
    master: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    asking: dict[str, Any] = field(default_factory=dict)


def read_url(url: str) -> Place:
    """Parse a URL. Raises ValueError with what was expected."""
    parts = _split(url)
    if parts.scheme not in SCHEMES or "://" not in url:
        raise ValueError(f"expected embedded or a URL that begins with {_known()}")
    scheme, _, shape = parts.scheme.partition("+")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    tls = _take_tls(query, scheme == "rediss")
    secret, _, places = parts.netloc.rpartition("@")
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise ValueError("expected the socket's path, as in unix:///run/redis.sock")
    elif not places:
        raise ValueError("expected a host after ://")
    allowed = {"username", "password"}
    allowed |= {"sentinel_username", "sentinel_password"} if shape == "sentinel" else set()
    allowed |= {"db"} if not shape else set()
    if unknown := next((name for name in query if name not in allowed), None):
        raise ValueError(f"unknown option {unknown} after the ?")
    if not shape:
        _host(places, PORT)
        if not query.get("db", "0").isdigit():
            raise ValueError("expected a database's number after db=")
        query |= {name: str(value) for name, value in tls.items()}
        return Place("single", url=_with_query(url, query), settings=tls)
    hosts = tuple(
        _host(place, SENTINEL_PORT if shape == "sentinel" else PORT) for place in places.split(",")
    )
    settings: dict[str, Any] = {**tls, "ssl": True} if scheme == "rediss" else {}
    asking = dict(settings)
    if secret:
        user, colon, password = secret.partition(":")
        settings["password"] = unquote(password if colon else user)
        if colon and user:
            settings["username"] = unquote(user)
    for name, value in query.items():
        if name.startswith("sentinel_"):
            asking[name.removeprefix("sentinel_")] = value
        else:
            settings[name] = value
    if shape == "cluster":
        if parts.path.strip("/") not in ("", "0"):
            raise ValueError("expected no path: a cluster has one database")
        return Place(shape, hosts, settings=settings)
    master, _, database = parts.path.strip("/").partition("/")
    if not master:
        raise ValueError("expected the master's name, as in redis+sentinel://host:26379/mymaster")
    if database and not database.isdigit():
        raise ValueError("expected a database's number after the master's name")
    settings["db"] = int(database or 0)
    return Place(shape, hosts, master=master, settings=settings, asking=asking)


def _split(url: str) -> SplitResult:
    """`urlsplit`; its newer versions allow no other host beside an IPv6 address."""
    scheme, mark, rest = url.partition("://")
    places = re.split("[/?#]", rest, maxsplit=1)[0]
    return urlsplit(f"{scheme}{mark}{rest[len(places) :]}")._replace(netloc=places)


def with_tls(
    url: str, ca: Path | None, certificate: Path | None, key: Path | None, verify: bool
) -> str:
    """The URL with the TLS options that it lacks. A URL without TLS stays as it is."""
    parts = _split(url)
    if not parts.scheme.startswith("rediss"):
        return url
    query = dict(parse_qsl(parts.query))
    for name, path in (("ca", ca), ("cert", certificate), ("key", key)):
        if path is not None:
            query.setdefault(name, str(path))
    if not verify:
        query.setdefault("verify", "false")
    return _with_query(url, query)


def _take_tls(query: dict[str, str], is_tls: bool) -> dict[str, Any]:
    """Remove the TLS options from the query and return them by redis-py's names."""
    settings: dict[str, Any] = {}
    for name, theirs in _TLS.items():
        path = query.pop(name, None)
        if path is None:
            continue
        if not Path(path).is_file():
            raise ValueError(f"expected the path of a file that is there after {name}=")
        settings[theirs] = path
    verify = query.pop("verify", None)
    if verify is not None and verify not in _VERIFY:
        raise ValueError("expected true or false after verify=")
    if not is_tls:
        if settings or verify is not None:
            raise ValueError("expected rediss:// for the options of TLS")
        return {}
    if verify is not None and not _VERIFY[verify]:
        settings |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    return settings


def _host(place: str, port: int) -> tuple[str, int]:
    host, colon, text = place.rpartition("@")[2].rpartition(":")
    if not colon or place.endswith("]"):
        return place.rpartition("@")[2].strip("[]"), port
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ValueError("expected a port from 1 to 65535")
    return host.strip("[]"), int(text)


def _with_query(url: str, query: dict[str, str]) -> str:
    return url.partition("?")[0] + (f"?{urlencode(query)}" if query else "")


def _known() -> str:
    return ", ".join(f"{scheme}://" for scheme in SCHEMES)
