"""Sampler: let through some of the messages, and filter the rest.

For example:

    sample: {every: 100}
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from pydantic import Field

from esb.adapter import Build, Role
from esb.clock import Clock
from esb.envelope import Envelope, Outcome
from esb.options import Duration, Options
from esb.step import Step

REMEMBERED: Final = 1000


class SampleOptions(Options):
    """One of `every`, `share` and `per`. What is not in the sample ends there, acknowledged."""

    every: int | None = Field(None, ge=1, description="One message of so many, the first included.")
    share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="This share of all messages, told by their ids: a message is always in the "
        "sample or never, in every route with the same share.",
    )
    per: Duration | None = Field(None, description="One message in such a time, the first of it.")


def make(options: SampleOptions, build: Build) -> Step:
    """A message in the sample goes on unchanged; what is not gets the outcome FILTERED.

    A message that is run again because it failed is let through again: its place was counted.
    """
    given = [name for name in ("every", "share", "per") if getattr(options, name) is not None]
    if len(given) != 1:
        raise build.problem("a sample is one of 'every', 'share' and 'per'", *given[1:2])
    if options.share is not None:
        limit = int(options.share * 2**64)
        chosen: Callable[[Envelope], bool] = lambda envelope: _number(envelope.id) < limit  # noqa: E731
    else:
        # The same after a reload.
        key = (f"sample {build.route}/{build.where}", options)
        chosen = build.shared(key, lambda: _Chooser(options, build.clock))

    build.body("kept")

    async def sample(envelope: Envelope) -> Envelope:
        return envelope if chosen(envelope) else envelope.replace(outcome=Outcome.FILTERED)

    return sample


def _number(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(errors="backslashreplace"), digest_size=8).digest())


class _Chooser:
    """Chooses one of so many, or one in such a time."""

    def __init__(self, options: SampleOptions, clock: Clock) -> None:
        self._every = options.every
        self._per = options.per or 0.0
        self._clock = clock
        self._passed = 0
        self._next = clock.monotonic()
        self._chosen: OrderedDict[str, None] = OrderedDict()

    def __call__(self, envelope: Envelope) -> bool:
        if envelope.id in self._chosen:
            return True
        if not self._is_next():
            return False
        self._chosen[envelope.id] = None
        if len(self._chosen) > REMEMBERED:
            self._chosen.popitem(last=False)
        return True

    def _is_next(self) -> bool:
        if self._every is not None:
            self._passed += 1
            return self._passed % self._every == 1 % self._every
        now = self._clock.monotonic()
        if now < self._next:
            return False
        self._next = now + self._per
        return True


step = Role(SampleOptions, make)
