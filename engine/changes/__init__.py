"""Changes of lines: one or a million, logged, and proved to be in force."""
