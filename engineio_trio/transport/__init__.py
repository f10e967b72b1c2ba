"""Where bytes meet Trio: the HTTP front, the stream under trio-websocket, and the two transports of a session."""
