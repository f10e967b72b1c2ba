"""protocol-fixtures/engine and protocol-fixtures/socket: every case, read and written."""

import base64
import json
import pathlib
from typing import Any

import pytest

from engineio_trio.errors import CloseReason, LocalProtocolError, RemoteProtocolError
from engineio_trio.protocol import codec, engine, payload
from engineio_trio.protocol.engine import Packet, PacketType
from engineio_trio.protocol.frame import FrameError, FrameGuard, Opcode, server_frame
from engineio_trio.protocol.socket import Ack, Connect, ConnectError, Disconnect, Event, SocketPacket

ROOT = pathlib.Path(__file__).parents[2] / "protocol-fixtures"


def _load(path: str) -> dict[str, Any]:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def _cases(path: str, key: str = "cases", wanted: str = "") -> list[Any]:
    """The cases of a file that have all the members named in `wanted`."""
    cases = [case for case in _load(path)[key] if case.keys() >= set(wanted.split())]
    return [pytest.param(case, id=case["name"]) for case in cases if not ("wire" not in wanted and "wire" in case)]


def _value(shown: Any) -> Any:
    """A value as Python has it: `{"base64": ...}` and `{"hex": ...}` alone in an object are bytes."""
    match shown:
        case {"base64": text} if len(shown) == 1:
            return base64.b64decode(text, validate=True)
        case {"hex": text} if len(shown) == 1:
            return bytes.fromhex(text)
        case dict():
            return {key: _value(member) for key, member in shown.items()}
        case list():
            return [_value(member) for member in shown]
    return shown


def _body(wire: Any) -> bytes:
    value = _value(wire)
    return value.encode() if isinstance(value, str) else value


def _engine_packet(shown: dict[str, Any]) -> Packet:
    return Packet(PacketType[shown["type"].upper()], _value(shown["data"]))


def _socket_packet(shown: dict[str, Any]) -> SocketPacket:
    namespace, value = shown["namespace"], _value(shown)
    match shown["type"]:
        case "connect":
            return Connect(namespace, value.get("data"), shown.get("query", ""))
        case "disconnect":
            return Disconnect(namespace)
        case "event":
            return Event(shown["name"], tuple(value["args"]), namespace, shown.get("id"))
        case "ack":
            return Ack(shown["id"], tuple(value["args"]), namespace)
        case "connect_error":
            return ConnectError(namespace, value["data"])
    raise AssertionError(f"unknown packet type in a fixture: {shown}")


def _assert_reason(case: dict[str, Any], error: RemoteProtocolError) -> None:
    assert error.reason is CloseReason(case.get("reason", "parse error"))


# Engine.IO packets


def _decode_engine(case: dict[str, Any]) -> Packet:
    wire = _value(case["wire"])
    decode: Any = engine.decode_text if isinstance(wire, str) else engine.decode_binary
    return decode(wire, case["revision"])


@pytest.mark.parametrize("case", _cases("engine/packets.json", wanted="wire packet"))
def test_engine_packet(case: dict[str, Any]) -> None:
    packet, wire = _engine_packet(case["packet"]), _value(case["wire"])
    assert _decode_engine(case) == packet
    encode: Any = engine.encode_text if isinstance(wire, str) else engine.encode_binary
    assert encode(packet, case["revision"]) == wire


@pytest.mark.parametrize("case", _cases("engine/packets.json", wanted="wire error"))
def test_engine_packet_refused(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        _decode_engine(case)
    _assert_reason(case, caught.value)


@pytest.mark.parametrize("case", _cases("engine/packets.json", wanted="packet error"))
def test_engine_packet_that_cannot_be_sent(case: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        engine.encode_text(_engine_packet(case["packet"]), case["revision"])
    with pytest.raises(LocalProtocolError):
        engine.encode_binary(_engine_packet(case["packet"]), case["revision"])


# Polling bodies

MAX_PACKETS = _load("engine/payloads.json")["limits"]["max_packets"]


def _decode_body(case: dict[str, Any]) -> list[Packet]:
    if case["revision"] == 4:
        return payload.decode(_body(case["wire"]), max_packets=MAX_PACKETS)
    return payload.decode_v3(_body(case["wire"]), binary=case["binary"], max_packets=MAX_PACKETS)


@pytest.mark.parametrize("case", _cases("engine/payloads.json", wanted="wire packets"))
def test_payload(case: dict[str, Any]) -> None:
    packets = [_engine_packet(packet) for packet in case["packets"]]
    assert _decode_body(case) == packets
    if case.get("only") == "decode":
        return
    if case["revision"] == 4:
        assert payload.encode([engine.encode_text(packet) for packet in packets]) == _body(case["wire"])
    else:
        assert payload.encode_v3(packets, binary=case["binary"]) == _body(case["wire"])
        assert payload.is_binary_v3(packets, binary=case["binary"]) is case["binary"]


@pytest.mark.parametrize("case", _cases("engine/payloads.json", wanted="wire error"))
def test_payload_refused(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        _decode_body(case)
    _assert_reason(case, caught.value)


# Socket.IO packets

LIMITS = _load("socket/packets.json")["limits"]


@pytest.mark.parametrize("case", _cases("socket/packets.json", wanted="wire packet"))
def test_socket_packet(case: dict[str, Any]) -> None:
    decoder = codec.Decoder(**LIMITS)
    packet, wire = _socket_packet(case["packet"]), _value(case["wire"])
    for message in wire[:-1]:
        assert decoder.feed(message) is None
        assert decoder.waiting
    assert decoder.feed(wire[-1]) == packet
    assert not decoder.waiting
    text, attachments = codec.encode(packet)
    if case.get("only") != "decode":
        assert [text, *attachments] == wire
    again = [decoder.feed(message) for message in [text, *attachments]]
    assert again == [None] * len(attachments) + [packet]


@pytest.mark.parametrize("case", _cases("socket/packets.json", wanted="wire error"))
def test_socket_packet_refused(case: dict[str, Any]) -> None:
    decoder = codec.Decoder(**LIMITS)
    *before, last = _value(case["wire"])
    for message in before:
        decoder.feed(message)
    with pytest.raises(RemoteProtocolError) as caught:
        decoder.feed(last)
    _assert_reason(case, caught.value)
    assert not decoder.waiting


@pytest.mark.parametrize("case", _cases("socket/packets.json", wanted="packet error"))
def test_socket_packet_that_cannot_be_sent(case: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        codec.encode(_socket_packet(case["packet"]))


# WebSocket frames

FRAME_LIMITS = _load("engine/frames.json")["limits"]


@pytest.mark.parametrize("case", _cases("engine/frames.json", "server", "wire payload"))
def test_server_frame(case: dict[str, Any]) -> None:
    assert server_frame(Opcode[case["opcode"].upper()], _value(case["payload"])) == _value(case["wire"])


@pytest.mark.parametrize("case", _cases("engine/frames.json", "client", "wire code"))
def test_client_frames(case: dict[str, Any]) -> None:
    guard = FrameGuard(**FRAME_LIMITS)
    if case["code"] is None:
        guard.feed(_value(case["wire"]))
        return
    with pytest.raises(FrameError) as caught:
        guard.feed(_value(case["wire"]))
    assert caught.value.code == case["code"]


def test_there_are_many_cases() -> None:
    """A file that is not found, or a key that is misspelt, must not pass as "no cases"."""
    counts = {path.name: len(json.loads(path.read_text())["cases"]) for path in ROOT.glob("*/pa*.json")}
    assert sum(counts.values()) >= 120, counts
