"""The server, by hand-made clients over memory streams."""
