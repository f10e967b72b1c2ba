"""What a measurement needs and the repository does not hold: the compiled generator, node's and Python's peers.

Everything is made under build/bench, once, and again when what it is made from changes.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.wire.javascript import find_node

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "bench"
COMPILERS = ("cc", "gcc", "clang")


class NotHere(Exception):
    """Something that a measurement needs is missing on this machine; the text says what, and what to do."""


def generator() -> Path:
    """The load generator's program, compiled if need be. Raises NotHere without a compiler."""
    program = BUILD / "load"
    sources = sorted((HERE / "load").glob("*.[ch]"))
    if _is_old(program, sources):
        units = [str(source) for source in sources if source.suffix == ".c"]
        compile_c(["-O2", "-std=c11", "-Wall", "-Wextra"], units, program)
    return program


def compile_c(options: Sequence[str], units: Sequence[str], product: Path) -> None:
    """Compile C files into `product`. Raises NotHere without a compiler, or with its words if it does not compile."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise NotHere("there is no C compiler on PATH (cc, gcc, clang); on Debian or Ubuntu: apt install gcc libc6-dev")
    product.parent.mkdir(parents=True, exist_ok=True)
    fresh = product.with_suffix(f".{os.getpid()}")
    _run([compiler, *options, "-o", str(fresh), *units], product.parent)
    fresh.rename(product)  # at once, so that two runs do not meet


def node_peer() -> list[str]:
    """The command of node's server; its packages are installed from the lock file. Raises NotHere without node."""
    node = find_node()
    npm = shutil.which("npm")
    if node is None or npm is None:
        raise NotHere("there is no node 18 or newer with npm on PATH: run `make js`, then `make bench`")
    source, home = HERE / "peers" / "node", BUILD / "node"
    stamp = home / ".installed"
    if _is_old(stamp, list(source.iterdir())):
        shutil.copytree(source, home, dirs_exist_ok=True)
        _run([npm, "ci", "--silent"], home)
        stamp.touch()
    return [node, str(home / "server.mjs")]


def python_peer() -> list[str]:
    """The command of python-socketio's server, in a virtual environment of its own with pinned requirements."""
    requirements, home = HERE / "peers" / "requirements.txt", BUILD / "venv"
    stamp = home / ".installed"
    python = str(home / "bin" / "python")
    if _is_old(stamp, [requirements]):
        _run([sys.executable, "-m", "venv", "--clear", str(home)], HERE)
        _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)], HERE)
        stamp.touch()
    return [python, str(HERE / "peers" / "python_socketio.py")]


def our_peer() -> list[str]:
    """The command of our own server."""
    return [sys.executable, "-m", "tests.bench.peers.ours"]


def _is_old(product: Path, sources: Sequence[Path]) -> bool:
    return not product.exists() or any(source.stat().st_mtime > product.stat().st_mtime for source in sources)


def _run(command: Sequence[str], directory: Path) -> None:
    ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NotHere(f"`{' '.join(command)}` failed:\n{ran.stdout}{ran.stderr}")
