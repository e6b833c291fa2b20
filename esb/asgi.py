"""ASGI apps behind our listeners: FastAPI makes the pages and the admin API, nothing else needs it.

https://asgi.readthedocs.io/en/latest/specs/www.html, version 2.3.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from esb.http import Exchange, HungUp

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


async def answer(
    app: AsgiApp, exchange: Exchange, path: str, state: Mapping[str, Any] | None = None
) -> int:
    """Let an app answer an exchange; the status it answered with. path: decoded, where it looks. A
    HEAD is asked as a GET, for there is no other difference than that the body is left out."""
    connection = exchange.connection
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET" if exchange.method == "HEAD" else exchange.method,
        "scheme": connection.scheme,
        "path": path,
        "raw_path": path.encode(),
        "query_string": exchange.query.encode(),
        "root_path": "",
        "headers": [(name.encode(), str(value).encode()) for name, value in exchange.headers],
        "client": (connection.client, 0),
        "server": None,
        "state": dict(state or {}),
    }
    read = False
    start: dict[str, Any] = {}

    async def receive() -> dict[str, Any]:
        nonlocal read
        try:
            if not read:
                data = await exchange.receive()
                read = not data
                return {"type": "http.request", "body": data, "more_body": not read}
            await exchange.gone()
        except HungUp:
            pass
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        headers = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in
                   start.get("headers", ())]  # fmt: skip
        try:
            if not more and not exchange.answered:
                exchange.answer(start["status"], headers, body)
                return
            if not exchange.answered:
                size = dict(headers).get("content-length")
                exchange.begin(start["status"], headers, None if size is None else int(size))
            await exchange.write(body)
            if not more:
                exchange.end()
        except HungUp:
            pass  # the app hears of it when it asks

    await app(scope, receive, send)
    return int(start.get("status", 0))
