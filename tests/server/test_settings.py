"""What a server cannot be set to is refused when the settings are made, not when the first peer comes."""

import math
from typing import Any

import pytest

from engineio_trio import Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ping_interval", "25"),
        ("ping_interval", True),
        ("ping_interval", None),
        ("max_payload", 1.5),
        ("max_payload", True),
        ("allow_eio3", "no"),
        ("allow_eio3", 1),
    ],
)
def test_a_value_of_another_type(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"Settings.{name} must be of type"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ping_interval", 0),
        ("ping_interval", -1.0),
        ("ping_timeout", math.nan),
        ("ping_timeout", math.inf),
        ("max_connections", 0),
        ("cors_origins", "https://app.example"),
        ("trusted_proxies", "10.0.0.1"),
        ("trusted_proxies", ["nonsense"]),
    ],
)
def test_a_value_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"Settings.{name} must be"):
        Settings(**{name: value})


def test_numbers_may_be_written_either_way() -> None:
    settings = Settings(ping_interval=25, max_payload=1e6)  # type: ignore[arg-type]
    assert (settings.ping_interval, settings.max_payload) == (25, 1_000_000)
    assert type(settings.max_payload) is int
