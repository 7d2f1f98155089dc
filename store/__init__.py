"""Redis: its keys, its deployments and its failures. No other package handles them."""
