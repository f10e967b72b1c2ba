"""The configuration as text: what is in force and where it came from, and the reference page of every key."""

import enum
import json
from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr

from pushd.config import Config, Loaded
from pushd.config.layers import FLAGS, Option, options
from pushd.store.redis.address import without_password

_HEAD = """\
# Configuration

`pushdctl serve` reads, each over the one before: the defaults below, the TOML file of `--config`, the environment,
the flags. A key that does not exist or a value that makes no sense stops it with exit code 2 before any port is bound,
with every mistake in one list. `pushdctl check-config` looks without starting; `pushdctl show-config` prints what is
in force and where each value came from.

The variable of a key is `PUSHD_`, the section, `__`, the key: `PUSHD_STORE__URL`, `PUSHD_AUTH__HMAC__SECRET`. A list in
a variable is `a,b` or JSON; a table is JSON. Times are in seconds, sizes in bytes. File names are relative to the
working directory.

This page is made from `pushd/config/sections.py`; to make it again:
`python -m pushd.config.reference > docs/config.md`.
"""


def effective(config: Config) -> dict[str, Any]:
    """Every setting as plain JSON values by section, secrets as `"***"`."""
    tree: dict[str, Any] = {}
    for option in options(Config):
        *tables, key = option.path.split(".")
        place = tree
        for table in tables:
            place = place.setdefault(table, {})
        place[key] = _plain(option, _value(config, option.path))
    return tree


def as_toml(loaded: Loaded) -> str:
    """Every setting in force as TOML that can be read again (but for the secrets), each with its origin."""
    lines: list[str] = []
    section = ""
    for option in options(Config):
        table, _, key = option.path.rpartition(".")
        if table != section:
            lines += ["", f"[{table}]"] if lines else [f"[{table}]"]
            section = table
        value = _literal(_plain(option, _value(loaded.config, option.path)))
        lines.append(f"{key} = {value}  # {loaded.layers.origin(option.path)}")
    return "\n".join(lines) + "\n"


def reference() -> str:
    """The page `docs/config.md`: every key with its type, default, meaning, variable and flag."""
    return _HEAD + "".join(_tables())


def _tables() -> Iterator[str]:
    section = ""
    for option in options(Config):
        table, _, key = option.path.rpartition(".")
        if table != section:
            yield f"\n## [{table}]\n\n| key | type | default | meaning |\n|---|---|---|---|\n"
            section = table
        flag = f" Flag `{FLAGS[option.path]}`." if option.path in FLAGS else ""
        default = _literal(_plain(option, option.default, masked=False))
        yield f"| `{key}` | {option.type} | `{default}` | {option.meaning}.{flag} |\n"


def _value(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _plain(option: Option, value: Any, masked: bool = True) -> Any:
    """A setting as a JSON value; a secret that is set as `***`, and a URL without its password."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if option.secret and masked:
        return dict.fromkeys(value, "***") if isinstance(value, dict) else "***" * bool(value)
    if option.path.endswith(".url"):
        return without_password(value)
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _literal(value: Any) -> str:
    """A JSON value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_literal(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    import sys

    sys.stdout.write(reference())
