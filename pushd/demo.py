"""The demonstration behind `make demo`: a real daemon, simulated devices, a service, and what passes between them.

The daemon is a process of its own (`pushdctl serve`) on a store in a temporary directory; the devices use
`engineio_trio.client`, the service the admin interface over HTTP, as any program would.
"""

import argparse
import contextlib
import itertools
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import trio

from engineio_trio import EngineIOError
from engineio_trio.client import ClientSocket, connect
from pushd.auth import make_token
from pushd.config import Config
from pushd.errors import PushdError

DEFAULT_PORTS: Final = (8780, 8781)
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: its terminal has closed
START: Final = 30.0  # seconds for the daemon to start, and to stop
TOPICS: Final = {"kitchen": ("rooms",), "lamp-1": ("lamps",), "lamp-2": ("lamps",), "porch": ("rooms", "lamps")}
SHOWN: Final = {
    "uplink": "{device} {event} {data}",
    "status": "{device} {event} ({reason})",
    "receipt": "{device} {state} (seq {seq})",
}


def say(who: str, what: str) -> None:
    """One line of the play."""
    sys.stdout.write(f"  {who:<9}{what}\n")


def scene(title: str) -> None:
    """What comes next."""
    sys.stdout.write(f"\n{title}\n")


class Play:
    """The devices on the stage, and the service that talks to them."""

    def __init__(self, nursery: trio.Nursery, http: httpx.AsyncClient, url: str, config: Config, pace: float) -> None:
        self._nursery, self._http, self._url, self._config, self._pace = nursery, http, url, config, pace
        self._present: dict[str, ClientSocket] = {}  # the newest connection of each device

    async def run(self) -> None:
        """The scenes, over and over."""
        scene("Four devices connect. Each shows a token that names it and its topics.")
        for stream in SHOWN:
            self._nursery.start_soon(self._follow, stream)
        for name in TOPICS:
            await self._enter(name)
        for turn in itertools.count(1):
            await self._turn(turn)

    async def _turn(self, turn: int) -> None:
        scene("A device sends; pushd answers once the message is in the uplink stream, where services read.")
        for name in ("kitchen", "porch"):
            await self._send(name, "reading", {"celsius": 20 + turn % 5, "turn": turn})
        scene("The service pushes to one device; its acknowledgement comes back as a receipt.")
        await self._push("device:kitchen", "show", f"hello, turn {turn}")
        scene("The service pushes to a topic: every device that is a member.")
        await self._push("topic:lamps", "light", {"on": turn % 2 == 1})
        scene("A device goes away. What is pushed meanwhile is kept, and delivered in order when it comes back.")
        self._present["porch"].disconnect()
        await trio.sleep(self._pace)
        await self._push("device:porch", "show", "first")
        await self._push("device:porch", "show", "second")
        await self._enter("porch")
        scene("The same device id logs in again: the newer connection wins, and the older one is told.")
        await self._enter("kitchen")
        await self._send("kitchen", "reading", {"celsius": 19, "turn": turn})

    async def _enter(self, name: str) -> None:
        self._present[name] = await self._nursery.start(self._device, name)
        await trio.sleep(self._pace)

    async def _device(self, name: str, *, task_status: trio.TaskStatus[ClientSocket]) -> None:
        """Be a device, until its connection ends."""
        auth = {"deviceId": name, "token": make_token(self._config, name, TOPICS[name])}
        async with connect(self._url, auth=auth) as device:
            task_status.started(device)
            async for event in device:
                say(name, f"gets {event.name} {json.dumps(event.args[0])}")
                if event.wants_ack:
                    event.ack()

    async def _send(self, name: str, event: str, data: Any) -> None:
        say(name, f"sends {event} {json.dumps(data)}")
        await self._present[name].call(event, data)
        await trio.sleep(self._pace)

    async def _push(self, to: str, event: str, data: Any) -> None:
        answer = await self._http.post("/v1/push", json={"to": to, "event": event, "data": data})
        told = ", ".join(f"{n} {state}" for state, n in answer.raise_for_status().json()["counts"].items())
        say("service", f"pushes {event} {json.dumps(data)} to {to}: {told}")
        await trio.sleep(self._pace)

    async def _follow(self, stream: str) -> None:
        position = ""
        while True:
            answer = await self._http.get(f"/v1/streams/{stream}", params={"after": position, "wait": "20"})
            page = answer.raise_for_status().json()
            position = page["next"]
            for entry in page["entries"]:
                if entry["fields"].get("state") != "stored":  # the answer to the push has said so
                    say(stream, SHOWN[stream].format(**entry["fields"]))


