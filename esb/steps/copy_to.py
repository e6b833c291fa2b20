"""Wire Tap (EIP): send a copy aside; the message goes on, whether or not the copy arrived.

For example:

    copy_to: {queue: audit}
"""

from __future__ import annotations

import structlog
from pydantic import RootModel

from esb.adapter import Build, Role
from esb.durable import at_once
from esb.envelope import Envelope
from esb.errors import EsbError
from esb.options import RawSink
from esb.step import Step

log = structlog.get_logger("esb.copy_to")


class CopyToOptions(RootModel[RawSink]):
    """The endpoint: one adapter and its options, `{queue: audit}`. Use `send` if the copy must
    arrive."""


def make(options: CopyToOptions, build: Build) -> Step:
    """A copy that fails is logged and does not disturb the message; one that went through stays,
    whatever becomes of the message."""
    endpoint = build.sink(options.root)
    route = build.route

    async def copy_to(envelope: Envelope) -> Envelope:
        try:
            with at_once():
                await endpoint.send(envelope)
        except EsbError as e:
            log.warning("copy lost", route=route, message_id=envelope.id, code=e.code, why=e.detail)
        return envelope

    return copy_to


step = Role(CopyToOptions, make)
