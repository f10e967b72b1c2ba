"""The conversations that are recorded: what the real client is told to do, the same against every server.

Each waits for every answer before the next step, so that the order on the wire is decided by the protocol and not by
the speed of a machine.
"""

from collections.abc import Awaitable, Callable

from tests.wire.javascript import JavaScriptClient, JavaScriptSocket
from tests.wire.wiretap import Wiretap

Scenario = Callable[[JavaScriptClient, Wiretap, str], Awaitable[None]]

POLLING = ["polling"]
WEBSOCKET = ["websocket"]


async def polling(js: JavaScriptClient, _tap: Wiretap, url: str) -> None:
    """HTTP long-polling alone: handshake, an event each way, a goodbye by the client."""
    await _hello_and_goodbye(js, url, POLLING)


async def websocket(js: JavaScriptClient, _tap: Wiretap, url: str) -> None:
    """WebSocket from the first byte, with the same events."""
    await _hello_and_goodbye(js, url, WEBSOCKET)


async def _hello_and_goodbye(js: JavaScriptClient, url: str, transports: list[str]) -> None:
    socket = await js.connect(url, transports=transports, auth={"token": "abc"}, query={"deviceId": "d-1"})
    await socket.next("auth")
    for text in ("hello", "grüße €", "a\x1eb \U0001f600", ""):
        await socket.emit("echo", text, {"n": 1, "deep": [None, True, 1.5]})
        await socket.next("echo")
    await _leave(socket)


async def upgrade(js: JavaScriptClient, tap: Wiretap, url: str) -> None:
    """The default of the client: polling, then a probe, then WebSocket, with events before and after."""
    tap.hold_websockets()
    socket = await js.connect(url)
    await socket.next("auth")
    await _echo(socket, "by polling")
    tap.release_websockets()
    await socket.wait("upgrade")
    await _echo(socket, "by websocket")
    await _leave(socket)


async def binary_polling(js: JavaScriptClient, _tap: Wiretap, url: str) -> None:
    """Attachments as base64 in polling bodies."""
    await _binary(js, url, POLLING)


async def binary_websocket(js: JavaScriptClient, _tap: Wiretap, url: str) -> None:
    """Attachments as binary frames."""
    await _binary(js, url, WEBSOCKET)


async def _binary(js: JavaScriptClient, url: str, transports: list[str]) -> None:
    socket = await js.connect(url, transports=transports, answers={"question": [b"\x04answer"]})
    await socket.next("auth")
    await socket.emit("binary", b"\x00\x01\xfe\xff")
    await socket.next("binary")
    await socket.emit("binary", {"first": b"one", "list": [b"", "text", b"\x04"]}, 7)
    await socket.next("binary")
    await socket.call("swap", b"left", "right")
    await socket.emit("ask", b"question")
    await socket.next("answered")
    await _leave(socket)


async def acks(js: JavaScriptClient, _tap: Wiretap, url: str) -> None:
    """Acknowledgements both ways: the client's ids 0, 1, 2, and the server asking the client."""
    socket = await js.connect(url, transports=WEBSOCKET, answers={"question": ["yes", {"n": 1}]})
    await socket.next("auth")
    await socket.call("add", 1, 2)
    await socket.call("add", "a", "b")
    await socket.call("swap", 1, [2])
    await socket.emit("ask", "ready?")
    await socket.next("answered")
    await _leave(socket)


async def rooms(js: JavaScriptClient, _tap: Wiretap, url: str) -> None:
    """Two sockets; one joins a room, leaves it, and hears only what is sent between."""
    inside = await js.connect(url, transports=WEBSOCKET)
    await inside.next("auth")
    outside = await js.connect(url, transports=WEBSOCKET)
    await outside.next("auth")
    await inside.call("join", "lobby")
    await outside.emit("room", "lobby", "to the lobby")
    await inside.next("room")
    await inside.call("leave", "lobby")
    await outside.emit("room", "lobby", "to nobody")
    await _echo(outside, "done")
    await _leave(outside)
    await _leave(inside)


async def namespaces(js: JavaScriptClient, _tap: Wiretap, url: str) -> None:
    """Four namespaces over one connection: two are joined, one refuses with data, one does not exist."""
    await _namespaces(js, url, WEBSOCKET)


async def namespaces_polling(js: JavaScriptClient, _tap: Wiretap, url: str) -> None:
    """The same by polling."""
    await _namespaces(js, url, POLLING)


async def _namespaces(js: JavaScriptClient, url: str, transports: list[str]) -> None:
    main = await js.connect(url, transports=transports, forceNew=False)
    await main.next("auth")
    custom = await js.connect(f"{url}/custom", auth={"token": "abc"}, forceNew=False)
    await custom.next("auth")
    await _echo(custom, "in custom")
    refused = await js.socket(f"{url}/refuse", forceNew=False)
    await refused.wait("connect_error")
    unknown = await js.socket(f"{url}/unknown", forceNew=False)
    await unknown.wait("connect_error")
    await _echo(main, "still here")
    await custom.disconnect()
    await custom.wait("disconnect")
    await _leave(main)


async def reconnect_polling(js: JavaScriptClient, tap: Wiretap, url: str) -> None:
    """The network is lost while the client polls; it comes back with a new session."""
    await _reconnect(js, tap, url, POLLING)


async def reconnect_websocket(js: JavaScriptClient, tap: Wiretap, url: str) -> None:
    """The network is lost under a WebSocket; the client comes back with a new session."""
    await _reconnect(js, tap, url, WEBSOCKET)


async def _reconnect(js: JavaScriptClient, tap: Wiretap, url: str, transports: list[str]) -> None:
    socket = await js.connect(url, transports=transports, reconnectionDelay=20)
    await socket.next("auth")
    await tap.cut()
    await socket.wait("disconnect")
    await socket.connected()
    await socket.next("auth")
    await _echo(socket, "again")
    await _leave(socket)


async def kicked_polling(js: JavaScriptClient, _tap: Wiretap, url: str) -> None:
    """The server disconnects the socket; a stock client closes the connection and stays away."""
    await _kicked(js, url, POLLING)


async def kicked_websocket(js: JavaScriptClient, _tap: Wiretap, url: str) -> None:
    """The same over WebSocket."""
    await _kicked(js, url, WEBSOCKET)


async def _kicked(js: JavaScriptClient, url: str, transports: list[str]) -> None:
    socket = await js.connect(url, transports=transports)
    await socket.next("auth")
    await socket.emit("bye")
    await socket.wait("disconnect", reason="io server disconnect")


async def _echo(socket: JavaScriptSocket, text: str) -> None:
    await socket.emit("echo", text)
    await socket.next("echo")


async def _leave(socket: JavaScriptSocket) -> None:
    await socket.disconnect()
    await socket.wait("disconnect", reason="io client disconnect")


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        polling,
        websocket,
        upgrade,
        binary_polling,
        binary_websocket,
        acks,
        rooms,
        namespaces,
        namespaces_polling,
        reconnect_polling,
        reconnect_websocket,
        kicked_polling,
        kicked_websocket,
    )
}
