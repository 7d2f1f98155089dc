"""A SIP core of our own in compiled Python, beside the one that serves: docs/core.md tells how far
it has come."""

from sip.core.compiled import search_path

# A module that was compiled out of the tree is found before its Python file.
__path__ = [*search_path(), *__path__]
