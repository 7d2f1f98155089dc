"""SIP calls as events and actions, on a core of our own in compiled Python (docs/core.md). Knows
nothing of forwarding rules."""

from sip.compiled import search_path

# A module that was compiled out of the tree is found before its Python file.
__path__ = [*search_path(), *__path__]
