"""The SIP stack: calls as events and actions, in compiled Python (docs/core.md). Does not depend on
forwarding rules."""

from sip.compiled import search_path

# Compiled modules outside the tree take precedence over their Python files.
__path__ = [*search_path(), *__path__]
