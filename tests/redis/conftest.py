"""A server of each flavour, and a client on it."""

from collections.abc import Iterator

import pytest

from tests.redis import servers


@pytest.fixture(params=servers.FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    """valkey-server, and redis-server where it is installed."""
    return str(request.param)


@pytest.fixture
def redis(flavour: str) -> Iterator[servers.Server]:
    """A server that runs, on a Unix socket."""
    with servers.server(flavour) as server:
        yield server
