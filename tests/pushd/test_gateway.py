"""The whole node in one process, over real sockets: admission, delivery, takeover, streams, and the end."""

import contextlib
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
import trio_websocket

from pushd import admission, gateway
from pushd.errors import StoreUnavailable
from pushd.model import Bound, Message, Stream, Throttled
from tests.patience import PATIENCE
from tests.pushd.node_support import HMAC, Running, running, token
from tests.pushd.raw_device import Refused

# ---- admission ----


@pytest.fixture
def unforgiving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets for wrong credentials come back so slowly that a test sees nothing of it."""
    monkeypatch.setattr(admission, "PERIOD", 3_600.0)


async def handshake(node: Running, query: str = "", **headers: str) -> httpx.Response:
    """The first request of a polling client."""
    async with httpx.AsyncClient() as http:
        return await http.get(f"http://{node.devices}/socket.io/?EIO=4&transport=polling{query}", headers=headers)


async def test_a_request_that_names_a_device_is_judged_at_once(tmp_path: Path) -> None:
    """401 with WWW-Authenticate, also for what can be no id, 200 for a good one: on polling."""
    async with running(tmp_path, **HMAC) as node:
        refused = await handshake(node, "&deviceId=d1&token=nonsense")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "token" in refused.json()["message"]
        assert (await handshake(node, "&deviceId=d1")).status_code == 401
        assert (await handshake(node, f"&deviceId=d2&token={token('d1')}")).status_code == 401
        assert (await handshake(node, "&deviceId=" + "x%7D%7Bb3")).status_code == 401
        assert (await handshake(node, f"&deviceId=d1&token={token('d1')}")).status_code == 200
        assert (await handshake(node, authorization=f"Bearer {token('d1')}")).status_code == 200
        assert (await handshake(node)).status_code == 200, "this one may still say it in CONNECT"


async def test_a_websocket_handshake_is_refused_with_the_same_status(tmp_path: Path) -> None:
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with running(tmp_path, **HMAC) as node, httpx.AsyncClient() as http:
        url = f"http://{node.devices}/socket.io/?EIO=4&transport=websocket&deviceId=d1&token=nonsense"
        refused = await http.get(url, headers=upgrade)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"


async def test_connect_without_credentials_is_refused_in_its_words(tmp_path: Path) -> None:
    async with running(tmp_path, **HMAC) as node:
        for auth in (None, {}, {"deviceId": "d1"}, {"token": "nonsense"}, {"deviceId": "d2", "token": token("d1")}):
            with pytest.raises(Refused) as caught:
                async with node.device(auth=auth):
                    pass
            assert caught.value.data["data"] == {"code": 401}
            assert caught.value.data["message"]


async def test_connect_may_bring_the_credentials(tmp_path: Path) -> None:
    async with running(tmp_path, **HMAC) as node, node.device(auth={"deviceId": "d1", "token": token("d1")}):
        assert (await node.store.device("d1")).online  # type: ignore[union-attr]


async def test_request_and_connect_must_not_name_different_devices(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        with pytest.raises(Refused):
            async with node.device("d1", auth={"deviceId": "d2"}):
                pass
        assert await node.store.device("d2") is None


@pytest.mark.parametrize("wrong", ["&token=nonsense", "&deviceId=d1&token=nonsense", "&deviceId=d%201"])
@pytest.mark.usefixtures("unforgiving")
async def test_who_fails_too_often_has_to_wait_and_no_other_at_that_address(wrong: str, tmp_path: Path) -> None:
    """H20, I6: 429 with Retry-After, before the authenticator is asked; a site's other devices come in."""
    async with running(tmp_path, **HMAC) as node:
        codes = [(await handshake(node, wrong)).status_code for _ in range(22)]
        assert codes == [401] * 20 + [429] * 2
        waiting = await handshake(node, wrong)
        assert int(waiting.headers["retry-after"]) >= 1
        assert (await handshake(node, f"&token={token('d2')}")).status_code == 200
        assert (await handshake(node, f"&deviceId=d2&token={token('d2')}")).status_code == 200


@pytest.mark.usefixtures("unforgiving")
async def test_a_device_that_has_to_wait_is_not_let_in_with_the_right_token(tmp_path: Path) -> None:
    """H20: else guessing would go on, and be answered by the one right guess."""
    async with running(tmp_path, **HMAC) as node:
        for _ in range(20):
            await handshake(node, "&deviceId=d1&token=nonsense")
        assert (await handshake(node, f"&deviceId=d1&token={token('d1')}")).status_code == 429


