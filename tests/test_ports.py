"""The tests' own tool for ports."""

import socket

import pytest

from tests.ports import LOCAL, hold_port


class Owner:
    """Somebody who can be forgotten."""


def test_a_held_port_is_for_servers_that_ask_for_it_alone() -> None:
    owner = Owner()
    port = hold_port(owner)
    for _ in range(2):
        with socket.create_server((LOCAL, port)):
            pass
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((LOCAL, port))
    del owner
    with socket.socket() as other:
        other.bind((LOCAL, port))
