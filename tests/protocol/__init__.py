"""The protocol floor, without I/O."""
