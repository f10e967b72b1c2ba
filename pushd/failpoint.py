"""Places where a test may kill the daemon: between any two side effects that must survive being torn apart.

`PUSHD_FAILPOINT=name:exit` ends the process, as `kill -9` would, the first time it passes `failpoint("name")`;
`name:exit:N` the Nth time. Unset, a failpoint is a call of an empty function.
"""

import os
from collections.abc import Callable
from typing import Final

VARIABLE: Final = "PUSHD_FAILPOINT"
EXIT_CODE: Final = 137  # what a shell says of a process that SIGKILL ended


def parse(setting: str) -> tuple[str, int]:
    """The name and the passing (from 1) of `name:exit` or `name:exit:N`. Raises ValueError."""
    name, _, action = setting.partition(":")
    verb, _, passing = action.partition(":")
    if not name or verb != "exit" or not (passing or "1").isdecimal() or passing == "0":
        raise ValueError(f"{VARIABLE} must be name:exit or name:exit:N, not {setting!r}")
    return name, int(passing or "1")


def make(setting: str) -> Callable[[str], None]:
    """The function that `failpoint` is, for a value of the environment variable (empty: one that does nothing)."""
    if not setting:
        return _nothing
    target, left = parse(setting)

    def count_down(name: str) -> None:
        nonlocal left
        if name == target:
            left -= 1
            if left == 0:
                os._exit(EXIT_CODE)

    return count_down


def _nothing(name: str) -> None:
    pass


failpoint: Final = make(os.environ.get(VARIABLE, ""))
