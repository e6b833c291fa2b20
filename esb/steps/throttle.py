"""Throttler: let through no more messages than so many in a time; the rest waits or is refused.

It counts by the generic cell rate algorithm (ITU-T I.371): a bucket is one number, the time at
which it is empty again.

For example:

    throttle: 10/s
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BeforeValidator, Field, WithJsonSchema

from esb.adapter import Build, Role
from esb.clock import Clock
from esb.envelope import Envelope
from esb.errors import Overloaded, RouteFailure
from esb.options import Options, parse_duration
from esb.step import Step, asked

_RATE: Final = re.compile(r"\s*([1-9]\d*)\s*/\s*(\d+(?:\.\d+)?)?\s*(ms|s|m|h|d)\s*")

LOOKED_AT: Final = 16
"""So many keys are looked at for one to forget."""


class Rate(NamedTuple):
    """So many messages in so many seconds."""

    messages: int
    seconds: float

    @property
    def interval(self) -> float:
        """Seconds from one to the next."""
        return self.seconds / self.messages


def parse_rate(value: Any) -> Rate:
    """A rate from "10/s" or "100/15m". Raises ValueError with the spelling that would do."""
    if isinstance(value, Rate):
        return value
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    seconds = parse_duration(f"{found[2] or 1}{found[3]}") if found else 0.0
    if not found or not seconds:
        raise ValueError("a rate is a number and a time: 10/s, 100/m or 5/10s")
    return Rate(int(found[1]), seconds)


class ThrottleOptions(Options):
    """How many messages in a time, of all or of each kind. One process counts for itself."""

    __shorthand__ = "rate"

    rate: Annotated[
        Rate,
        BeforeValidator(parse_rate),
        WithJsonSchema({"type": "string", "pattern": r"^\d+\s*/\s*(\d+(\.\d+)?)?\s*(ms|s|m|h|d)$"}),
    ] = Field(description="How many in what time: `10/s`, `100/15m`.")
    burst: int = Field(
        1, ge=1, description="How many may come at once when it was quiet before, within the rate."
    )
    by: str | None = Field(
        None, description="An expression: each value that it has gets the rate for itself."
    )
    when_full: Literal["wait", "reject"] = Field(
        "wait",
        description="`wait`: the message waits for its turn, in its run; a caller who would not "
        "wait so long is refused at once. `reject`: it fails with `overloaded`, and the time after "
        "which to try again.",
    )
    keys: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="How many values of `by` are counted at a time; messages with yet another one "
        "are refused until one of these is quiet.",
    )


def make(options: ThrottleOptions, build: Build) -> Step:
    """The message goes on unchanged, when it may. Raises Overloaded with `retry_after`."""
    key_of = build.expression(options.by, "by") if options.by is not None else None
    if options.by is None and "keys" in options.model_fields_set:
        build.problem("'keys' belongs to 'by'", "keys", key=True)
    clock = build.clock
    rejects = options.when_full == "reject"
    # A reload does not begin to count anew.
    name = f"throttle {build.route}/{build.where}"
    buckets = build.shared((name, options), lambda: Buckets(options, clock))

    build.body("kept")

    async def throttle(envelope: Envelope) -> Envelope:
        key = "" if key_of is None else _key(await asked(key_of, envelope))
        wait = buckets.take(key)
        if wait <= 0:
            return envelope
        deadline = envelope.deadline
        if rejects or (deadline is not None and clock.monotonic() + wait >= deadline):
            buckets.give_back(key)
            raise Overloaded("too many messages at once", retry_after=wait)
        try:
            await clock.sleep(wait)
        except asyncio.CancelledError:
            buckets.give_back(key)
            raise
        return envelope

    return throttle


class Buckets:
    """When which key may pass. Holds no more than `keys` of them."""

    def __init__(self, options: ThrottleOptions, clock: Clock) -> None:
        self._interval = options.rate.interval
        self._slack = (options.burst - 1) * self._interval
        self._most = options.keys
        self._clock = clock
        self._empty: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str) -> float:
        """Take a turn: seconds until it comes, 0 if it is there. Raises Overloaded if there are too
        many keys."""
        now = self._clock.monotonic()
        empty = max(self._empty.get(key, now), now)
        if key not in self._empty and len(self._empty) >= self._most:
            self._forget(now)
        self._empty[key] = empty + self._interval
        self._empty.move_to_end(key)
        return max(0.0, empty - self._slack - now)

    def give_back(self, key: str) -> None:
        """A turn that nobody used is for the next who comes."""
        if key in self._empty:
            self._empty[key] -= self._interval

    def _forget(self, now: float) -> None:
        """Make room for one more key: an empty bucket is as good as none."""
        for _ in range(LOOKED_AT):
            # Those used least lately are first.
            key, empty = self._empty.popitem(last=False)
            if empty <= now:
                return
            self._empty[key] = empty
        raise Overloaded("too many messages at once", retry_after=self._interval)


def _key(value: Any) -> str:
    if isinstance(value, dict | list):
        raise RouteFailure("what throttle goes by is a single value, no list and no object")
    return f"{type(value).__name__} {value}"


step = Role(ThrottleOptions, make)
