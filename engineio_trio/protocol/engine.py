"""Engine.IO packets as values, and as they travel: one text or one binary message each.

Protocol v4 (revision 4), and revision 3 where it differs: there a binary message keeps its type digit.
"""

import base64
import dataclasses
import enum

import msgspec

from engineio_trio.errors import LocalProtocolError, RemoteProtocolError
from engineio_trio.protocol.jsontext import encode_json


class PacketType(enum.IntEnum):
    """The type of a packet; the number is its digit on the wire (Engine.IO protocol v4, "Protocol")."""

    OPEN = 0
    CLOSE = 1
    PING = 2
    PONG = 3
    MESSAGE = 4
    UPGRADE = 5
    NOOP = 6


# Not int(): that takes the digits of every script.
_TYPES = {str(type_.value): type_ for type_ in PacketType}


class Packet(msgspec.Struct, frozen=True):  # a frozen dataclass takes several times as long to make
    """One Engine.IO packet. `data` is bytes only for a binary MESSAGE."""

    type: PacketType
    data: str | bytes = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Open:
    """What the OPEN packet says (Engine.IO protocol v4, "Handshake").

    Times are in seconds here and in whole milliseconds on the wire; `max_payload` is in bytes.
    """

    sid: str
    upgrades: tuple[str, ...]
    ping_interval: float
    ping_timeout: float
    max_payload: int

    def packet(self) -> Packet:
        """The OPEN packet that says this."""
        handshake = {
            "sid": self.sid,
            "upgrades": self.upgrades,
            "pingInterval": round(self.ping_interval * 1000),
            "pingTimeout": round(self.ping_timeout * 1000),
            "maxPayload": self.max_payload,
        }
        return Packet(PacketType.OPEN, encode_json(handshake))

    @classmethod
    def parse(cls, data: str) -> "Open":
        """What an OPEN packet's data says; members that we do not know are skipped.

        Raises RemoteProtocolError when it is not a JSON object with the members of a handshake.
        """
        try:
            wire = _HANDSHAKE.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as refusal:
            raise RemoteProtocolError(f"the OPEN packet is not a handshake: {refusal}") from refusal
        return cls(wire.sid, wire.upgrades, wire.ping_interval / 1000, wire.ping_timeout / 1000, wire.max_payload)


class _Handshake(msgspec.Struct, rename="camel"):
    sid: str
    ping_interval: float
    ping_timeout: float
    upgrades: tuple[str, ...] = ()
    max_payload: int = 1_000_000  # revision 3 does not say it: the default of engine.io

    def __post_init__(self) -> None:
        if not (self.ping_interval > 0 and self.ping_timeout > 0 and self.max_payload > 0):
            raise ValueError("pingInterval, pingTimeout and maxPayload must be more than 0")


_HANDSHAKE = msgspec.json.Decoder(_Handshake)


def encode_text(packet: Packet, revision: int = 4) -> str:
    """The packet as one text: `"4hello"`; a binary MESSAGE as `"b"` and base64 (revision 3: `"b4"`).

    This is a WebSocket text message and one packet of a polling body ("Packet encoding").
    Raises LocalProtocolError for bytes in a packet that is not a MESSAGE.
    """
    if isinstance(packet.data, str):
        return f"{packet.type:d}{packet.data}"
    return ("b" if revision == 4 else "b4") + base64.b64encode(_message_bytes(packet)).decode()


def encode_binary(packet: Packet, revision: int = 4) -> bytes:
    """A binary MESSAGE as one WebSocket binary message: its bytes as they are; in revision 3 after the byte 4.

    Raises LocalProtocolError for bytes in a packet that is not a MESSAGE, and for a packet that is text.
    """
    return _message_bytes(packet) if revision == 4 else b"\x04" + _message_bytes(packet)


def _message_bytes(packet: Packet) -> bytes:
    if packet.type is not PacketType.MESSAGE or isinstance(packet.data, str):
        raise LocalProtocolError(f"only a MESSAGE can be binary: {packet.type.name} with {type(packet.data).__name__}")
    return packet.data


def decode_text(text: str, revision: int = 4) -> Packet:
    """The packet of one text message; accepts the base64 form of a binary MESSAGE too.

    Raises RemoteProtocolError when the text is empty, its first character is no packet type, or the base64 has a
    character outside its alphabet or wrong padding.
    """
    if text[:1] == "b":
        return Packet(PacketType.MESSAGE, _decode_base64(text, revision))
    type_ = _TYPES.get(text[:1])
    if type_ is None:
        raise RemoteProtocolError(f"no Engine.IO packet begins with {text[:1]!r}" if text else "an empty packet")
    return Packet(type_, text[1:])


def _decode_base64(text: str, revision: int) -> bytes:
    if revision == 3 and text[1:2] != "4":
        raise RemoteProtocolError(f"only a message can be binary, not packet type {text[1:2]!r}")
    data = text[1 if revision == 4 else 2 :]
    if len(data) % 4 or data.endswith("==="):  # Python's strict mode lets padding behind a complete group pass
        raise RemoteProtocolError("not base64: wrong padding")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as refusal:  # binascii.Error is one
        raise RemoteProtocolError(f"not base64: {refusal}") from refusal


def decode_binary(data: bytes, revision: int = 4) -> Packet:
    """The packet of one binary message: a MESSAGE of these bytes; in revision 3 the first byte is the type.

    Raises RemoteProtocolError in revision 3 when that byte is missing or is not that of a message.
    """
    if revision == 4:
        return Packet(PacketType.MESSAGE, bytes(data))
    if data[:1] != b"\x04":
        raise RemoteProtocolError(f"only a message can be binary, not packet type {bytes(data[:1]).hex() or 'nothing'}")
    return Packet(PacketType.MESSAGE, bytes(data[1:]))
