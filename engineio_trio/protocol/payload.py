"""A polling body: several packets in one HTTP request or answer (v4: joined by 0x1e; v3: length-prefixed)."""
from collections.abc import Sequence
from engineio_trio.protocol.engine import Packet

def encode(texts: Sequence[str]) -> bytes: ...     # v4: already encoded packet texts -> one body
def decode(body: bytes, *, max_packets: int) -> list[Packet]: ...   # v4; RemoteProtocolError (also for not UTF-8, empty packets)
# v3 (revision 3): lengths in UTF-16 units; binary payloads <0|1><digits><255>; b64
def encode_v3(packets: Sequence[Packet], *, binary: bool) -> bytes: ...
def decode_v3(body: bytes, *, binary: bool, max_packets: int) -> list[Packet]: ...
