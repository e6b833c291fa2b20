"""Where a message ends whose answer its source knows already (EIP: Idempotent Receiver): behind
those who say whether its sender may have it, and before whatever has an effect."""

from __future__ import annotations

from esb.adapter import repeated
from esb.envelope import Envelope
from esb.step import Step


def once(step: Step) -> Step:
    """A middleware: what is `repeated` goes no further, and comes back as it is."""

    async def unless_repeated(envelope: Envelope) -> Envelope:
        return envelope if repeated.get() else await step(envelope)

    return unless_repeated
