"""Two tabs of one browser are two sessions, both counted, both reachable: what a cookie once made into one.

With the stock client sharing a cookie jar against the daemon, and in a real browser against the library and the daemon.
"""

import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio

from engineio_trio import SocketServer
from tests.faults.processes import Daemon, Deployment, until
from tests.patience import PATIENCE
from tests.wire.browser import Tab, chromium, need_chromium
from tests.wire.javascript import JS, JavaScriptClient
from tests.wire.twin import serving, twin

pytestmark = pytest.mark.javascript

TRANSPORTS = {"default": None, "websocket": ["websocket"], "polling": ["polling"]}
CLIENT = JS / "node_modules" / "socket.io-client" / "dist" / "socket.io.min.js"
PAGE = b"<!doctype html><title>tab</title><script src=/client.js></script>"


@pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_two_tabs_are_two_devices(js: JavaScriptClient, tmp_path: Path, transports: list[str] | None) -> None:
    """Whatever cookies they share, also one that looks like a session id of the other."""
    options: dict[str, Any] = {} if transports is None else {"transports": transports}
    async with Deployment(tmp_path).running() as daemon:
        one = await js.connect(daemon.url, jar="profile", query={"deviceId": "tab-1"}, answers={"push": []}, **options)
        stolen = {"cookie": f"io={one.connection['engine']}; sid={one.connection['engine']}"}
        two = await js.connect(
            daemon.url,
            jar="profile",
            query={"deviceId": "tab-2"},
            answers={"push": []},
            extraHeaders=stolen,
            **options,
        )
        assert len({one.id, two.id, one.connection["engine"], two.connection["engine"]}) == 4
        await are_two(daemon)
        for tab, name in ((one, "tab-1"), (two, "tab-2")):
            assert await tab.call("here", name) == []
            assert (await daemon.push(f"device:{name}", name, wait=PATIENCE))["counts"] == {"acked": 1}
            assert (await tab.next("push"))[0] == name
        await one.disconnect()
        await daemon.told("status", device="tab-1", event="offline")
        assert (await daemon.push("device:tab-2", "still here", wait=PATIENCE))["counts"] == {"acked": 1}


async def are_two(daemon: Daemon) -> None:
    """Both are counted, and each is itself."""
    stats = await daemon.get("/v1/stats")
    assert (stats["connections"], stats["devices"], stats["store"]["online"]) == (2, 2, 2)
    assert [(e["device"], e["event"]) for e in await daemon.stream("status")] == [
        ("tab-1", "online"),
        ("tab-2", "online"),
    ]


# ---- in a real browser ----


class Page(SimpleHTTPRequestHandler):
    """The page of a tab, with the stock client, and with cookies as any web application sets them."""

    def do_GET(self) -> None:
        body = CLIENT.read_bytes() if self.path == "/client.js" else PAGE
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript" if self.path == "/client.js" else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", "session=of-the-whole-profile; Path=/")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def page() -> Iterator[str]:
    """The origin of a web server with that page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


async def connect(tab: Tab, url: str, options: str) -> dict[str, str]:
    """Connect the tab with its cookies; leaves its session id as a cookie, as old servers did."""
    result: dict[str, str] = await tab.run(f"""new Promise((resolve, reject) => {{
        window.got = [];
        window.socket = io("{url}", {{ withCredentials: true, ...{options} }});
        socket.onAny((event, ...args) => {{
            if (typeof args.at(-1) === "function") args.pop()();
            got.push([event, ...args]);
        }});
        socket.on("connect_error", (error) => reject(error));
        socket.on("connect", () => {{
            document.cookie = `io=${{socket.io.engine.id}}; path=/`;
            resolve({{ id: socket.id, engine: socket.io.engine.id }});
        }});
    }})""")
    return result


@contextlib.asynccontextmanager
async def two_tabs(folder: Path) -> AsyncIterator[tuple[str, Tab, Tab]]:
    """The origin of a page, and two tabs that show it."""
    need_chromium()
    with page() as origin:
        async with chromium(folder) as browser:
            yield origin, await browser.open(f"{origin}/one"), await browser.open(f"{origin}/two")


@pytest.mark.parametrize("transports", ["{}", '{transports: ["websocket"]}', '{transports: ["polling"]}'])
async def test_two_tabs_of_a_real_browser_are_two_sessions(tmp_path: Path, transports: str) -> None:
    """The library's statement: the second tab shows the first one's session id as a cookie, and is itself."""
    async with two_tabs(tmp_path) as (origin, one, two):
        server = twin(cors_origins=(origin,), cors_credentials=True)
        async with serving(server) as port:
            url = f"http://127.0.0.1:{port}"
            first = await connect(one, url, transports)
            assert f"io={first['engine']}" in await two.run("document.cookie"), "they share the profile's cookies"
            second = await connect(two, url, transports)
            assert len({*first.values(), *second.values()}) == 4
            assert (server.connections, len(server.of("/").sockets)) == (2, 2)
            await both_are_reachable(server, {"one": one, "two": two})


async def both_are_reachable(server: SocketServer, tabs: dict[str, Tab]) -> None:
    for name, tab in tabs.items():
        assert await tab.run(f"socket.timeout(60000).emitWithAck('join', '{name}')") == name
    for name in tabs:
        server.emit("only", name, to=name)
    for name, tab in tabs.items():
        await until(partial(tab.run, "got.some(([event]) => event === 'only')"))
        assert await tab.run("got.filter(([event]) => event === 'only')") == [["only", name]]


async def test_two_tabs_of_a_real_browser_are_two_devices(tmp_path: Path) -> None:
    """The daemon's: both online, each gets what is sent to it; a tab that is closed is offline, the other stays."""
    async with two_tabs(tmp_path) as (origin, one, two):
        cors = {"cors_origins": [origin], "cors_credentials": True}
        async with Deployment(tmp_path / "daemon", devices=cors).running() as daemon:
            for tab, name in ((one, "tab-1"), (two, "tab-2")):
                await connect(tab, daemon.url, f'{{ query: {{ deviceId: "{name}" }} }}')
            await are_two(daemon)
            for tab, name in ((one, "tab-1"), (two, "tab-2")):
                await tab.run(f"socket.timeout(60000).emitWithAck('here', '{name}')")
                assert (await daemon.push(f"device:{name}", name, wait=PATIENCE))["counts"] == {"acked": 1}
                assert await tab.run("got.map(([event, data]) => [event, data])") == [["push", name]]
            # Until then it polls, and a browser keeps the request of a page that it keeps for the button "back".
            await until(partial(one.run, "socket.io.engine.transport.name === 'websocket'"))
            await one.run("location.assign('about:blank')")
            await daemon.told("status", device="tab-1", event="offline")
            assert (await daemon.push("device:tab-2", "still here", wait=PATIENCE))["counts"] == {"acked": 1}
            with trio.fail_after(PATIENCE):
                assert await two.run("got.length") == 2
