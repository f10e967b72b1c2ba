"""The page of the admin interface as a person uses it, in a real browser."""

import json
from functools import partial
from pathlib import Path

from engineio_trio.client import connect
from tests.faults.processes import Deployment, until
from tests.wire.browser import Tab, chromium, need_chromium

TOKEN = "a-token-for-operators-only"


def text_of(id: str) -> str:
    """What is written in an element of the page."""
    return f"document.getElementById({json.dumps(id)}).innerText"


async def shows(tab: Tab, id: str, *words: str) -> None:
    """Return when these words stand in an element."""
    await until(partial(tab.run, f"{json.dumps(words)}.every((word) => {text_of(id)}.includes(word))"))


async def test_the_page_shows_what_happens_and_sends(tmp_path: Path) -> None:
    need_chromium()
    async with Deployment(tmp_path / "daemon").running() as daemon, chromium(tmp_path) as browser:
        tab = await browser.open(f"http://{daemon.admin}/")
        await shows(tab, "state", "live")
        await shows(tab, "devices-note", "no devices")
        async with connect(daemon.url, auth={"deviceId": "kitchen-1"}) as device:
            await shows(tab, "devices", "kitchen-1", "online")

            async def heard() -> bool:
                await device.call("reading", {"celsius": 21})  # again, for the page shows only what comes from now on
                return bool(await tab.run(f"""{text_of("tails")}.includes('{{"celsius":21}}')"""))

            await until(heard)
            await tab.run("document.querySelector('[aria-label=\"Send to kitchen-1\"]').click()")
            await tab.run("document.getElementById('data').value = 'no json'; document.getElementById('send').click()")
            await shows(tab, "sent", "not JSON")
            await tab.run("document.getElementById('data').value = '{\"light\": \"on\"}'")
            await tab.run("document.getElementById('send').click()")
            event = await anext(device)
            assert event.args[0] == {"light": "on"}
            event.ack()
            await shows(tab, "sent", "1 stored")
            await shows(tab, "tails", "acked")
            await tab.run("window.confirm = () => true")
            await tab.run("document.querySelector('[aria-label=\"Kick kitchen-1\"]').click()")
            assert (await anext(device)).name == "kicked"
        await shows(tab, "devices-note", "no devices")
        await shows(tab, "tails", "offline", "kicked by an operator")


async def test_the_page_asks_for_the_token(tmp_path: Path) -> None:
    need_chromium()
    deployment = Deployment(tmp_path / "daemon")
    async with deployment.running(PUSHD_ADMIN__TOKEN=TOKEN) as daemon, chromium(tmp_path) as browser:
        tab = await browser.open(f"http://{daemon.admin}/")
        await shows(tab, "state", "a token is needed")
        assert await tab.run("document.getElementById('content').hidden")
        for typed, answer in (("wrong", "this is not the token"), (TOKEN, "live")):
            await tab.run(f"document.getElementById('token').value = {json.dumps(typed)}")
            await tab.run("document.getElementById('login-form').requestSubmit()")
            await shows(tab, "state", answer)
        assert not await tab.run("document.getElementById('content').hidden")
