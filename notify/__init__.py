"""Notifications: webhooks and e-mails about calls and forwards, sent by a process of their own."""
