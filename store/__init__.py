"""Redis: the one place that knows its keys, its shapes and how it fails."""
