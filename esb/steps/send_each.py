"""Recipient List (EIP): send the message to those of a list of endpoints whom it is for.

For example:

    send_each:
      to:
        archive: {send: {queue: archive}}
        courier: {send: {http: https://courier.example/orders}, when: body.express}
"""

from __future__ import annotations

from pydantic import Field

from esb.adapter import Build, Expression, Role, Sink
from esb.envelope import Envelope, Outcome
from esb.errors import BadMessage
from esb.options import Options, RawSink
from esb.step import Step, asked
from esb.steps._parallel import run_all


class Recipient(Options):
    send: RawSink = Field(description="The endpoint: one adapter and its options.")
    when: str | None = Field(
        None, description="An expression; it is sent there only if this is true."
    )


class SendEachOptions(Options):
    """Send the message to several endpoints."""

    to: dict[str, Recipient] = Field(
        description="Name: endpoint, `{audit: {send: {queue: audit}, when: body.amount > 1000}}`."
    )
    names: str | None = Field(
        None,
        description="An expression that gives the list of those names it is for, or one of them; "
        "all of them if left out. What a message says never is an address, only one of these "
        "names.",
    )
    concurrency: int = Field(1, ge=1, le=100, description="How many are sent to at a time.")


def make(options: SendEachOptions, build: Build) -> Step:
    """The message goes on unchanged, as accepted if it was sent to anybody. One that cannot be sent
    fails it, so that it is sent to all of them again: one after the other those behind have not
    got it, side by side they have. Raises BadMessage for a name that is none of the list's.
    """
    if not options.to:
        raise build.problem("there is nobody to send to", hint="to: {name: {send: {...}}}")
    recipients = {
        name: _recipient(recipient, build, "to", name) for name, recipient in options.to.items()
    }
    names_of = build.expression(options.names, "names") if options.names is not None else None

    async def send_each(envelope: Envelope) -> Envelope:
        names: list[object] = list(recipients)
        if names_of is not None:
            names = _names(await asked(names_of, envelope))
        chosen: list[Step] = []
        for name in dict.fromkeys(names):
            if name not in recipients:
                raise BadMessage(f"{str(name)[:60]!r} is none of those it may be sent to")
            when, send = recipients[name]
            if when is None or await asked(when, envelope):
                chosen.append(send)
        await run_all([(send, envelope) for send in chosen], options.concurrency)
        return envelope.replace(outcome=Outcome.ACCEPTED) if chosen else envelope

    return send_each


def _recipient(
    options: Recipient, build: Build, *path: str | int
) -> tuple[Expression | None, Step]:
    sink: Sink = build.sink(options.send, *path, "send")
    when = build.expression(options.when, *path, "when") if options.when is not None else None

    async def send(envelope: Envelope) -> Envelope:
        await sink.send(envelope)
        return envelope

    return when, send


def _names(value: object) -> list[object]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


step = Role(SendEachOptions, make)
