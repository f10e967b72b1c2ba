"""Engine.IO 4 and Socket.IO 5 for Trio.

The floors, from the bottom; a module imports only from lower ones:

- `errors`, `settings`, `handshake`: values.
- `protocol`: packets, payloads, frames and the two state machines; no I/O, no clock.
- `transport`: where Trio begins; the HTTP front, the stream under trio-websocket, WebSocket and long-polling.
- `server`: one connection and all it owns; namespaces and rooms; listeners.
- `client`: a Trio client on the same protocol floor. `testing`: an in-memory client for your own tests.
"""

from engineio_trio.errors import AckTimeout as AckTimeout
from engineio_trio.errors import CloseReason as CloseReason
from engineio_trio.errors import ConnectRefused as ConnectRefused
from engineio_trio.errors import Disconnected as Disconnected
from engineio_trio.errors import EngineIOError as EngineIOError
from engineio_trio.errors import HandshakeRefused as HandshakeRefused
from engineio_trio.errors import LocalProtocolError as LocalProtocolError
from engineio_trio.errors import ProtocolError as ProtocolError
from engineio_trio.errors import RemoteProtocolError as RemoteProtocolError
from engineio_trio.handshake import Handshake as Handshake
from engineio_trio.protocol.codec import check_event as check_event
from engineio_trio.server.namespace import Namespace as Namespace
from engineio_trio.server.server import EngineServer as EngineServer
from engineio_trio.server.server import Session as Session
from engineio_trio.server.server import SocketServer as SocketServer
from engineio_trio.server.socket import Socket as Socket
from engineio_trio.settings import Settings as Settings

__version__ = "0.1.0"
