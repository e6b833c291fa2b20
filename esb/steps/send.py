"""Channel Adapter, one-way (EIP): hand the message to an endpoint and wait until it is taken.

For example:

    send: {queue: orders}
"""

from __future__ import annotations

from pydantic import RootModel

from esb.adapter import Build, Role
from esb.envelope import Envelope, Outcome
from esb.options import RawSink
from esb.step import Step


class SendOptions(RootModel[RawSink]):
    """The endpoint: one adapter and its options, `{amqp: {queue: orders}}`."""


def make(options: SendOptions, build: Build) -> Step:
    """The message goes on unchanged; a route that ends here answers "accepted"."""
    endpoint = build.sink(options.root)

    build.body("inside")

    async def send(envelope: Envelope) -> Envelope:
        await endpoint.send(envelope)
        return envelope.replace(outcome=Outcome.ACCEPTED)

    return send


step = Role(SendOptions, make)
