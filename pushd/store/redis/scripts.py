"""The scripts in `lua/`, and running them: by their SHA, with the store's time, and as often confirmed as asked for.

Each file's head says what its KEYS and ARGV are. `common.lua` goes before every script, and before one whose first line
is `-- uses NAME` also `NAME.lua`.
"""

import hashlib
import importlib.resources
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec
import trio
from redis.exceptions import NoScriptError, ResponseError

from pushd.errors import StoreUnavailable
from pushd.store.redis.replies import Argument, Command, Reply
from pushd.store.redis.topology import TIMEOUT, Client

MOST: Final = 200  # devices in one call of a script: the server does nothing else meanwhile
REPLICATED_WITHIN: Final = 0.5  # seconds that replicas have, if they are waited for

# Many values as one argument, for `cmsgpack.unpack`: text (not bytes), and numbers below 2**53. Each argument takes
# 1,600 instructions to be packed for Redis: with one for each value that was a tenth of what a push takes.
packed: Final[Callable[[Sequence[object]], bytes]] = msgspec.msgpack.Encoder().encode

_FOLDER: Final = importlib.resources.files("pushd.store.redis") / "lua"
_USES: Final = re.compile(r"-- uses (\w+)\n")


class Script:
    """A script's whole text, and its SHA."""

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str) -> None:
        own = _read(name)
        used = _USES.match(own)
        self.name = name
        self.source = "\n".join([_read("common"), *([_read(used[1])] if used else []), own]).encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


class Runner:
    """Runs scripts. `clock` gives Unix seconds in place of the server's time; only tests have one.

    Writes that must not be lost with a primary are confirmed by so many `replicas`, if any. `channel` is one of ours
    that nobody listens to.
    """

    def __init__(self, client: Client, clock: Callable[[], float] | None, replicas: int, channel: str) -> None:
        self._client = client
        self._clock = clock
        # By key, its server's time minus ours (s), as of its last answer; less by that answer's way.
        self._ahead: dict[str, float] = {}
        # WAIT is about what its own connection has written. A call that is repeated may write nothing, though what it
        # wrote the first time, on another connection, is not confirmed yet; a message goes to the replicas always.
        self._confirm: tuple[Command, ...] = (
            ("PUBLISH", channel, ""),
            ("WAIT", replicas, round(REPLICATED_WITHIN * 1_000)),
        )
        self._replicas = replicas

    async def run(self, script: Script, keys: Sequence[str], *args: Argument) -> Reply:
        """What a script answers. Its keys share a slot. Raises StoreUnavailable."""
        call = (len(keys), *keys, self._time(), *args)
        try:
            return await self._client.execute(keys[0], b"EVALSHA", script.sha, *call)
        except NoScriptError:
            return await self._client.execute(keys[0], b"EVAL", script.source, *call)

    async def run_confirmed(self, script: Script, keys: Sequence[str], *args: Argument) -> Reply:
        """As `run`; the replicas have it. Raises StoreUnavailable also if too few of them say so: then it is done.

        It has a connection of its own, which WAIT holds back: a replica that is away does not stop acknowledgements,
        heartbeats and leases.
        """
        if not self._replicas:
            return await self.run(script, keys, *args)
        call = (len(keys), *keys, self._time(), *args)
        reply, _, copies = await self._written(keys[0], (b"EVALSHA", script.sha, *call))
        if isinstance(reply, NoScriptError):
            reply, _, copies = await self._written(keys[0], (b"EVAL", script.source, *call))
        if isinstance(reply, ResponseError):
            raise reply
        if copies < self._replicas:
            raise StoreUnavailable(f"{copies} of {self._replicas} replicas have confirmed a write in time")
        return reply

    async def _written(self, key: str, command: Command) -> list[Reply]:
        return await self._client.blocking_pipeline(key, (command, *self._confirm), timeout=REPLICATED_WITHIN)

    async def in_time(self, key: str, call: Callable[[int], Awaitable[Sequence[Any]]]) -> Sequence[Any]:
        """What a script answers that does nothing where it is late: not the time alone, with which it begins.

        A network may deliver a command long after its caller has given it up. `call` runs the script, whose ARGV say
        until when (us) it is waited for, by the clock of the server that has `key`. Raises StoreUnavailable.
        """
        if key not in self._ahead:
            await self.now(key)
        for _ in range(2):  # the server's clock may have been set forward since it was read: its answer says so
            answer = await call(round((trio.current_time() + self._ahead[key] + TIMEOUT) * 1_000_000))
            self._ahead[key] = answer[0] / 1_000_000 - trio.current_time()
            if len(answer) > 1:
                return answer
        raise StoreUnavailable(f"a call came to the server more than {TIMEOUT:g} s after it was sent, and did nothing")

    async def now(self, key: str) -> float:
        """Unix seconds, by the clock of the server that has the key."""
        if self._clock is not None:
            now = self._clock()
        else:
            seconds, micros = await self._client.execute(key, b"TIME")
            now = int(seconds) + int(micros) / 1_000_000
        self._ahead[key] = now - trio.current_time()
        return now

    def _time(self) -> Argument:
        return b"" if self._clock is None else round(self._clock() * 1_000_000)
