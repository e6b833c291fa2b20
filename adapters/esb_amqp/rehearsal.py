"""A broker that is played, for tests of routes: it is told what would be published."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from esb.adapter import RequestReply
from esb.envelope import Envelope
from esb.errors import TimedOut
from esb_amqp.client import Channel, Delivery
from esb_amqp.mapping import from_delivery
from esb_amqp.properties import Properties

_NO_CHANNEL = cast("Channel", None)  # nobody settles what is played


class PlayedBroker:
    """Whoever plays the broker gets each message as its receiver would, and confirms or answers."""

    def __init__(self, stand_in: RequestReply) -> None:
        self._stand_in = stand_in

    async def publish(
        self, exchange: str, key: str, properties: Properties, body: bytes, timeout: float
    ) -> Delivery:
        """Return once the message is confirmed, with what is answered, if that matters. Raises
        TimedOut, and what the broker or the receiver fails with."""
        sent = from_delivery(_delivery(exchange, key, properties, body), key)
        facts = {name: value for name, value in sent.params["amqp"].items() if value is not None}
        if exchange:
            del facts["queue"]
        try:
            async with asyncio.timeout(timeout):
                reply = await self._stand_in.call(sent.replace(params={"sent": facts}))
        except TimeoutError:
            raise TimedOut(f"no answer within {timeout:g} s") from None
        return _answer(reply)


def _delivery(exchange: str, key: str, properties: Properties, body: bytes) -> Delivery:
    return Delivery(_NO_CHANNEL, 0, False, exchange, key, properties, body)


def _answer(reply: Envelope) -> Delivery:
    headers: dict[str, Any] = dict(reply.headers)
    properties = Properties(content_type=reply.content_type, headers=headers or None)
    return _delivery("", "", properties, reply.body.raw)
