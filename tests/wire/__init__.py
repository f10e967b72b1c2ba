"""Real sockets: the JavaScript client, node's server as a reference, and recorded conversations."""
