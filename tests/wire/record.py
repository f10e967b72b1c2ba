"""Record the transcripts of protocol-fixtures/transcripts again: `python -m tests.wire.record --server node|ours`.

Each scenario runs the real JavaScript client against a fresh server through the wiretap. With `--check` nothing is
written: it says which files would change, and ends with 1 when any would.
"""

import argparse
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence

import trio

from tests.wire import scenarios, transcript
from tests.wire.javascript import javascript_client, reference_server
from tests.wire.transcript import Transcript
from tests.wire.wiretap import Wiretap


@contextlib.asynccontextmanager
async def node() -> AsyncIterator[tuple[str, int]]:
    """Node's reference server; gives its name for the transcript and its port."""
    async with reference_server() as told:
        yield f"socket.io {told['version']}", told["port"]


@contextlib.asynccontextmanager
async def ours() -> AsyncIterator[tuple[str, int]]:
    """Our twin of the reference; gives its name for the transcript and its port."""
    from tests.wire.twin import twin_server

    async with twin_server() as port:
        yield "engineio-trio", port


SERVERS = {"node": node, "ours": ours}


async def record(scenario: str, server: str) -> Transcript:
    """Run one scenario against a fresh server of this kind; gives the canonical transcript."""
    async with SERVERS[server]() as (name, port), javascript_client() as js, trio.open_nursery() as nursery:
        tap = Wiretap(port)
        await nursery.start(tap.run)
        await scenarios.SCENARIOS[scenario](js, tap, f"http://127.0.0.1:{tap.port}")
        await tap.ended()
        nursery.cancel_scope.cancel()
    client = f"socket.io-client {js.version}"
    return Transcript(scenario, name, client, transcript.canonical(tap.steps))


async def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=sorted(SERVERS), required=True, help="which server talks to the client")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if a file would change")
    parser.add_argument("scenario", nargs="*", help=f"all by default; of: {', '.join(scenarios.SCENARIOS)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.scenario) - scenarios.SCENARIOS.keys():
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    changed = 0
    for scenario in options.scenario or scenarios.SCENARIOS:
        path = transcript.TRANSCRIPTS / options.server / f"{scenario}.json"
        told = await record(scenario, options.server)
        same = path.exists() and transcript.load(path).steps == told.steps
        changed += not same
        print(f"{path.relative_to(transcript.TRANSCRIPTS.parent)}: {'as before' if same else 'changed'}", flush=True)
        if not same and not options.check:
            told.save(path)
    return int(options.check and changed > 0)


if __name__ == "__main__":
    sys.exit(trio.run(main))
