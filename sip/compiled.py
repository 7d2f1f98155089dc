"""Which build of the core is in force: compiled by Cython, or the Python files themselves.

The extensions of a checkout lie outside the tree, in a directory whose name is a digest of their
sources, so that one whose source has changed is never found. In an installed wheel they lie beside
the files they were made of, and nothing here is needed. This file is never compiled: `setup.py`
reads it before anything else is there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What is compiled. The rest is Python: native.py is what native.pxd does where nothing is compiled.
MODULES = (
    "grammar", "message", "timers", "transaction", "udp", "dialog", "leg", "incoming", "outgoing",
    "exchange", "bye", "new_requests", "layer",
)  # fmt: skip
# For tests only: "python" serves with the Python files, compiled or not.
SWITCH = "RENVOI_SIP_CORE"


def digest() -> str:
    """A name for what the sources say, for this interpreter."""
    told = hashlib.blake2b(digest_size=12)
    for name in ("native.pxd", *(f"{module}.py" for module in MODULES)):
        source = HERE / name
        told.update(name.encode() + b"\0" + (source.read_bytes() if source.exists() else b""))
    return f"{told.hexdigest()}-{sys.implementation.cache_tag}"


def directory() -> Path:
    """Where the extensions made of the sources as they are now lie, if they were made."""
    return HERE.parent / "build" / "core" / digest()


def search_path() -> list[str]:
    """Where to look for the modules of this package before its own directory."""
    if os.environ.get(SWITCH) == "python":
        return []
    found = directory()
    return [str(found)] if found.is_dir() else []


def is_in_force() -> bool:
    """Whether the compiled modules are what is imported, not their Python files."""
    spec = importlib.util.find_spec("sip.layer")
    return bool(spec and spec.origin and spec.origin.endswith(tuple(EXTENSION_SUFFIXES)))


def serving() -> str:
    """Which build takes calls: "compiled" or "python"."""
    return "compiled" if is_in_force() else "python"


def words() -> str:
    """`serving` for people."""
    if is_in_force():
        return "the SIP core is compiled"
    return (
        "the SIP core is not compiled, so that calls cost several times the CPU "
        "(it needs a C compiler and Python's headers, then make install)"
    )
