"""Which build of the core is in force: compiled by Cython, or the Python files themselves.

The extensions of a checkout lie outside the tree, in a directory whose name is a digest of their
sources, so that one whose source has changed is never found. In an installed wheel they lie beside
the files they were made of, and nothing here is needed. This file is never compiled: `setup.py`
reads it before anything else is there.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What is compiled. The rest is Python: native.py is what native.pxd does where nothing is compiled.
MODULES = (
    "grammar", "message", "timers", "transaction", "udp", "dialog", "leg", "incoming", "outgoing",
    "exchange", "bye", "door", "layer",

)  # fmt: skip
# For tests only: "own" serves with this core, "python" does so with its Python files.
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
    return HERE.parents[1] / "build" / "core" / digest()


def search_path() -> list[str]:
    """Where to look for the modules of this package before its own directory."""
    if os.environ.get(SWITCH) == "python":
        return []
    found = directory()
    return [str(found)] if found.is_dir() else []
