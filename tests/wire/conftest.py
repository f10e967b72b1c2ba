"""Fixtures of the wire tests: the JavaScript client and node's reference server."""

from collections.abc import AsyncIterator

import pytest

from tests.wire.javascript import JavaScriptClient, javascript_client, reference_server


@pytest.fixture
async def js() -> AsyncIterator[JavaScriptClient]:
    """A node process with the real `socket.io-client`, for one test."""
    async with javascript_client() as client:
        yield client


@pytest.fixture
async def node_url() -> AsyncIterator[str]:
    """The address of node's own server, with its default settings."""
    async with reference_server() as server:
        yield f"http://127.0.0.1:{server['port']}"
