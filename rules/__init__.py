"""What should happen to a call. Pure: frozen data and functions, no I/O."""
