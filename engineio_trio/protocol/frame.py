"""RFC 6455 frames: the header of what a server sends, and a guard that reads the header of all that a client sends."""
import enum

class Opcode(enum.IntEnum):
    CONTINUATION = 0; TEXT = 1; BINARY = 2; CLOSE = 8; PING = 9; PONG = 10

def server_frame(opcode: Opcode, payload: bytes) -> bytes: ...   # FIN, unmasked, whole

class FrameGuard:
    """Watches client->server bytes pass by; `feed(data)` raises FrameError as soon as a header (or the sizes so far) break a rule.

    Counts bytes (not characters) of the current message against max_payload, fragments against max_fragments.
    State between calls is constant-size; payload bytes are skipped, not stored.
    Violations: unmasked, RSV bits, unknown opcode, fragmented or >125 B control, orphan continuation, data frame inside
    a fragmented message, non-minimal length, length with top bit -> 1002; too big -> 1009; too many fragments -> 1008;
    close body of 1 byte / illegal codes may be left to wsproto.
    """
    def __init__(self, *, max_payload: int, max_fragments: int) -> None: ...
    def feed(self, data: bytes) -> None: ...

class FrameError(Exception):     # becomes RemoteProtocolError with .code and the CloseReason (PARSE_ERROR, TOO_BIG, POLICY)
    code: int
