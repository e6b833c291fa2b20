"""Splitter (EIP): run inner steps once for each part of the message.

`each` gives the parts as a list. `stream` reads them one by one from a body of any size: lines,
rows of CSV, items of a JSON array, elements of an XML document. With `gather` the results come back
as one list in the order of the parts (EIP: Composed Message Processor); without, the message goes
on as it was.

A stream is handled in batches, each one commit of its own with the place that was reached. What
fails is the batch: run again, the message goes on with that one. The last batch is committed with
the run.

For example:

    split:
      each: body.lines
      steps: [{send: {queue: lines}}]
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from itertools import islice
from os import SEEK_END
from typing import Any, BinaryIO, Final, Literal, NamedTuple

import msgspec
import structlog
from lxml import etree
from pydantic import Field

from esb.adapter import Build, Health, Role
from esb.codecs import FORMATS, Piece, Stream
from esb.durable import DEAD, KEPT, Change, Done, Failure, Put, Store, Unit, change, part, unit_on
from esb.envelope import Body, Envelope, Outcome, parse_content_type
from esb.errors import BadMessage, EsbError, Permanent, RouteFailure
from esb.logs import ABOUT
from esb.metrics import DEAD_LETTERS
from esb.options import Name, Options, RawSteps
from esb.step import Step, asked, give_back
from esb.steps._formats import STREAMED, StreamChoice, or_name
from esb.steps._parallel import Copy, copies, run_all

log = structlog.get_logger("esb.split")

BATCH_BYTES: Final = 8 * 1024 * 1024
"""A batch ends at the latest when so much of the body was read for it."""
SMALL: Final = 256 * 1024
"""A body up to this size, in bytes, is read where we are; others need not wait for a larger one."""
KEEP: Final = 30 * 86_400.0
"""Seconds for which it is remembered how far a message came that failed."""


class SplitOptions(Options):
    """Run steps for each part of the message."""

    name: Name = Field(
        "split",
        description="With `on_error: continue`, names the route that parts which failed run "
        "through again when they are replayed, `<route>/<name>`.",
    )
    each: str | None = Field(None, description="An expression that gives the list of parts.")
    stream: StreamChoice | None = Field(
        None,
        description="Read the parts one by one from a body of any size, also from a file: "
        "`lines`, `csv`, `{json: data.orders}`, `{xml: order}`, ...",
        json_schema_extra=or_name(STREAMED),
    )
    group: int | None = Field(
        None, ge=1, le=100_000, description="Make one part, a list, of so many, or what is left."
    )
    steps: RawSteps = Field(
        description="What to do with each part. `split.index` is its number from 0, `split.last` "
        "whether it is the last. Behind the step, `split.count` is how many there were and "
        "`split.failed` how many were left out by `on_error`."
    )
    gather: bool = Field(False, description="Whether the results become the new body, a list.")
    concurrency: int = Field(1, ge=1, le=1000, description="How many parts run at a time.")
    on_error: Literal["fail", "continue"] = Field(
        "fail",
        description="`fail`: a part that fails, fails the message. `continue`: what fails for good "
        "goes to the dead letters alone and the others go on; an error that may pass still fails "
        "the message, which is tried again.",
    )
    commit_every: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="So many parts of a stream are one batch: what they send to the bus's own "
        "queues is there together, and a message that fails goes on from there when it is tried "
        "again. With `gather` all is one batch.",
    )


class _Part(NamedTuple):
    number: int
    piece: Piece
    last: bool


class _Tally(msgspec.Struct):
    """How far a message is: parts that are done, of them accepted by somebody else, left out, and
    failed.
    `of` tells whether it was counted on the same body in the same way."""

    of: str = ""
    done: int = 0
    accepted: int = 0
    filtered: int = 0
    failed: int = 0


def make(options: SplitOptions, build: Build) -> Step:
    """A part that raises fails the whole message: none is lost, so those of its batch may run
    again. A part's id is the message's id with its number, the same each time the message runs
    (see `copies`).

    Raises RouteFailure if `each` gives no list, BadMessage where the body is no such stream.
    """
    if (options.each is None) == (options.stream is None):
        raise build.problem("split takes one of 'each' and 'stream'", hint="each: body.lines")
    batches = options.stream is not None and not options.gather
    if "commit_every" in options.model_fields_set and not batches:
        build.problem(
            "there are batches only of a stream, and none with 'gather'", "commit_every", key=True
        )
    copy = copies(build)
    steps = build.steps(options.steps, "steps")
    goes_on = options.on_error == "continue"
    store = build.store if goes_on or batches else None
    aside = f"{build.route}/{options.name}"
    if goes_on:
        build.continuation(options.name, _Replayed(), steps)
    pieces_of = _pieces_of(options, build)
    place = f"{KEPT}split:{build.route}/{build.where}"
    clock = build.clock

    async def run(envelope: Envelope, parts: Sequence[_Part], tally: _Tally) -> list[Envelope]:
        """The results of some parts, but those left out; counts them."""
        jobs = [(_step_of(one, steps), _envelope(copy, envelope, one)) for one in parts]
        if goes_on:
            jobs = [(_going_on(step, set_aside), one) for step, one in jobs]
        results = await run_all(jobs, options.concurrency)
        kept = [result for result in results if result.outcome is not Outcome.DEAD]
        tally.done += len(results)
        tally.failed += len(results) - len(kept)
        tally.accepted += sum(result.outcome is Outcome.ACCEPTED for result in kept)
        tally.filtered += sum(result.outcome is Outcome.FILTERED for result in kept)
        return kept

    async def set_aside(one: Envelope, error: Permanent) -> None:
        assert store is not None
        attempts = max(error.attempts, one.attempt)
        when = datetime.fromtimestamp(clock.time(), UTC)
        failure = Failure.of(error, aside, attempts, when)
        await change(store, Put(DEAD, one, attempts=attempts, failure=failure))
        DEAD_LETTERS.labels(aside, error.code).value += 1
        log.warning("a part went to the dead letters", message=one.id, error=error.detail)

    async def in_batches(envelope: Envelope, parts: _Parts, memory: _Memory) -> None:
        """Each batch in a commit of its own, but the last, which is the run's."""
        tally = memory.tally
        parts.skip(tally.done)
        while True:
            batch, more = await parts.take(options.commit_every)
            if not more:
                await run(envelope, batch, tally)
                await memory.forget()
                return
            async with Unit(memory.store) as unit:
                await run(envelope, batch, tally)
                unit.add(*memory.moved(clock.time() + KEEP))
                await unit.commit()
            await memory.learn_keys()

    async def split(envelope: Envelope) -> Envelope:
        tally = _Tally()
        results: list[Envelope] = []
        with await pieces_of(envelope) as parts:
            if batches and store is not None:
                memory = _Memory(store, place, envelope, options)
                await memory.learn()
                await in_batches(envelope, parts, memory)
                tally = memory.tally
            else:
                found, _ = await parts.take(None)
                results = await run(envelope, found, tally)
        told = {"count": tally.done, "failed": tally.failed}
        envelope = envelope.replace(params={**envelope.params, "split": told})
        if options.gather:
            kept = [r for r in results if r.outcome is not Outcome.FILTERED]
            return envelope.with_body(Body.of([r.body.data for r in kept]))
        counted = tally.done - tally.filtered
        if counted and tally.accepted + tally.failed == counted:
            return envelope.replace(outcome=Outcome.ACCEPTED)
        return envelope

    return split


