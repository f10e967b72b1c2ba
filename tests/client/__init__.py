"""The Trio client: over real sockets, over memory with a clock that jumps, against node."""