@pytest.mark.usefixtures("unforgiving")
async def test_an_address_that_fails_for_ever_new_devices_has_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H20."""
    monkeypatch.setattr(admission, "ADDRESS_FAILURES", 30)
    async with running(tmp_path, **HMAC) as node:
        codes = [(await handshake(node, f"&deviceId=d{n}&token=nonsense")).status_code for n in range(32)]
        assert codes == [401] * 30 + [429] * 2
        assert (await handshake(node, f"&token={token('d1')}")).status_code == 429


async def test_a_store_that_is_away_is_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F2: never 401, and the client is told to come back."""
    async with running(tmp_path) as node:

        async def away(*args: object) -> None:
            raise StoreUnavailable("gone fishing")

        monkeypatch.setattr(node.store, "admits", away)
        refused = await handshake(node, "&deviceId=d1")
        assert refused.status_code == 503
        assert 1 <= int(refused.headers["retry-after"]) <= 10
        monkeypatch.setattr(node.store, "login", away)
        with pytest.RaisesGroup(pytest.RaisesExc(EOFError, match="1013")):  # no CONNECT_ERROR: clients would stay away
            async with node.device(auth={"deviceId": "d1"}):
                pass


async def test_a_login_that_fails_ends_its_connection_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I6: it is in a task of the node's."""
    async with running(tmp_path) as node, node.device("d1") as other:

        async def fails(*args: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(node.store, "login", fails)
        with pytest.RaisesGroup(pytest.RaisesExc(EOFError, match="1011")):
            async with node.device("d2"):
                pass
        assert await other.call("still", "here") == []


async def test_too_many_takeovers_are_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    async with running(tmp_path, takeover={"max": 2, "window": 60.0}) as node, contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            holder = await stack.enter_async_context(node.device("d1"))
        refused = await handshake(node, "&deviceId=d1")
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        with pytest.raises(Refused) as caught:
            async with node.device(auth={"deviceId": "d1"}):
                pass
        assert caught.value.data["data"]["code"] == 429
        assert await holder.call("still", "here") == []


async def test_a_connection_that_breaks_during_its_login_leaves_no_binding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4: the login is carried through, so its end is too."""
    async with running(tmp_path) as node:
        login, began, goes_on = node.store.login, trio.Event(), trio.Event()

        async def slow(*args: Any) -> Bound | Throttled:
            began.set()
            await goes_on.wait()
            return await login(*args)

        monkeypatch.setattr(node.store, "login", slow)
        websocket = await trio.open_tcp_stream(*address_of(node))
        async with trio.open_nursery() as nursery:
            connection = await trio_websocket.wrap_client_stream(
                nursery, websocket, node.devices, "/socket.io/?EIO=4&transport=websocket&deviceId=d1"
            )
            await connection.get_message()
            await connection.send_message("40")
            await began.wait()
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(websocket)
        await trio.testing.wait_all_tasks_blocked(0.05)  # the server has seen it, and waits for the login
        goes_on.set()
        await node.tells(Stream.STATUS, ("d1", "offline"), "device", "event")
        assert not (await node.store.device("d1")).online  # type: ignore[union-attr]


def address_of(node: Running) -> tuple[str, int]:
    host, _, port = node.devices.partition(":")
    return host, int(port)


# ---- delivery ----


async def test_a_push_reaches_its_device_and_is_acknowledged(tmp_path: Path) -> None:
    async with running(tmp_path) as node, node.device("d1") as device:
        answer = await node.push(to="device:d1", data={"n": 1}, id="p1", event="news")
        assert answer["counts"] == {"stored": 1}
        ack, (event, data, meta) = await device.event()
        assert (event, data, meta["id"], meta["redelivered"]) == ("news", {"n": 1}, "p1", False)
        await device.ack(ack)
        await node.tells(Stream.RECEIPT, ("p1", "d1", "acked"), "id", "device", "state")
        assert (await node.store.counts()).inbox == 0


async def test_what_the_store_gives_together_is_written_at_its_end(tmp_path: Path) -> None:
    async with running(tmp_path) as node, node.device("d1") as device:
        (connection,) = node.gateway.server._engine.sessions.values()
        hub = node.gateway._node.hub
        with hub.together():
            assert hub.cast("d1", Message(0, "p1", "news", "[1]", redelivered=False))
            assert connection.outbox.pending
        assert not connection.outbox.pending
        _, (event, data, _) = await device.event()
        assert (event, data) == ("news", [1])


async def test_a_push_that_waits_says_when_it_was_acknowledged(tmp_path: Path) -> None:
    async with running(tmp_path) as node, node.device("d1") as device, trio.open_nursery() as nursery:

        async def client() -> None:
            ack, *_ = await device.push()
            await device.ack(ack)

        nursery.start_soon(client)
        answer = await node.push(to="device:d1", id="p1", wait=10)
        assert answer["counts"] == {"acked": 1}
        answer = await node.push(to="device:d1", id="p1", wait=10)
        assert answer["counts"] == {"duplicate": 1}


async def test_a_push_that_waits_in_vain_says_how_far_it_came(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        answer = await node.push(to="device:away", wait=0.2)
        assert answer["counts"] == {"stored": 1}


async def test_a_push_waits_for_its_own_acknowledgement(tmp_path: Path) -> None:
    async with running(tmp_path) as node, node.device("d1") as device, trio.open_nursery() as nursery:
        await node.push(to="device:d1", id="p0")
        first, *_ = await device.push()

        async def client() -> None:
            await device.push()
            await device.ack(first)

        nursery.start_soon(client)
        answer = await node.push(to="device:d1", id="p1", wait=0.5)
        assert answer["counts"] == {"stored": 1}
        await node.tells(Stream.RECEIPT, ("p0", "acked"), "id", "state")


async def test_what_was_said_before_leaving_is_stored(tmp_path: Path) -> None:
    async with running(tmp_path) as node, node.device("d1") as device:
        for number in range(5):
            await device.emit("last", number)
        await device.leave()
        await node.tells(Stream.UPLINK, ("last", "4"), "event", "data", within=1)


async def test_stored_while_offline_and_replayed_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        for number in range(40):
            await node.push(to="device:d1", data=number, id=f"p{number}")
        async with node.device("d1") as device:
            for number in range(40):
                ack, data, meta = await device.push()
                assert (data, meta["id"], meta["redelivered"]) == (number, f"p{number}", False)
                await device.ack(ack)


async def test_topics_and_all(tmp_path: Path) -> None:
    async with running(tmp_path, **HMAC) as node:
        news, other = token("d1", topics=["news"]), token("d2")
        async with node.device("d1", token=news) as first, node.device("d2", token=other) as second:
            assert (await node.push(to="topic:news", data="t"))["counts"] == {"stored": 1}
            assert (await first.push())[1] == "t"
            assert (await node.push(to="all", data="a"))["counts"] == {"stored": 2}
            assert (await first.push())[1] == "a"
            assert (await second.push())[1] == "a"
            assert (await node.push(to="all", data="q", qos=0))["counts"] == {"delivered": 2}
            assert (await second.push())[1:] == (
                "q",
                {"id": (await node.told(Stream.RECEIPT, "id"))[-1][0], "seq": 0, "redelivered": False},
            )


async def test_an_event_of_a_device_is_acknowledged_after_it_is_stored(tmp_path: Path) -> None:
    """I7."""
    async with running(tmp_path) as node, node.device("d1") as device:
        assert await device.call("reading", {"t": 21}, [1]) == []
        assert await node.told(Stream.UPLINK, "device", "event", "data") == [("d1", "reading", '[{"t":21},[1]]')]


async def test_a_takeover_over_the_wire(tmp_path: Path) -> None:
    """`kicked` with the reason, DISCONNECT, then the end."""
    async with running(tmp_path) as node, node.device("d1") as old, node.device("d1") as new:
        _, (event, why) = await old.event()
        assert (event, why["reason"]) == ("kicked", "takeover")
        assert await old.packet() == "1"
        assert await old.close_code() == 1000
        assert await new.call("alive") == []
        assert await node.told(Stream.STATUS, "event") == [("online",), ("takeover",)]


async def test_a_client_that_leaves_is_offline(tmp_path: Path) -> None:
    async with running(tmp_path) as node, node.device("d1") as device:
        await device.leave()
        await node.tells(Stream.STATUS, ("offline", "client namespace disconnect"), "event", "reason")


# ---- streams ----


async def test_the_push_stream_is_carried_and_bad_entries_are_buried(tmp_path: Path) -> None:
    """I6, F19: garbage goes to `dead` with the reason, and what comes after it is delivered."""
    garbage: list[dict[str, str]] = [
        {},
        {"to": "device:d1"},
        {"to": "device:d1", "data": "{"},
        {"to": "nobody", "data": "1"},
        {"to": "device:d1", "data": "1", "ttl": "-1", "id": "bad-ttl"},
        {"to": "device:d1", "data": "1", "reason": "mine", "stream": "mine"},
        {"to": "device:d1", "data": "[" * 10_000},
    ]
    async with running(tmp_path) as node, node.device("d1") as device:
        for fields in garbage:
            await node.store.append(Stream.PUSH, fields)
        good = await node.store.append(Stream.PUSH, {"to": "device:d1", "data": '"good"'})
        _, data, meta = await device.push()
        assert (data, meta["id"]) == ("good", f"push-{good}")
        with trio.fail_after(PATIENCE):
            while (await node.store.counts()).streams[
                "push"
            ]:  # the good of a batch are carried before the bad are buried
                await trio.lowlevel.checkpoint()
        dead = await node.told(Stream.DEAD, "stream", "reason")
        assert len(dead) == len(garbage)
        named = ["to", "data", "data", "to", "ttl", "'reason'", "data"]
        assert [(stream, reason.partition(":")[0]) for stream, reason in dead] == [("push", field) for field in named]
        assert ("bad-ttl", "d1", "refused") in await node.told(Stream.RECEIPT, "id", "device", "state")


async def test_the_reconcile_stream_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as node, node.device("here"):
        await node.store.append(Stream.RECONCILE, {"devices": '["away","here"]', "id": "r1"})
        await node.tells(Stream.RECONCILED, ("r1", '["away"]'), "id", "offline")
        await node.store.append(Stream.RECONCILE, {"devices": "oops"})
        await node.tells(Stream.DEAD, ("reconcile",), "stream")


async def test_counting(tmp_path: Path) -> None:
    """Connections and distinct devices."""
    async with running(tmp_path) as node, node.device("d1"), node.device("d2"):
        stats = await node.gateway.service.stats()
        assert (stats["connections"], stats["devices"], stats["store"]["online"]) == (2, 2, 2)


async def test_s14_a_device_that_sends_too_much_is_slowed_down_and_no_other(tmp_path: Path) -> None:
    """20 events at once and then 20 a second: 60 take 2 seconds, and none of them is lost."""
    async with running(tmp_path, limits={"uplink_rate": 20}) as node, node.device("neighbour") as neighbour:
        async with node.device("flooder") as flooder:
            for number in range(60):
                await flooder.emit("n", number)
            await node.tells(Stream.UPLINK, ("flooder", "21"), "device", "data")
            assert await neighbour.call("reading", 1) == []
            await node.tells(Stream.UPLINK, ("flooder", "59"), "device", "data", within=30)
            told = await node.told(Stream.UPLINK, "device", "data", "ts")
            assert node.gateway.server.connections == 2, "it is slowed down, not thrown out"
        stored = {data: float(ts) for device, data, ts in told if device == "flooder"}
        assert list(stored) == [str(number) for number in range(60)]
        assert stored["59"] - stored["0"] >= 1.0, "2 seconds, less what the first one took to be stored"


# ---- the end ----


async def test_drain_closes_the_transport_and_leaves_no_binding(tmp_path: Path) -> None:
    """I8, F24: 1012 and no DISCONNECT, so that clients come back; each device is logged out with the reason."""
    async with running(tmp_path) as node, node.device("d1") as first, node.device("d2") as second:
        assert node.gateway.service.ready() is None
        await node.gateway.drain(5.0)
        assert node.gateway.service.ready() == "server shutting down"
        assert (await first.close_code(), await second.close_code()) == (1012, 1012)
        assert (await node.store.counts()).online == 0
        ends = [told for told in await node.told(Stream.STATUS, "event", "reason") if told[0] == "offline"]
        assert ends == [("offline", "server shutting down")] * 2
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{node.admin}/ready")).status_code == 503
        with pytest.raises(OSError):
            await trio.open_tcp_stream(*address_of(node))


async def test_many_devices_are_not_sent_away_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F24: at a pace, so that the nodes that are left do not have them all in one moment."""
    monkeypatch.setattr(gateway, "PACE", 1.0)
    async with running(tmp_path) as node, node.device("d1") as first, node.device("d2") as second:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.gateway.drain, 8.0)
            assert await first.close_code() == 1012
            await node.tells(Stream.STATUS, ("d1", "offline"), "device", "event")
            assert (await node.store.counts()).online == 1, "the second one has its turn later"
            assert await second.close_code() == 1012
        assert (await node.store.counts()).online == 0