# --- parts ----------------------------------------------------------------------------------------


def _pieces_of(options: SplitOptions, build: Build) -> Callable[[Envelope], Awaitable[_Parts]]:
    """What makes the parts of a message."""
    if options.each is not None:
        each = build.expression(options.each, "each")

        async def listed(envelope: Envelope) -> _Parts:
            found = await asked(each, envelope)
            if not isinstance(found, list | tuple):
                raise RouteFailure(f"split needs a list, '{options.each}' gave something else")
            return _Parts((Piece(_body(data)) for data in found), options.group)

        return listed
    assert options.stream is not None
    name, own = options.stream.chosen
    found: Stream[Any] | None = FORMATS[name].stream
    assert found is not None
    stream = found
    if options.group is not None and not stream.joins:
        build.problem(f"pieces of {name} make no list", "group", key=True)

    async def streamed(envelope: Envelope) -> _Parts:
        body = envelope.body
        source = body.open()
        pieces = stream.read(source, own, parse_content_type(body.content_type))
        return _Parts(pieces, options.group, source, beside=(body.size or 0) > SMALL)

    return streamed


class _Parts:
    """The parts of one message, which are made as they are taken.

    source: what they are read from; it is closed in the end. beside: they are read in a thread.
    """

    def __init__(
        self,
        pieces: Iterable[Piece],
        group: int | None,
        source: BinaryIO | None = None,
        *,
        beside: bool = False,
    ) -> None:
        self._source = source
        # One thread for all of it: libxml2's names belong to the thread that began to read, and
        # a document that ends in another one takes down the process.
        self._thread = ThreadPoolExecutor(1, "split") if beside else None
        self._broken: EsbError | None = None
        self._skip = 0
        self._parts = _numbered(pieces if group is None else _grouped(pieces, group))

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            give_back()
        if self._source is not None:
            self._source.close()

    def skip(self, count: int) -> None:
        """Pass over so many."""
        self._skip = count

    async def take(self, most: int | None) -> tuple[list[_Part], bool]:
        """The next `most` parts, or as many as BATCH_BYTES hold, and whether more may come; None:
        all that there are. What raises, raises behind the parts before it."""
        if self._broken is not None:
            raise self._broken
        if self._thread is None:
            return self._take(most)
        take = partial(copy_context().run, self._take, most)
        reading = asyncio.get_running_loop().run_in_executor(self._thread, take)
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            # Whoever cancels us closes the file, and the thread may still be at it.
            await asyncio.wait({reading})
            raise

    def _take(self, most: int | None) -> tuple[list[_Part], bool]:
        for _ in islice(self._parts, self._skip):
            pass
        self._skip = 0
        begun = self._source.tell() if self._source is not None else 0
        parts: list[_Part] = []
        try:
            for one in self._parts:
                parts.append(one)
                if most is None:
                    continue
                read = self._source.tell() - begun if self._source is not None else 0
                if len(parts) >= most or read >= BATCH_BYTES:
                    break
        except EsbError as e:
            if not parts or most is None:
                raise
            self._broken = e
            return parts, True
        return parts, bool(parts) and not parts[-1].last


