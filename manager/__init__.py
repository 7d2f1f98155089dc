"""The customer's page and REST API, in a separate process: `renvoi manager` (docs/manager.md)."""
