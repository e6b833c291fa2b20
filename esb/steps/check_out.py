"""Claim Check (EIP): bring back what `check_in` put into the store.

For example:

    check_out: {scope: scans, field: document}
"""

from __future__ import annotations

from typing import Any

from esb.adapter import Build, Role
from esb.durable import Put, unit_on
from esb.envelope import Body, Envelope
from esb.errors import BadMessage
from esb.step import Step, asked, weighed, weight
from esb.steps._claims import TICKET, ClaimOptions, at_field, channel_of
from esb.steps.set import with_field


class CheckOutOptions(ClaimOptions):
    """Which content comes back; say the same here as in `check_in`."""


def make(options: CheckOutOptions, build: Build) -> Step:
    """The content is where it was, as it was; it stays in the store for others who have the ticket.
    Raises BadMessage if there is no ticket, or none that opens anything here."""
    store, clock = build.store, build.clock
    channel = channel_of(options, build)
    path = None if options.field is None else options.field.split(".")

    def ticket_of(envelope: Envelope) -> str:
        ticket: Any
        if options.header is not None:
            ticket = envelope.headers.get(options.header)
        else:
            claim = envelope.body.data if path is None else at_field(envelope, path)
            ticket = claim.get(TICKET) if isinstance(claim, dict) else None
        if not isinstance(ticket, str) or not ticket:
            raise BadMessage("the message has no ticket")
        return ticket

    async def kept(ticket: str) -> Body:
        unit = unit_on(store)
        for change in unit.added() if unit is not None else ():
            if isinstance(change, Put) and (change.channel, change.group) == (channel, ticket):
                return change.envelope.body
        for stored in await store.browse(channel, group=ticket, limit=1):
            if stored.expires > clock.time():
                return stored.envelope.body
        raise BadMessage("nothing is kept under this ticket, or not any more")

    async def check_out(envelope: Envelope) -> Envelope:
        body = await kept(await asked(ticket_of, envelope))
        if path is None:
            return envelope.with_body(body)
        content = await asked(_data, envelope.with_body(body))
        data = with_field(envelope.body.data, path, content)
        result = envelope.with_body(Body.of(data, envelope.content_type))
        return weighed(result, weight(envelope.body) + weight(body))

    return check_out


def _data(envelope: Envelope) -> Any:
    return envelope.body.data


step = Role(CheckOutOptions, make)
