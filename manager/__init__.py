"""The customer's page and REST API: a process of its own, `renvoi manager` (docs/manager.md)."""
