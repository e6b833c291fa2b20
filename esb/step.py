"""The one abstraction: a step takes an envelope and returns one; composing steps gives a step.

The return value is the answer. A source hands each message to its step: returning acknowledges
the message and carries the reply, raising refuses it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from esb.envelope import Envelope, Outcome
from esb.errors import EsbError

Step = Callable[[Envelope], Awaitable[Envelope]]
Middleware = Callable[[Step], Step]

_STOPPED = (Outcome.FILTERED, Outcome.DEAD)


async def identity(envelope: Envelope) -> Envelope:
    """The step that does nothing."""
    return envelope


def pipeline(steps: Sequence[tuple[str, Step]]) -> Step:
    """Pipes and Filters: run named steps one after the other, each on the result of the last.

    A filtered message skips the rest. An error on its way out learns which step raised it
    (`EsbError.step`, the innermost name wins).
    """
    if not steps:
        return identity
    compiled = tuple(steps)

    async def run(envelope: Envelope) -> Envelope:
        current = ""
        try:
            for current, step in compiled:  # noqa: B007 - read when a step raises
                envelope = await step(envelope)
                if envelope.outcome in _STOPPED:
                    return envelope
        except EsbError as e:
            e.step = e.step or current
            raise
        return envelope

    return run


def wrap(step: Step, *middleware: Middleware) -> Step:
    """Put middleware around a step, the first one outermost."""
    for layer in reversed(middleware):
        step = layer(step)
    return step
