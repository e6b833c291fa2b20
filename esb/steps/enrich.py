"""Content Enricher (EIP): put what somebody else knows into the message.

For example:

    enrich:
      call: {http: {url: "https://crm.example/customers/{{ body.customer }}", method: GET}}
      into: customer
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from esb.adapter import Build, Role
from esb.envelope import Body, Envelope, Outcome
from esb.errors import RouteFailure
from esb.options import Options, RawCaller, RawSteps
from esb.step import LARGE, Step, asked, beside, weighed, weight
from esb.steps.set import with_field


class EnrichOptions(Options):
    """Ask an endpoint, or let steps find out, and add the answer to the body."""

    call: RawCaller = Field(None, description="Whom to ask: one adapter and its options.")
    steps: RawSteps | None = Field(None, description="Or steps whose result is the answer.")
    with_: str | None = Field(
        None,
        alias="with",
        description="The body of the question, an expression; the message's own if left out.",
    )
    into: str = Field(
        "",
        description="The dotted field of the body that the answer goes into; left out, the fields "
        "of the answer are put beside those of the body.",
    )


def make(options: EnrichOptions, build: Build) -> Step:
    """The message with the answer in its body, and otherwise as it was. A filtered answer adds
    nothing. Raises RouteFailure where body or answer has no fields.
    """
    if (options.call is None) == (options.steps is None):
        raise build.problem("enrich has one of 'call' and 'steps'")
    question = build.expression(options.with_, "with") if options.with_ is not None else None
    ask: Step
    if options.steps is not None:
        ask = build.steps(options.steps, "steps")
    else:
        ask = build.caller(options.call, "call").call
    path = options.into.split(".") if options.into else []

    async def enrich(envelope: Envelope) -> Envelope:
        put = envelope
        if question is not None:
            put = envelope.with_body(Body.of(await asked(question, envelope)))
        answer = await ask(put)
        if answer.outcome is Outcome.FILTERED:
            return envelope
        total = weight(envelope.body) + weight(answer.body)
        if total < LARGE:
            return merged(envelope, answer.body)
        return weighed(await beside(merged, envelope, answer.body), total)

    def merged(envelope: Envelope, answer: Body) -> Envelope:
        data = _merged(envelope.body.data, path, answer.data)
        return envelope.with_body(Body.of(data, envelope.content_type or "application/json"))

    return enrich


def _merged(data: Any, path: list[str], answer: Any) -> Any:
    if path:
        return with_field(data, path, answer)
    if not isinstance(answer, dict) or not isinstance(data, dict | None):
        raise RouteFailure("body and answer must be objects to be put together; see 'into'")
    return {**(data or {}), **answer}


step = Role(EnrichOptions, make)
