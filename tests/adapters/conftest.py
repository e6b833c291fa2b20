"""What speaks HTTP or AMQP runs on uvloop, as the bus does; its listener and the connections of its
client on asyncio's own too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

Factory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Factory]:
    name = item.path.name
    if not name.startswith(("test_web_", "test_http", "test_amqp_")):
        return {"asyncio": asyncio.new_event_loop}  # the plugin takes no None
    loops: dict[str, Factory] = {"uvloop": uvloop.new_event_loop}
    if name in ("test_web_listener.py", "test_web_connection.py", "test_web_proxy.py"):
        loops["asyncio"] = asyncio.new_event_loop
    return loops
