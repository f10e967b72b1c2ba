"""The servers that are compared: the same two handlers, each with its library's usual settings."""
