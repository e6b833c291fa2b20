"""What the steps send to the store's channels is there once they are through, all of it or none."""

from __future__ import annotations

from esb.durable import Store, Unit, unit_on
from esb.envelope import Envelope
from esb.step import Middleware, Step


def transactional(store: Store) -> Middleware:
    """Gather what the step changes in `store` and commit it when the step returned (Unit of Work;
    EIP: Transactional Client). Raises what `Store.commit` raises.

    Within the unit of whoever took the message, or of a step around this one, the changes are
    handed on instead: they are committed with that one's.
    """

    def middleware(step: Step) -> Step:
        async def transaction(envelope: Envelope) -> Envelope:
            async with Unit(store, within=unit_on(store)) as unit:
                result = await step(envelope)
                await unit.commit()
                return result

        return transaction

    return middleware
