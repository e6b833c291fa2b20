"""`accept: durable`: the message is on the disk before its sender hears that it was accepted."""

from __future__ import annotations

from esb.clock import REAL, Clock
from esb.consumer import Consumer
from esb.durable import Put, Store, change
from esb.durable import accept_channel as accept_channel
from esb.envelope import Envelope, Outcome
from esb.step import Step


def accepting(*, route: str, store: Store) -> Step:
    """Stores each message and answers that it was accepted; `accepted` runs the rest.

    Raises Overloaded or Transient when it could not be stored: then it was not accepted.
    """
    channel = accept_channel(route)

    async def accept(envelope: Envelope) -> Envelope:
        await change(store, Put(channel, envelope))
        return envelope.replace(outcome=Outcome.ACCEPTED)

    return accept


def accepted(store: Store, route: str, *, concurrency: int = 10, clock: Clock = REAL) -> Consumer:
    """The source of what was accepted, also by a process that died since."""
    return Consumer(
        store,
        accept_channel(route),
        route=route,
        concurrency=concurrency,
        receipts=True,
        clock=clock,
    )
