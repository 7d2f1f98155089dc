"""The SIP core in compiled Python: docs/core.md."""

from sip.core.compiled import search_path

# A module that was compiled out of the tree is found before its Python file.
__path__ = [*search_path(), *__path__]
