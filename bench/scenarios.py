"""What is measured. A scenario says what a client asks, what the backend answers, which routes the
bus runs for it (routes/<routes>.yaml), and how its messages are counted.

To compare with, nginx gets the same request and passes it to the same backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import orders
from load import Request

Way = Literal["http", "stored", "queued", "consumed"]
"""http: request and answer. stored: answered at once, delivered to the backend later; counted when
delivered. queued: answered when the broker has it; counted in the queue. consumed: taken from a
queue; counted at the backend."""

Answers = dict[str, tuple[str, bytes]]
"""Content type and body by path; no body is a 204."""


@dataclass(frozen=True)
class Scenario:
    """One measure. `good` tells whether an answer of the bus is what it should be."""

    name: str
    title: str
    routes: str
    request: Request
    answers: Answers
    way: Way = "http"
    good: Callable[[int, bytes], bool] = lambda status, body: status in (200, 204)
    uses_broker: bool = False


def _direct(name: str, title: str, size: int) -> Scenario:
    body = orders.json_of(size)
    return Scenario(
        name, title, "direct", Request("/echo", body), {"/echo": ("application/json", body)},
        good=lambda status, answer: status == 200 and answer == body,
    )  # fmt: skip


def _taking(name: str, title: str, way: Way, *, uses_broker: bool = False) -> Scenario:
    return Scenario(
        name, title, name, Request("/taken", orders.json_of(500)), {"/taken": ("", b"")}, way,
        good=lambda status, body: status == 202, uses_broker=uses_broker,
    )  # fmt: skip


def _soap_as_rest() -> Scenario:
    data = orders.as_json(orders.order(2))
    return Scenario(
        "soap-as-rest",
        "SOAP as REST: JSON in, SOAP call, JSON out (32 elements each way)",
        "soap-as-rest",
        Request("/orders/placeOrder", data),
        {
            "/soap": ("text/xml; charset=utf-8", orders.soap_reply(2)),
            # What nginx asks for: the path of its own request.
            "/orders/placeOrder": ("text/xml; charset=utf-8", orders.soap_reply(2)),
        },
        good=lambda status, body: status == 200 and b'"number":"2030-000123"' in body,
    )


def all_scenarios() -> list[Scenario]:
    """Those of a full run, in the order in which they are shown."""
    return [
        _soap_as_rest(),
        _taking("amqp-to-http", "AMQP to HTTP, 500 B", "consumed", uses_broker=True),
        _taking("http-to-amqp", "HTTP to AMQP, 500 B", "queued", uses_broker=True),
        _direct("direct-500", "DirectProxy, 500 B", 500),
        _direct("direct-10k", "DirectProxy, 10 KB", 10 * 1024),
        _taking("durable-accept", "Durable accept, then HTTP, 500 B", "stored"),
        _taking("queue-to-http", "HTTP to a queue of the bus, then HTTP, 500 B", "stored"),
    ]
