"""The protocol floor: bytes and values in, bytes and values out. No trio, no clock, no logging."""
