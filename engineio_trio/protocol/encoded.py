"""One outgoing message, rendered at most once per kind of wire and shared by all who get it."""
from engineio_trio.protocol.engine import Packet
from engineio_trio.protocol.socket import SocketPacket

class Encoded:
    """Text and attachments of one Socket.IO packet (or one Engine.IO packet): they travel together, adjacent.

    `websocket` is the ready RFC 6455 bytes (all frames, unmasked); `polling` the v4 packet texts joined by 0x1e;
    `packets` the Engine.IO packets; `size` what it counts for in an outbox (bytes, without rendering both kinds).
    Each is made on first use and kept.
    """
    __slots__ = ()
    @classmethod
    def engine(cls, packet: Packet) -> "Encoded": ...
    @classmethod
    def socket(cls, packet: SocketPacket) -> "Encoded": ...   # LocalProtocolError
    @property
    def size(self) -> int: ...
    @property
    def websocket(self) -> bytes: ...
    @property
    def polling(self) -> str: ...
    @property
    def packets(self) -> tuple[Packet, ...]: ...
    # revision 3 kinds: websocket_v3 (binary frames carry the type byte), payload_v3 is made from `packets`
