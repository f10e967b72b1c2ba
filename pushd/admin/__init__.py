"""The admin interface: HTTP API, metrics, health and the page, on a listener of its own.

Starlette on Hypercorn's Trio worker does the HTTP. `server.serve` is the way in; `guard` decides who may ask at all,
`api` and `streams` answer, `metrics`, `health` and `page` are what their names say, and all errors have one shape
(`answers`).
"""

from pushd.admin.server import serve as serve
