"""Recorded conversations, replayed: our server answers what the real client once said as node's does, packet by packet.

The transcripts of `node/` are also replayed against node itself, which shows that a failure is the server's and not the
replay's.
"""

from pathlib import Path

import pytest

from tests.wire.javascript import need_node, reference_server
from tests.wire.matching import Names
from tests.wire.replay import replay
from tests.wire.scenarios import SCENARIOS
from tests.wire.transcript import TRANSCRIPTS, load
from tests.wire.twin import twin_server

FILES = sorted(TRANSCRIPTS.glob("*/*.json"))


def name(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", FILES, ids=name)
async def test_our_server_answers_as_recorded(path: Path) -> None:
    async with twin_server() as port:
        await replay(load(path), port)


@pytest.mark.javascript
@pytest.mark.parametrize("path", FILES, ids=name)
async def test_node_answers_as_recorded(path: Path) -> None:
    need_node()
    async with reference_server() as server:
        await replay(load(path), server["port"])


def test_every_scenario_is_recorded_against_both_servers() -> None:
    expected = {f"{server}-{scenario}" for server in ("node", "ours") for scenario in SCENARIOS}
    assert {name(path) for path in FILES} == expected


async def test_a_different_answer_is_noticed() -> None:
    transcript = load(TRANSCRIPTS / "node" / "websocket.json")
    step = next(step for step in transcript.steps if step["from"] == "server" and "hello" in step.get("data", ""))
    step["data"] = step["data"].replace("hello", "goodbye")
    async with twin_server() as port:
        with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="but recorded is"), flatten_subgroups=True):
            await replay(transcript, port)


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ('42["a",{"x":1,"y":2}]', '42["a",{"y": 2, "x": 1}]'),
        ('0{"sid":"$SID1"}', '0{"sid":"abc"}'),
        ("3probe", "3probe"),
        ('44/unknown,{"message":"Invalid namespace"}', '44/unknown,{"message":"Invalid namespace"}'),
    ],
)
def test_same_packets_match(recorded: str, said: str) -> None:
    assert Names().match(recorded, said)


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ('42["a",1]', '42["a",true]'),
        ('42["a"]', '43["a"]'),
        ('42["a"]', '42["a",null]'),
        ('42[{"x":1}]', '42[{"x":1,"y":2}]'),
        ('40/a,{"sid":"$SOCKET1"}', '40/b,{"sid":"x"}'),
        ('0{"sid":"$SID1","n":"$SID2"}', '0{"sid":"same","n":"same"}'),
        ('0{"sid":"$SID1","n":"$SID1"}', '0{"sid":"one","n":"other"}'),
        ("3probe", "3"),
    ],
)
def test_different_packets_do_not_match(recorded: str, said: str) -> None:
    assert not Names().match(recorded, said)