def _numbered(pieces: Iterable[Piece]) -> Generator[_Part, None, None]:
    """Each with its number, and with whether it is the last: so one is always read ahead."""
    held: Piece | None = None
    number = 0
    try:
        for piece in pieces:
            if held is not None:
                yield _Part(number, held, last=False)
                number += 1
            held = piece
    except EsbError:
        if held is not None:
            yield _Part(number, held, last=False)
        raise
    if held is not None:
        yield _Part(number, held, last=True)


def _grouped(pieces: Iterable[Piece], size: int) -> Iterator[Piece]:
    """Lists of so many; a piece that cannot be read is a part of its own."""
    group: list[Any] = []
    for piece in pieces:
        try:
            if piece.error is not None:
                raise piece.error
            group.append(piece.body.data)
        except BadMessage as e:
            yield Piece(piece.body, e)
        if len(group) == size:
            yield Piece(_body(group))
            group = []
    if group:
        yield Piece(_body(group))


def _body(data: Any) -> Body:
    is_xml = isinstance(data, etree._Element)
    return Body.of(data, "application/xml" if is_xml else "application/json")


def _envelope(copy: Copy, envelope: Envelope, one: _Part) -> Envelope:
    facts = {"index": one.number, "last": one.last}
    params = {**envelope.params, "split": facts}
    return copy(envelope, one.number).replace(body=one.piece.body, params=params)


