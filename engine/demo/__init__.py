"""`renvoi demo`: real calls through a real engine, each compared with what is expected."""
