"""The command `pushdctl`: what may be typed (`program`), and what talks to a running daemon (`commands`)."""

import sys
from collections.abc import Sequence

INCOMPLETE = 1
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pushdctl` with these arguments (default: the process's own) and return its exit code."""
    try:
        from pushd.cli.program import main as run  # it takes a moment: an impatient Ctrl-C shall be quiet, too

        return run(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as error:  # the library alone is installed without what only the daemon needs
        package = (error.name or "").partition(".")[0]
        if package in ("", "engineio_trio", "pushd"):
            raise
        sys.stderr.write(f"pushdctl: {package} is not installed: pip install 'engineio-trio[pushd]' brings it\n")
        return INCOMPLETE