def _step_of(one: _Part, steps: Step) -> Step:
    """The steps for a part; an error on its way out learns which part it was."""

    async def run(envelope: Envelope) -> Envelope:
        try:
            if one.piece.error is not None:
                raise one.piece.error
            return await steps(envelope)
        except EsbError as e:
            e.noted(f"in part {one.number} of the message")
            raise

    return run


def _going_on(
    step: Step, set_aside: Callable[[Envelope, Permanent], Coroutine[Any, Any, None]]
) -> Step:
    """The step, but that what fails for good is set aside; its outcome is DEAD."""

    async def run(envelope: Envelope) -> Envelope:
        try:
            async with part():
                return await step(envelope)
        except Permanent as e:
            await set_aside(envelope, e)
            return envelope.replace(outcome=Outcome.DEAD)

    return run


# --- what is remembered ---------------------------------------------------------------------------


class _Memory:
    """How far the batches of a message have come, in the store.

    It is known by the route that the message is in (others may run the same steps on a copy of it)
    and by how often it has passed here in the same run (there may be a loop around).
    """

    def __init__(
        self, store: Store, channel: str, envelope: Envelope, options: SplitOptions
    ) -> None:
        self.tally = _Tally(f"{_told_apart(envelope.body)} {options.stream!r} {options.group}")
        self.store = store
        self._channel = channel
        self._run = unit_on(store)
        self._what = f"{channel} {envelope.id}"
        number = 0 if self._run is None else self._run.times(self._what)
        route, *_ = ABOUT.get()
        # An id may come from outside and be of any length.
        name = f"{route} {number} {envelope.id}".encode()
        self._group = blake2b(name, digest_size=20).hexdigest()
        self._keys: list[int] = []

    async def learn(self) -> None:
        """Learn how far the message is; it is at its beginning if it had another body then, or was
        split in another way."""
        found = await self.learn_keys()
        if found is not None and found.of == self.tally.of:
            self.tally = found

    async def learn_keys(self) -> _Tally | None:
        """Learn under which keys it is remembered, and return what is."""
        stored = await self.store.browse(self._channel, group=self._group)
        self._keys = [one.key for one in stored]
        return msgspec.json.decode(stored[-1].envelope.body.raw, type=_Tally) if stored else None

    def moved(self, until: float) -> list[Change]:
        """The changes that remember what is tallied now, and until when."""
        body = Body(msgspec.json.encode(self.tally), "application/json")
        put = Put(self._channel, Envelope(body=body), expires=until, group=self._group)
        return [*self._gone(), put]

    async def forget(self) -> None:
        """All is done: forget it with the commit of the run."""
        if self._keys:
            await change(self.store, *self._gone())
        if self._run is not None:
            self._run.did(self._what)

    def _gone(self) -> list[Change]:
        return [Done(key, lying_in=self._channel) for key in self._keys]


def _told_apart(body: Body) -> str:
    """What a body is told from others by, which may have the same size under the same id; its ends
    will do, since of a large one not all is read for that."""
    with body.open() as stream:
        size = stream.seek(0, SEEK_END)
        stream.seek(0)
        digest = blake2b(stream.read(SMALL), digest_size=20)
        stream.seek(max(0, size - SMALL))
        digest.update(stream.read(SMALL))
    return f"{size} {digest.hexdigest()}"


class _Replayed:
    """The source of the route of parts that failed: they come from the dead letters alone."""

    waits = False
    where = "parts that are replayed"

    async def start(self, step: Step) -> None:
        """There is nothing to take messages from."""

    async def stop(self, grace: float) -> None:
        """There is nothing to stop."""

    def health(self) -> Health:
        """Well."""
        return Health(True)


step = Role(SplitOptions, make)
