"""One outgoing message, rendered at most once per kind of wire and shared by all who get it.

An event that asks for an acknowledgement has an id of its own for each peer, so that one cannot be shared.
"""

from typing import Any

from engineio_trio.errors import LocalProtocolError
from engineio_trio.protocol import codec, payload
from engineio_trio.protocol.engine import Packet, PacketType, decode_text, encode_binary, encode_text
from engineio_trio.protocol.frame import Opcode, server_frame
from engineio_trio.protocol.socket import RESERVED_EVENTS, Ack, Event, SocketPacket

_EVENT = b"%d%d" % (PacketType.MESSAGE, codec.Kind.EVENT)
_ACK = b"%d%d" % (PacketType.MESSAGE, codec.Kind.ACK)
_SHORT_TEXT_HEADS = [server_frame(Opcode.TEXT, bytes(size))[:2] for size in range(126)]


class Encoded:
    """Text and attachments of one Socket.IO packet, or one Engine.IO packet: they travel together, adjacent.

    Make one with `Encoded.engine`, `socket`, `event` or `ack`. `size` is the bytes that it counts for in an outbox:
    those of its text and attachments, without frames and base64. `websocket` is the RFC 6455 frames, unmasked, as a
    server sends them.
    """

    __slots__ = ("_attachments", "_packets", "_polling", "_text", "_websocket_v3", "size", "websocket")

    def __init__(self, text: bytes, attachments: tuple[bytes, ...] = ()) -> None:
        self._text = text  # the packet as a text message, in UTF-8; empty if it is binary
        self._attachments = attachments
        self.size = len(text) + sum(map(len, attachments)) if attachments else len(text)
        self._packets: tuple[Packet, ...] | None = None
        if self.size < len(_SHORT_TEXT_HEADS) and not attachments:  # nearly always
            self.websocket = _SHORT_TEXT_HEADS[self.size] + text
        else:
            self.websocket = self._frames(4)
        self._websocket_v3: bytes | None = None
        self._polling: str | None = None

    @classmethod
    def engine(cls, packet: Packet) -> "Encoded":
        """One Engine.IO packet.

        Raises LocalProtocolError for text with U+001E, which a polling peer would take for two packets (send it as
        bytes), for text that is not Unicode, and for bytes in a packet that is not a MESSAGE.
        """
        if isinstance(packet.data, bytes):
            return cls(b"", (encode_binary(packet),))
        if payload.SEPARATOR in packet.data:
            raise LocalProtocolError("a text with U+001E cannot travel over polling: send it as bytes")
        return cls(payload.encode([encode_text(packet)]))

    @classmethod
    def socket(cls, packet: SocketPacket) -> "Encoded":
        """One Socket.IO packet and its attachments. Raises LocalProtocolError as `codec.encode` does."""
        text, attachments = codec.encode(packet)
        return cls(b"4" + text.encode(), attachments)

    @classmethod
    def event(cls, name: str, args: tuple[Any, ...], namespace: str = "/", id: int | None = None) -> "Encoded":
        """As `socket(Event(name, args, namespace, id))`, by a shorter way for plain data."""
        if type(name) is str and name not in RESERVED_EVENTS:
            text = codec.encode_plain(_EVENT, namespace, id, [name, *args])
            if text is not None:
                return cls(text)
        return cls.socket(Event(name, args, namespace, id))

    @classmethod
    def ack(cls, id: int, args: tuple[Any, ...], namespace: str = "/") -> "Encoded":
        """As `socket(Ack(id, args, namespace))`, by a shorter way for plain data."""
        text = codec.encode_plain(_ACK, namespace, id, list(args))
        return cls.socket(Ack(id, args, namespace)) if text is None else cls(text)

    @property
    def packets(self) -> tuple[Packet, ...]:
        """The Engine.IO packets, adjacent."""
        if self._packets is None:
            texts = (decode_text(self._text.decode()),) if self._text else ()
            self._packets = (*texts, *(Packet(PacketType.MESSAGE, data) for data in self._attachments))
        return self._packets

    @property
    def websocket_v3(self) -> bytes:
        """As `websocket`, for a peer of revision 3: the same object when nothing is binary."""
        if self._websocket_v3 is None:
            self._websocket_v3 = self._frames(3) if self._attachments else self.websocket
        return self._websocket_v3

    def _frames(self, revision: int) -> bytes:
        texts = (server_frame(Opcode.TEXT, self._text),) if self._text else ()
        binary = [packet for packet in self.packets if isinstance(packet.data, bytes)]
        return b"".join([*texts, *(server_frame(Opcode.BINARY, encode_binary(packet, revision)) for packet in binary)])

    @property
    def polling(self) -> str:
        """The revision 4 packet texts joined by U+001E: one item for `payload.encode`.

        For revision 3 give `packets` to `payload.encode_v3`.
        """
        if self._polling is None:
            self._polling = payload.SEPARATOR.join(map(encode_text, self.packets))
        return self._polling
