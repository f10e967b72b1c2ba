"""Running the load generator: its arguments, and its one line of JSON."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench import provision, servers

PATIENCE = 30.0  # seconds beyond the generator's own limit


class LoadFailed(Exception):
    """The generator could not do its work; the text is what it complained of."""


def start(
    mode: str, port: int, connections: int, keys: Mapping[str, object], pids: Sequence[int], processor: int | None
) -> "subprocess.Popen[str]":
    """The generator at work. Its modes and keys are explained by `build/bench/load` without arguments."""
    words = [str(provision.generator()), mode, str(port), str(connections), f"pids={','.join(map(str, pids))}"]
    words += [f"{key}={value}" for key, value in keys.items()]
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=servers.pinned(processor),
    )


def finish(process: "subprocess.Popen[str]", limit: float = 120.0) -> dict[str, Any]:
    """What the generator measured. Raises LoadFailed, also when connections were lost on the way."""
    try:
        output, complaints = process.communicate(timeout=limit + PATIENCE)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise LoadFailed(complaints.strip() or f"exit code {process.returncode}")
    measured: dict[str, Any] = json.loads(output)
    if measured["dead"]:
        raise LoadFailed(f"{measured['dead']} connections were lost: {complaints.strip()}")
    return measured
