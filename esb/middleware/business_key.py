"""Gives messages the name by which people look for them: an order's number, a claim's."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Final
from uuid import UUID

from esb.adapter import Expression
from esb.envelope import Envelope
from esb.errors import BadMessage, EsbError
from esb.step import Middleware, Step, asked

LONGEST: Final = 200
_NAMES = (str, int, Decimal, UUID, date)


def keyed(expression: Expression, *, required: bool = True) -> Middleware:
    """Set `Envelope.business_key` to what `expression` makes of the message; nothing ("" or null)
    leaves the message without one.

    Raises what the expression raises, and BadMessage if that is no name or too long for one.
    required: if False, such a message goes on without a key. A route has both: around its dead
    letters one that never fails, so that they have the key, and within one that tells why there is
    none.
    """

    def middleware(step: Step) -> Step:
        async def key(envelope: Envelope) -> Envelope:
            try:
                name = _name(await asked(expression, envelope))
            except EsbError:
                if required:
                    raise
                name = ""
            if name != envelope.business_key:
                envelope = envelope.replace(business_key=name)
            return await step(envelope)

        return key

    return middleware


def _name(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, _NAMES) or isinstance(value, bool):
        raise BadMessage("the business key is no text or number")
    name = str(value)
    if len(name) > LONGEST:
        raise BadMessage(f"the business key is longer than {LONGEST} characters")
    return name