def _free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):  # it sets SO_REUSEADDR
        return True
    return False


@contextlib.asynccontextmanager
async def daemon(folder: Path, config: Config) -> AsyncIterator[dict[str, str]]:
    """A daemon on a store in `folder`: its addresses `devices` and `admin`. Stopped in good order at the end."""
    devices, admin = DEFAULT_PORTS if all(map(_free, DEFAULT_PORTS)) else (0, 0)
    ready, log = folder / "ready.json", folder / "pushd.log"
    command = [sys.executable, "-m", "pushd", "serve", "--ready-file", str(ready), "--node", "demo", "--auth", "hmac"]
    command += ["--listen", f"127.0.0.1:{devices}", "--admin", f"127.0.0.1:{admin}"]
    command += ["--store", f"sqlite:///{folder}/pushd.db"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PUSHD_")}
    environment["PUSHD_AUTH__HMAC__SECRET"] = config.auth.hmac.secret.get_secret_value()
    with log.open("wb") as output:  # a session of its own: Ctrl-C is for us, and we stop it when the devices have left
        start = partial(trio.lowlevel.open_process, stdout=output, stderr=output, env=environment)
        process = await start(command, start_new_session=True)
    try:
        with trio.fail_after(START):
            while not ready.exists():
                if process.returncode is not None:
                    raise PushdError(f"the daemon did not start:\n{log.read_text()}")
                await trio.sleep(0.02)
        yield json.loads(ready.read_text())
    finally:
        process.terminate()
        with trio.move_on_after(START, shield=True) as patience:
            await process.wait()
        if patience.cancelled_caught:
            process.kill()


async def perform(seconds: float, pace: float) -> None:
    """The whole demonstration: until Ctrl-C, SIGTERM or SIGHUP, or for some seconds."""
    config = Config.model_validate({"auth": {"kind": "hmac", "hmac": {"secret": secrets.token_hex(32)}}})
    with tempfile.TemporaryDirectory(prefix="pushd-demo-") as folder, trio.open_signal_receiver(*SIGNALS) as signals:
        async with daemon(Path(folder), config) as where:
            introduce(where, make_token(config, "you", ["lamps"]))
            http = httpx.AsyncClient(base_url=f"http://{where['admin']}", timeout=30)
            with trio.move_on_after(seconds):
                async with http, trio.open_nursery() as nursery:
                    play = Play(nursery, http, f"http://{where['devices']}", config, pace)
                    nursery.start_soon(play.run)
                    await anext(signals)
                    nursery.cancel_scope.cancel()
            scene("The end: the devices have left, the daemon stops, its directory goes.")


def introduce(where: dict[str, str], token: str) -> None:
    """Say where everything is, and how to join in."""
    scene("pushd demo (Ctrl-C ends it)")
    say("devices", f"http://{where['devices']}/socket.io/")
    say("admin", f"http://{where['admin']}/ (a page to look at)")
    say("follow", f".venv/bin/pushdctl tail uplink --follow --admin http://{where['admin']}")
    say("join in", f'io("http://{where["devices"]}", {{auth: {{deviceId: "you", token: "{token}"}}}})')


def _leaf(error: BaseException) -> BaseException:
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def main() -> None:
    """Run the demonstration; exit code 1 if the daemon did not start, or went away."""
    parser = argparse.ArgumentParser("pushd.demo", description="Show pushd at work with a few simulated devices.")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so long (default: at Ctrl-C)")
    parser.add_argument("--pace", type=float, default=1.5, help="seconds between two steps (default: 1.5)")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        trio.run(perform, args.seconds, args.pace)
    except* (PushdError, EngineIOError, httpx.HTTPError, OSError) as errors:
        sys.exit(f"pushd.demo: {_leaf(errors)}")


if __name__ == "__main__":
    main()
