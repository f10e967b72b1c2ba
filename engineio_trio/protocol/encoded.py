"""One outgoing message, rendered at most once per kind of wire and shared by all who get it.

An event that asks for an acknowledgement has an id of its own for each peer, so that one cannot be shared.
"""

from engineio_trio.errors import LocalProtocolError
from engineio_trio.protocol import codec, payload
from engineio_trio.protocol.engine import Packet, PacketType, encode_binary, encode_text
from engineio_trio.protocol.frame import Opcode, server_frame
from engineio_trio.protocol.socket import SocketPacket


class Encoded:
    """Text and attachments of one Socket.IO packet, or one Engine.IO packet: they travel together, adjacent.

    Make one with `Encoded.engine` or `Encoded.socket`. `packets` are its Engine.IO packets, `size` the bytes that it
    counts for in an outbox: those of its texts and attachments, without frames and base64.
    """

    __slots__ = ("_polling", "_websocket", "_websocket_v3", "packets", "size")

    def __init__(self, packets: tuple[Packet, ...]) -> None:
        self.packets = packets
        self.size = sum(map(_size, packets))
        self._websocket: bytes | None = None
        self._websocket_v3: bytes | None = None
        self._polling: str | None = None

    @classmethod
    def engine(cls, packet: Packet) -> "Encoded":
        """One Engine.IO packet.

        Raises LocalProtocolError for text with U+001E, which a polling peer would take for two packets (send it as
        bytes), for text that is not Unicode, and for bytes in a packet that is not a MESSAGE.
        """
        if isinstance(packet.data, bytes):
            encode_binary(packet)
        elif payload.SEPARATOR in packet.data:
            raise LocalProtocolError("a text with U+001E cannot travel over polling: send it as bytes")
        return cls((packet,))

    @classmethod
    def socket(cls, packet: SocketPacket) -> "Encoded":
        """One Socket.IO packet and its attachments. Raises LocalProtocolError as `codec.encode` does."""
        text, attachments = codec.encode(packet)
        return cls((_message(text), *map(_message, attachments)))

    @property
    def websocket(self) -> bytes:
        """The RFC 6455 frames, ready and unmasked, as a server sends them."""
        if self._websocket is None:
            self._websocket = _frames(self.packets, revision=4)
        return self._websocket

    @property
    def websocket_v3(self) -> bytes:
        """As `websocket`, for a peer of revision 3: the same object when nothing is binary."""
        if self._websocket_v3 is None:
            binary = any(isinstance(packet.data, bytes) for packet in self.packets)
            self._websocket_v3 = _frames(self.packets, revision=3) if binary else self.websocket
        return self._websocket_v3

    @property
    def polling(self) -> str:
        """The revision 4 packet texts joined by U+001E: one item for `payload.encode`.

        For revision 3 give `packets` to `payload.encode_v3`.
        """
        if self._polling is None:
            self._polling = payload.SEPARATOR.join(map(encode_text, self.packets))
        return self._polling


def _message(data: str | bytes) -> Packet:
    return Packet(PacketType.MESSAGE, data)


def _size(packet: Packet) -> int:
    if isinstance(packet.data, bytes):
        return len(packet.data)
    return 1 + (len(packet.data) if packet.data.isascii() else len(_utf8(packet.data)))


def _frames(packets: tuple[Packet, ...], revision: int) -> bytes:
    return b"".join(
        server_frame(Opcode.BINARY, encode_binary(packet, revision))
        if isinstance(packet.data, bytes)
        else server_frame(Opcode.TEXT, _utf8(encode_text(packet)))
        for packet in packets
    )


def _utf8(text: str) -> bytes:
    return payload.encode([text])
