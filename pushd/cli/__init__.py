"""The command `pushdctl`: what may be typed (`program`), and what talks to a running daemon (`commands`)."""

from collections.abc import Sequence

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pushdctl` with these arguments (default: the process's own) and return its exit code."""
    try:
        from pushd.cli.program import main as run  # it takes a moment: an impatient Ctrl-C shall be quiet, too

        return run(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
