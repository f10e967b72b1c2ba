"""A real browser without a window, driven by the DevTools protocol: one profile, as many tabs as a test wants.

`async with chromium(folder) as browser: tab = await browser.open(url)`; then `await tab.run("an expression")` gives its
value, and waits if it is a promise.
"""

import contextlib
import itertools
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from tests.faults.processes import until
from tests.patience import PATIENCE

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
MESSAGE_MAX = 16_000_000
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)


def need_chromium() -> str:
    """The browser's path; skips the test where there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip("cannot run here: no chromium on PATH")


class Browser:
    """A running browser: asks it, and hands its answers to who asked."""

    def __init__(self, websocket: WebSocketConnection) -> None:
        self._websocket = websocket
        self._ids = itertools.count(1)
        self._answers: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}

    async def ask(self, method: str, *, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; its result."""
        id = next(self._ids)
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._answers[id] = send
        command = {"id": id, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        await self._websocket.send_message(json.dumps(command))
        with trio.fail_after(PATIENCE):
            answer = await receive.receive()
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    async def read(self) -> None:
        """Hand out the answers, until the browser ends."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = json.loads(await self._websocket.get_message())
                if "id" in message:
                    self._answers.pop(message["id"]).send_nowait(message)

    async def open(self, url: str) -> "Tab":
        """A new tab of the one profile, with the page loaded."""
        target = (await self.ask("Target.createTarget", url=url))["targetId"]
        session = (await self.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = Tab(self, session)
        await until(partial(tab.run, f"document.readyState === 'complete' && location.href === {json.dumps(url)}"))
        return tab


class Tab:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    async def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, which must be JSON; of a promise, what it resolves to."""
        answer = await self._browser.ask(
            "Runtime.evaluate", session=self._session, expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")


@contextlib.asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Browser]:
    """A browser with a profile of its own in `folder`; it ends with the block."""
    profile = folder / "profile"
    command = [need_chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    run = partial(
        trio.run_process, command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        check=False, deliver_cancel=_end,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(run)

        async def address() -> list[str]:
            assert process.returncode is None, "the browser has ended"
            return _lines(profile / "DevToolsActivePort")

        port, path = await until(address, within=PATIENCE)
        url = f"ws://127.0.0.1:{port}{path}"
        async with open_websocket_url(url, max_message_size=MESSAGE_MAX) as websocket, trio.open_nursery() as reading:
            browser = Browser(websocket)
            reading.start_soon(browser.read)
            yield browser
            with contextlib.suppress(ConnectionClosed):
                await browser.ask("Browser.close")
            reading.cancel_scope.cancel()
        with trio.move_on_after(PATIENCE):
            await process.wait()
        nursery.cancel_scope.cancel()


def _lines(path: Path) -> list[str]:
    lines = path.read_text().split() if path.exists() else []
    return lines if len(lines) == 2 else []


async def _end(process: trio.Process) -> None:
    process.kill()
