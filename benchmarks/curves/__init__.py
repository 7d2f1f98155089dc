"""What a call costs as the engine grows, drawn: standing calls, lines, workers, forwards, Redis."""
