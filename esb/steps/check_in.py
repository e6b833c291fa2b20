"""Claim Check (EIP): put content into the store, and go on with a ticket in its place.

For example:

    check_in: {scope: scans, field: document, keep: 2d}
"""

from __future__ import annotations

import secrets

from pydantic import Field

from esb.adapter import Build, Role
from esb.durable import Put, change
from esb.envelope import Body, Envelope
from esb.options import Duration
from esb.step import Step, asked
from esb.steps._claims import TICKET, ClaimOptions, at_field, channel_of
from esb.steps.set import with_field


class CheckInOptions(ClaimOptions):
    """What is kept for `check_out`."""

    keep: Duration = Field(
        7 * 86_400.0, description="How long it is kept; then it is forgotten, whoever has a ticket."
    )


def make(options: CheckInOptions, build: Build) -> Step:
    """The content is there for the steps behind this one at once, and for others once the run is
    through; of a run that fails nothing stays. Who does not have the ticket cannot guess it."""
    store, clock = build.store, build.clock
    channel = channel_of(options, build)
    path = None if options.field is None else options.field.split(".")

    async def check_in(envelope: Envelope) -> Envelope:
        ticket = secrets.token_urlsafe(24)
        body = envelope.body
        if path is not None:
            body = Body.of(await asked(lambda whole: at_field(whole, path), envelope))
        content = Envelope(id=envelope.id, business_key=envelope.business_key, body=body)
        expires = clock.time() + options.keep
        await change(store, Put(channel, content, expires=expires, group=ticket))
        if options.header is not None:
            return envelope.replace(headers=envelope.headers.replace({options.header: ticket}))
        claim = {TICKET: ticket}
        if path is None:
            return envelope.with_body(Body.of(claim))
        data = with_field(envelope.body.data, path, claim)
        return envelope.with_body(Body.of(data, envelope.content_type))

    return check_in


step = Role(CheckInOptions, make)
