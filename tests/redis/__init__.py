"""The Redis transport against real servers: valkey-server from a wheel and, where it is installed, redis-server."""
