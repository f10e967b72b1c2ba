"""The page to look at: one HTML file, served with a policy under which nothing else can run or be loaded."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FILE: Final = Path(__file__).with_name("page.html")


def routes() -> list[Route]:
    """The route of the page. The file is read here, once."""
    html = FILE.read_bytes()
    headers = {
        "Content-Security-Policy": _policy(html.decode()),
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }

    async def page(request: Request) -> Response:
        return Response(html, headers=headers, media_type="text/html")

    return [Route("/", page, methods=["GET"])]


def _policy(html: str) -> str:
    """The page's own script and style by their hashes; requests to its own origin; nothing else, and no frames."""
    return (
        f"default-src 'none'; script-src {_hash(html, 'script')}; style-src {_hash(html, 'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(html: str, tag: str) -> str:
    """The CSP source of the only inline element of this kind."""
    [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
