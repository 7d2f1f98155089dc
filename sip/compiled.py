"""Which build of the core runs: compiled by Cython, or the Python files.

The extensions of a checkout are outside the tree, in a directory named after a digest of their
sources, so that an outdated one is never loaded. In an installed wheel they are beside their source
files, and this module is not needed. This file is never compiled, because `setup.py` reads it
first.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The compiled modules. The rest is Python: native.py replaces native.pxd if nothing is compiled.
MODULES = (
    "grammar", "message", "timers", "transaction", "udp", "dialog", "leg", "incoming", "outgoing",
    "exchange", "bye", "screening", "layer",
)  # fmt: skip
# For tests only: "python" uses the Python files, compiled or not.
SWITCH = "RENVOI_SIP_CORE"


def digest() -> str:
    """A digest of the sources for this interpreter."""
    hashed = hashlib.blake2b(digest_size=12)
    for name in ("native.pxd", *(f"{module}.py" for module in MODULES)):
        source = HERE / name
        hashed.update(name.encode() + b"\0" + (source.read_bytes() if source.exists() else b""))
    return f"{hashed.hexdigest()}-{sys.implementation.cache_tag}"


def directory() -> Path:
    """The directory of the extensions of the present sources, if they were built."""
    return HERE.parent / "build" / "core" / digest()


def search_path() -> list[str]:
    """The directories to search for the modules of this package before its own."""
    if os.environ.get(SWITCH) == "python":
        return []
    found = directory()
    return [str(found)] if found.is_dir() else []


def is_in_force() -> bool:
    """Whether imports load the compiled modules, not their Python files."""
    spec = importlib.util.find_spec("sip.layer")
    return bool(spec and spec.origin and spec.origin.endswith(tuple(EXTENSION_SUFFIXES)))


def serving() -> str:
    """The build that takes calls: "compiled" or "python"."""
    return "compiled" if is_in_force() else "python"


def words() -> str:
    """`serving` as a message."""
    if is_in_force():
        return "the SIP core is compiled"
    return (
        "the SIP core is not compiled, so that calls cost several times the CPU "
        "(it needs a C compiler and Python's headers, then make install)"
    )
