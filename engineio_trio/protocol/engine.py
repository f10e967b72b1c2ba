"""Engine.IO packets as values, and as they travel: one text or one binary message each (protocol v4; v3 where it differs)."""

import dataclasses
import enum


class PacketType(enum.IntEnum):
    OPEN = 0
    CLOSE = 1
    PING = 2
    PONG = 3
    MESSAGE = 4
    UPGRADE = 5
    NOOP = 6


@dataclasses.dataclass(frozen=True, slots=True)
class Packet:
    """One Engine.IO packet. `data` is bytes only for a binary MESSAGE."""
    type: PacketType
    data: str | bytes = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Open:
    """What the OPEN packet says. Times in seconds (milliseconds on the wire)."""
    sid: str
    upgrades: tuple[str, ...]
    ping_interval: float
    ping_timeout: float
    max_payload: int
    def packet(self) -> Packet: ...
    @classmethod
    def parse(cls, data: str) -> "Open": ...   # RemoteProtocolError


def encode_text(packet: Packet) -> str: ...      # "4hello"; a binary MESSAGE -> "b"+base64 (v4)
def decode_text(text: str) -> Packet: ...        # accepts "b..." base64 too (strict alphabet); RemoteProtocolError otherwise
def decode_binary(data: bytes, revision: int = 4) -> Packet: ...   # v4: raw MESSAGE; v3: first byte is the type
