"""What a refused request looks like to its sender."""

from tests.raw import MemoryListener, Wire


async def refused(listener: MemoryListener, data: bytes | str, *, method: str = "GET") -> tuple[int, int]:
    """Send a request that must get one error answer, and then the end. Status and engine.io code."""
    raw = listener.connect()
    await raw.send(data)
    answer = await raw.answer(method)
    assert answer.headers["connection"] == "close"
    await raw.ends()
    return answer.refusal


async def still_serving(listener: MemoryListener) -> None:
    """A good client still connects."""
    wire = await Wire.joined(listener.connect())
    await wire.aclose()
