"""The SQLite store beyond the contract: its file, its owner, its thread, and faults that are real ones."""

import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from pushd.errors import ConfigError, StoreBusy, StoreUnavailable
from pushd.model import Message, Stream
from pushd.store import open_store
from pushd.store.base import Limits
from pushd.store.sqlite import schema
from tests.pushd.stores import Backend, Node, bind, push, sqlite_file, sqlite_memory, told

HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return sqlite_file(tmp_path)


def file_of(backend: Backend) -> Path:
    return Path(backend.url.removeprefix("sqlite:///"))


class Holder:
    """Another process that has the file locked, until the block ends."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", HOLD, str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"held\n"

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


# ---- faults ----


async def test_locked_by_another_program_it_says_so_and_recovers_by_itself(backend: Backend) -> None:
    """F2: what was under way fails with StoreUnavailable, reading goes on, and afterwards everything works."""
    async with backend.open() as store:
        epoch = await bind(store, "d", "c1")
        with Holder(file_of(backend)):
            refused = 0

            async def send(number: int) -> None:
                nonlocal refused
                with pytest.raises(StoreUnavailable, match="locked by another program"):
                    await store.enqueue(push(f"p{number}"), ["d"])
                refused += 1

            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(send, number)
            assert refused == 5
            with pytest.raises(StoreUnavailable):
                await store.ping()
            record = await store.device("d")
            assert record is not None
            assert record.epoch == epoch
        await store.ping()
        (receipt,) = await store.enqueue(push("p0"), ["d"])
        assert receipt.seq == 1, "nothing of what failed is there"
    with Holder(file_of(backend)), pytest.raises(StoreUnavailable, match="locked by another program"):
        async with backend.open():
            pytest.fail("opened, though it could not end what the former process left")


async def test_a_disk_that_takes_no_more_fails_writes_whole_and_recovers_by_itself(backend: Backend) -> None:
    """F7: the kernel refuses to let the log grow, which shows at the commit: all in it are told, nothing stays."""
    async with backend.open() as store:
        epoch = await bind(store, "d", "c1")
        await store.enqueue(push("before"), ["d"])
        outcomes: list[str] = []

        async def send(number: int) -> None:
            try:
                await store.enqueue(push(f"p{number}", data="x" * 10_000), ["d"])
            except StoreUnavailable as error:
                outcomes.append(str(error))

        log = file_of(backend).with_name("pushd.db-wal")
        with no_file_grows_beyond(log.stat().st_size + 5_000):
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(send, number)
            assert len(outcomes) == 5
            assert (await store.counts()).inbox == 1
        (receipt,) = await store.enqueue(push("p0"), ["d"])
        assert receipt.seq == 2
        assert [message.id for message in await store.fetch("d", epoch, 0, 10)] == ["before", "p0"]
    async with backend.open() as store:
        assert (await store.counts()).inbox == 2


@contextlib.contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """Let this process write no file beyond so many bytes: what a full disk does, for a while."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


# ---- the thread ----


async def test_nothing_is_left_after_closing_even_if_cancelled(tmp_path: Path) -> None:
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    usual = sys.getswitchinterval()
    for backend in (sqlite_file(tmp_path), sqlite_memory(tmp_path)):
        with trio.CancelScope() as scope:
            async with backend.open() as store, trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(store.enqueue, push(f"p{number}"), ["d"])
                assert sys.getswitchinterval() < usual
                scope.cancel()
        assert scope.cancelled_caught
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.ping()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with sqlite_file(tmp_path).open():
            pytest.fail("opened, though cancelled")
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, files)
    assert sys.getswitchinterval() == usual
    async with sqlite_file(tmp_path).open() as store:
        await store.ping()


