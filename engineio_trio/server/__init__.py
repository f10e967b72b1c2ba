"""The server: what one connection owns, what namespaces and rooms share, and the listeners in front."""
