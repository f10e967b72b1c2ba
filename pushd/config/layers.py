"""The layers of the configuration, before anybody asks whether they make sense: file, environment, flags.

`collect` merges them into one tree and remembers where each value came from, so that a mistake can be reported with its
place. `options` lists every key of the models, for variable names and for the documentation.
"""

import dataclasses
import difflib
import enum
import json
import re
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from pushd.errors import ConfigError

ENV_PREFIX = "PUSHD_"
FLAGS: Mapping[str, str] = {
    "devices.listen": "--listen",
    "admin.listen": "--admin",
    "store.url": "--store",
    "auth.kind": "--auth",
    "node.workers": "--workers",
    "node.name": "--node",
}
"""The settings that have a flag of `pushdctl serve`, by their path."""

_OTHER_VARIABLES = re.compile(
    r"PUSHD_(FAILPOINT|ADMIN|ADMIN_TOKEN"  # for the fault tests, and for the commands that talk to a daemon
    r"|((?!\w*__)\w+_)?(SERVICE_(HOST|PORT\w*)|PORT(_\w+)?))"  # set by Kubernetes for a Service named pushd or pushd-x
)


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One key of the configuration: its dotted path, its type in words, its default and its meaning."""

    path: str
    type: str
    default: Any
    meaning: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENV_PREFIX + self.path.upper().replace(".", "__")

    @property
    def secret(self) -> bool:
        """Whether its value must not be shown."""
        return isinstance(self.default, SecretStr) or self.path == "auth.custom.options"


@dataclasses.dataclass(frozen=True, slots=True)
class Layers:
    """What was found: the merged tree, the origin of each path that was set, and problems of form."""

    tree: dict[str, Any] = dataclasses.field(default_factory=dict)
    origins: dict[str, str] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)

    def origin(self, path: str) -> str:
        """Where the value at a path came from: its own origin, or that of the table around it or of a key in it."""
        for outer in (path, *_tables_of(path)):
            if outer in self.origins:
                return self.origins[outer]
        return next((origin for inner, origin in self.origins.items() if inner.startswith(path + ".")), "default")

    def put(self, path: str, value: Any, origin: str) -> None:
        """Set one key, unless a lower layer has put something else than a table where its table should be."""
        *tables, key = path.split(".")
        place = self.tree
        for name in tables:
            inner = place.setdefault(name, {})
            if not isinstance(inner, dict):
                return  # reported when the models see it
            place = inner
        place[key] = value
        self.origins[path] = origin


def options(model: type[BaseModel], prefix: str = "") -> Iterator[Option]:
    """Every key of a model and of the sections in it, in the order of the source."""
    for name, field in model.model_fields.items():
        path, default = prefix + name, field.default
        if isinstance(default, BaseModel):
            yield from options(type(default), path + ".")
        else:
            yield Option(path, _type_in_words(field.annotation, default), default, field.description or "")


def collect(model: type[BaseModel], file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Layers:
    """The layers above the defaults, merged. `flags` has dotted paths; a flag's text is read like a variable's.

    Raises ConfigError if the file cannot be read: nothing else can be said before that is mended.
    """
    layers = Layers()
    known = {option.path: option for option in options(model)}
    if file is not None:
        for path, value in _flatten(_read_file(file), known):
            layers.put(path, value, str(file))
    variables = {option.variable: option for option in known.values()}
    for name, text in sorted(environ.items()):
        if name in variables:
            option = variables[name]
            layers.put(option.path, _from_text(text, option.default), f"environment {name}")
        elif name.startswith(ENV_PREFIX) and not _OTHER_VARIABLES.fullmatch(name):
            layers.problems.append(f"{name}: no such setting{did_you_mean(name, variables)} (environment)")
    for path, value in flags.items():
        if isinstance(value, str) and path in known:
            value = _from_text(value, known[path].default)
        layers.put(path, value, f"flag {FLAGS[path]}" if path in FLAGS else "override")
    return layers


def related(path: str, other: str) -> bool:
    """Whether two paths are the same, or one is a table that the other stands in."""
    return path == other or path in _tables_of(other) or other in _tables_of(path)


def _tables_of(path: str) -> list[str]:
    """The tables around a path, innermost first: `a.b` and `a` for `a.b.c`."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` when a known word is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f'; did you mean "{close[0]}"?' if close else ""


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text (byte {error.start})"
    except ValueError as error:
        problem = f"is not TOML: {error}"
    raise ConfigError([f"{file}: {problem}"])


def _flatten(table: Mapping[str, Any], known: Mapping[str, Option], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A file's tables as (path, value); an empty table, and one that is itself a setting's value, stays whole."""
    for key, value in table.items():
        path = prefix + key
        if isinstance(value, dict) and value and path not in known:
            yield from _flatten(value, known, path + ".")
        else:
            yield path, value


def _from_text(text: str, default: Any) -> Any:
    """A variable's or flag's text as the type of the setting; text that does not fit is left for the models to refuse.

    A list is JSON or `a,b`; a table is JSON.
    """
    if isinstance(default, str | SecretStr):
        return text
    if isinstance(default, tuple) and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return json.loads(text.lower() if isinstance(default, bool) else text)
    except ValueError:
        return text


def _type_in_words(annotation: Any, default: Any) -> str:
    if isinstance(default, bool):
        return "boolean"
    if isinstance(default, enum.Enum):
        return " or ".join(f'"{member.value}"' for member in type(default))
    if isinstance(default, tuple):
        inner = _choices(typing.get_args(annotation)[0])
        return f"list of {inner or 'strings'}"
    names = {int: "integer", float: "number", dict: "table", str: "string", SecretStr: "string (secret)"}
    return _choices(annotation) or names[type(default)]


def _choices(annotation: Any) -> str:
    if typing.get_origin(annotation) is not typing.Literal:
        return ""
    return " or ".join(f'"{choice}"' for choice in typing.get_args(annotation))
