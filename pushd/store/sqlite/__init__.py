"""The embedded store: one SQLite file, one process, nothing to install.

`worker` owns a connection and its thread; `streams`, `bindings`, `messages` and `devices` are synchronous functions
over one transaction; `store` puts them behind the domain interface.
"""
