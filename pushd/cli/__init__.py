"""The command `pushdctl`: what may be typed (`program`), and what talks to a running daemon (`commands`)."""

from pushd.cli.program import main as main
