"""The errors that pushd raises on its own account."""

from collections.abc import Sequence


class PushdError(Exception):
    """The base of every error that pushd raises on its own account."""


class ConfigError(PushdError):
    """The configuration is wrong. `problems` has every mistake at once, one `path: what is wrong` line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class AuthRejected(PushdError):
    """The authenticator knows the answer, and it is no. The text is for the client's developer."""


class AuthUnavailable(PushdError):
    """The authenticator could not find out: its service is down or too slow. Never to be read as a no."""


class StoreUnavailable(PushdError):
    """The store cannot answer now. The outcome of a write is unknown; every write is safe to send again."""


class StoreBusy(PushdError):
    """The store belongs to somebody else: another daemon has the file open, or its settings differ from ours."""


class StaleEpoch(PushdError):
    """The device has been bound anew: whoever holds the older epoch can change nothing any more."""


class BadRequest(PushdError):
    """What a service asked for makes no sense; the text says which field and why. It loses nothing but itself."""