async def test_a_node_that_raises_is_logged_and_breaks_nothing(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with backend.open() as store:
        await bind(store, "d", "c1")

        def deliver(device: str, message: Message, after: int) -> None:
            raise RuntimeError("the node's own trouble")

        monkeypatch.setattr(backend.node, "deliver", deliver)
        (receipt,) = await store.enqueue(push("p"), ["d"])
        assert receipt.seq == 1
        assert "the node's own trouble" in caplog.text


# ---- the file ----


async def test_a_second_process_is_refused_with_the_first_ones_number(backend: Backend) -> None:
    """F27."""
    async with backend.open():
        with pytest.raises(StoreBusy, match=rf"pushd\.db is in use by another pushd \(process {os.getpid()}\)"):
            async with backend.open():
                pytest.fail("opened twice")
    async with backend.open():
        pass


async def test_a_newer_format_and_another_programs_file_are_refused(backend: Backend, tmp_path: Path) -> None:
    async with backend.open():
        pass
    with sqlite3.connect(file_of(backend)) as db:
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    db.close()
    with pytest.raises(ConfigError, match="newer pushd"):
        async with backend.open():
            pytest.fail("opened")
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(ConfigError, match="another program"):
        async with Backend(f"sqlite:///{other}").open():
            pytest.fail("opened")
    text = tmp_path / "text.db"
    text.write_text("dear diary, " * 100)
    with pytest.raises(ConfigError, match=r"text\.db is not a usable SQLite file"):
        async with Backend(f"sqlite:///{text}").open():
            pytest.fail("opened")
    assert text.read_text() == "dear diary, " * 100


async def test_a_damaged_file_says_what_to_do(backend: Backend) -> None:
    async with backend.open() as store:
        for number in range(200):
            await store.enqueue(push(f"m{number}", data='"' + "x" * 3_000 + '"'), [f"d{number}"])
    damaged = bytearray(file_of(backend).read_bytes())
    for page in range(2, len(damaged) // 4_096):
        damaged[page * 4_096 : (page + 1) * 4_096] = b"\xff" * 4_096
    file_of(backend).write_bytes(damaged)
    with pytest.raises((ConfigError, StoreUnavailable), match="put back a backup"):
        async with backend.open() as store:
            await store.enqueue(push("one more"), ["d7"])


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://localhost:port", "a port is 1 to 65535|no HOST:PORT"),
        ("redis+clutter://a,b", "no address of Redis"),
        ("mysql://x", "sqlite:///relative.db"),
        ("sqlite://x.db", "sqlite:///relative.db"),
        ("sqlite:///", "name a file"),
        ("sqlite:///a.db?mode=ro", "no options"),
        ("sqlite:////no/such/directory/x.db", "cannot be opened: No such file"),
    ],
)
async def test_a_url_that_cannot_be_right_says_why(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        async with open_store(url, node="n", control=Node(), limits=Limits()):
            pytest.fail("opened")
    assert caught.value.problems[0].startswith("store.url: ")


async def test_urls_name_relative_and_absolute_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with Backend("sqlite:///here.db").open() as store:
        await bind(store, "d", "c1")
    async with Backend(f"sqlite:///{tmp_path}/here.db").open() as store:
        assert await told(store, Stream.STATUS, "event") == [("online",), ("offline",)]
    assert not (tmp_path / "here.db").stat().st_mode & 0o077, "messages are nobody else's business"


async def test_a_read_sees_what_was_just_written(backend: Backend) -> None:
    """Reads have a connection of their own; it must not lag behind."""
    async with backend.open() as store:
        for number in range(50):
            entry = await store.append(Stream.DEAD, {"n": str(number)})
            assert await store.newest(Stream.DEAD) == entry


def test_a_process_whose_trio_falls_ends_all_the_same(tmp_path: Path) -> None:
    """An open store must not keep alive what is dead: its supervisor waits for the exit."""
    program = f"""
import signal, trio
from tests.pushd.stores import sqlite_file
from pathlib import Path

def fall(*_):
    raise SystemError("in the middle of Trio's scheduler")

async def main():
    async with sqlite_file(Path({str(tmp_path)!r})).open():
        signal.signal(signal.SIGALRM, fall)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        await trio.sleep_forever()

trio.run(main)
"""
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert b"in the middle of Trio's scheduler" in ended.stderr
