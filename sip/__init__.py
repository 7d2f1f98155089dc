"""SIP calls as events and actions, on a core of our own. Knows nothing of forwarding rules."""
