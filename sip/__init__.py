"""SIP calls as events and actions, on PJSIP's dialog layer. Knows nothing of forwarding rules."""
