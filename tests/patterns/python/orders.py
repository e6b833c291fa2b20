"""What the example of the Messaging Mapper calls."""

from __future__ import annotations

from typing import Any

from esb.envelope import Envelope


def total(message: Envelope) -> Any:
    """The new body: an order and what it costs."""
    order = message.body.data
    return {"id": order["id"], "total": sum(line["price"] for line in order["lines"])}
