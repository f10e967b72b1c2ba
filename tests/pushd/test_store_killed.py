"""kill -9 at any moment: what the store acknowledged is there, each session that died with the process ends once."""

import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pushd.model import Stream
from pushd.store.base import Limits, Store
from tests.pushd.store_child import DEVICES
from tests.pushd.stores import OWNED, Backend, bind, everything, told

ROUNDS = 6


def work_and_be_killed(url: str, seed: int, lines: int) -> list[list[Any]]:
    """Let a child work until it has said so many lines, kill it, and answer all that it said."""
    command = [sys.executable, "-m", "tests.pushd.store_child", url, str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        said += child.stdout.readlines()
    assert child.returncode == -9, "it has ended by itself"
    return [json.loads(line) for line in said if line.endswith(b"\n")]


class Ledger:
    """All that the killed ones said, over all rounds."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, int], str] = {}
        self.acked: set[tuple[str, int]] = set()
        self.fetched: dict[str, set[int]] = defaultdict(set)
        self.uplinks: list[str] = []
        self.appended: list[tuple[str, str]] = []
        self.logins: set[tuple[str, int]] = set()
        self.logouts: set[tuple[str, int]] = set()

    def note(self, kind: str, *values: Any) -> None:
        match kind, values:
            case "stored", (device, identity, seq):
                assert (device, seq) not in self.stored, "a seq was given twice"
                self.stored[device, seq] = identity
            case "ack", (device, seqs):
                self.acked |= {(device, seq) for seq in seqs}
            case "fetch", (device, seqs):
                self.fetched[device] |= set(seqs)
            case "uplink", (identity,):
                self.uplinks.append(identity)
            case "append", (entry, identity):
                self.appended.append((entry, identity))
            case "login", (device, epoch):
                self.logins.add((device, epoch))
            case "logout", (device, epoch):
                self.logouts.add((device, epoch))

    async def check(self, store: Store, turn: int) -> None:
        await self.check_status(store)
        uplinks = [identity for (identity,) in await told(store, Stream.UPLINK, "id")]
        assert set(uplinks) >= set(self.uplinks), "I7"
        assert len(uplinks) == len(set(uplinks))
        pushes = {(entry.id, entry.fields["to"]) for entry in await everything(store, Stream.PUSH)}
        assert pushes >= set(self.appended)
        receipts = await told(store, Stream.RECEIPT, "device", "seq", "id", "state")
        assert len(receipts) == len(set(receipts)), "a receipt was written twice"
        ended = {(device, int(seq)) for device, seq, _, state in receipts if state == "acked"}
        waiting = await self.check_inboxes(store, turn)
        assert not ended & waiting
        assert ended >= self.acked
        assert ended | waiting >= set(self.stored), "I1"

    async def check_status(self, store: Store) -> None:
        """I4: start and end in turn for each device, nobody left, epochs rising; what was said is in it."""
        held: dict[str, int] = {}
        highest: dict[str, int] = defaultdict(int)
        byes = set()
        for device, event, number, reason in await told(store, Stream.STATUS, "device", "event", "epoch", "reason"):
            epoch = int(number)
            if event == "offline":
                assert held.pop(device) == epoch
                byes |= {(device, epoch)} if reason == "bye" else set()
            else:
                assert (device in held) == (event == "takeover")
                assert epoch > highest[device]
                held[device] = highest[device] = epoch
                self.logins.discard((device, epoch))
        assert not held
        assert not self.logins, "a login was acknowledged, and its status entry is not there"
        assert byes >= self.logouts

    async def check_inboxes(self, store: Store, turn: int) -> set[tuple[str, int]]:
        """I2: by a fetch from the start, all that waits, in order; what was handed out is marked so."""
        waiting = set()
        for device in DEVICES:
            epoch = await bind(store, device, f"check-{turn}")
            messages = await store.fetch(device, epoch, 0, 1_000_000)
            seqs = [message.seq for message in messages]
            assert seqs == sorted(set(seqs))
            for message in messages:
                assert self.stored.get((device, message.seq), message.id) == message.id
                assert message.redelivered or message.seq not in self.fetched[device]
            self.fetched[device] |= set(seqs)
            waiting |= {(device, seq) for seq in seqs}
        return waiting


@pytest.mark.parametrize("make", OWNED, ids=lambda make: make.__name__)
async def test_nothing_acknowledged_is_lost_to_kill_9(make: Callable[[Path], Backend], tmp_path: Path) -> None:
    """F8, F18, I1, I2, I4, I7: the same file, killed again and again."""
    backend, ledger, rng = make(tmp_path), Ledger(), random.Random(7)
    backend.clock.now = time.time()  # the children live by the real one
    for turn in range(ROUNDS):
        for line in work_and_be_killed(backend.url, turn, rng.randrange(10, 1_500)):
            ledger.note(*line)
        async with backend.open(Limits(inbox_max=1_000_000)) as store:
            await ledger.check(store, turn)
    assert len(ledger.stored) > 500
    assert len(ledger.acked) > 100
