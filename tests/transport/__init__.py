"""Where bytes meet Trio, by raw bytes over memory streams."""
