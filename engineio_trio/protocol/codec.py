"""Socket.IO packets <-> one text and its binary attachments."""
from engineio_trio.protocol.socket import SocketPacket

def encode(packet: SocketPacket) -> tuple[str, tuple[bytes, ...]]: ...
    # LocalProtocolError: reserved event name, not JSON-able data (says where), more than ... ; bytes/bytearray/memoryview anywhere become placeholders

class Decoder:
    """Incoming Engine.IO messages -> packets, holding a packet back until its attachments are there (sans-I/O).

    Limits: max_attachments, max_bytes (sum of a packet's attachments), max_depth of JSON.
    """
    def __init__(self, *, max_attachments: int, max_bytes: int, max_depth: int) -> None: ...
    def feed(self, message: str | bytes) -> SocketPacket | None: ...  # RemoteProtocolError only
    @property
    def waiting(self) -> bool: ...     # attachments are still missing (the server bounds how long)
