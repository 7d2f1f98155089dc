"""What the engine tells those who run it: metrics, logs, traces."""
