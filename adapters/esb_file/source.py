"""`from: {file: ...}`: each file of a folder is a message (EIP: Polling Consumer, Event Message).

Once it is stored that a file was handled (see `esb.polling`) the file is moved, deleted or left, as
its route says. A process that dies in between finds on its next start that the file needs nothing
but that.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from math import inf
from pathlib import Path
from typing import Final

import structlog

from esb.adapter import Build, Health, Text, keeps_order
from esb.durable import MOST_CRASHES, Claim
from esb.envelope import MAX_WHOLE, Body, Envelope, Outcome
from esb.errors import EsbError, Permanent, Transient
from esb.polling import Item, PollingConsumer
from esb.step import Step
from esb_file import place
from esb_file.listing import Folder, Found, Listing, Watcher
from esb_file.media import content_type
from esb_file.options import DELETE, KEEP, SourceOptions

log = structlog.get_logger("esb.file")

READ_AT_ONCE: Final = 1024 * 1024
"""Up to so many bytes a file is read when it is taken; a larger one stays where it is, and is read
when a step asks."""

REMEMBERED: Final = 7 * 86_400.0
"""How long it is remembered that a file was handled: more than enough to move it."""
REMEMBERED_KEPT: Final = 10 * 365 * 86_400.0
"""The same of files that stay; it costs about 200 bytes each."""

ASK_AGAIN: Final = 2.0
"""Seconds until it is looked again whether another process is through with a file."""


@dataclass(slots=True, eq=False)
class _Known(Item):
    """A file that was looked at before. until: when to look at it again, on the clock that never
    jumps."""

    file: Found
    in_hand: bool = False
    until: float = 0.0


class FileTarget:
    """Where files go that are through: a path below `folder`, from text with {{ }}. apart: the name
    of the folder in the one that is read, "" if it is elsewhere."""

    def __init__(self, text: str, folder: Path, build: Build, *path: str | int) -> None:
        self.folder = folder
        self.apart = text.partition("/")[0]
        self._fixed = 0  # so much of the text is the folder's path
        if not self.apart:
            fixed = text.partition("{{")[0].rpartition("/")[0] + "/"
            self.folder, self._fixed = Path(fixed), len(fixed)
            if self.folder.is_relative_to(folder):
                build.problem(
                    "this path leads into the folder that is read",
                    *path,
                    hint=f"{self.folder.relative_to(folder)}/",
                )
        self._keeps_path = text.endswith("/")
        self._text: Text = build.text(text, *path)

    def path(self, file: Found, envelope: Envelope) -> str:
        """Where the file goes, below `folder`. Raises RouteFailure."""
        text = self._text(envelope)[self._fixed :]
        return text + file.path if self._keeps_path else text


class FileSource(PollingConsumer):
    """A Source over the files of a folder."""

    def __init__(self, options: SourceOptions, build: Build) -> None:
        where, scope = f"folder {options.folder}", f"file:{build.route}"
        super().__init__(
            build, where, scope, "file", in_turn=options.order, backoff=options.backoff
        )
        folder = build.data_folder(options.folder)
        build.channel(self.where, outside=True)
        if options.order:
            keeps_order(build, "order")
        if options.then != KEEP:
            # Two that do not move what they take may well read the same.
            for pattern in dict.fromkeys(options.glob):
                build.claim(f"{folder}/{pattern}", "folder")
        self._then = None
        if options.then not in (DELETE, KEEP):
            self._then = FileTarget(options.then, folder, build, "then")
        self._failed = None
        if options.failed is not None:
            self._failed = FileTarget(options.failed, folder, build, "failed")
        apart = frozenset(target.apart for target in (self._then, self._failed) if target)
        marker = build.text(options.marker, "marker") if options.marker else None
        self._folder = Folder(folder, options, marker, apart)
        self._options = options
        self._at_once = 1 if options.order else options.concurrency
        self._known: dict[str, _Known] = {}
        self._watcher: Watcher | None = None
        self._watched = (0, 0)
        self._changed = asyncio.Event()
        self._trouble = "not looked at yet"
        self._too_large = 0

    def _state(self) -> Health:
        if self._trouble:
            return Health(False, self._trouble)
        return Health(True, "; ".join(self._heed()))

    def _heed(self) -> Iterable[str]:
        troubles = [known for known in self._known.values() if known.trouble]
        if troubles:
            more = f" (and {len(troubles) - 1} more)" if len(troubles) > 1 else ""
            yield f"{troubles[0].file.params['path']}: {troubles[0].trouble}{more}"
        if self._too_large:
            yield f"{self._too_large} larger than max_size"

    # --- looking

    async def _poll(self, step: Step) -> None:
        slots = asyncio.Semaphore(self._at_once)
        self._known.clear()
        try:
            while True:
                try:
                    await self._round(step, slots)
                except Exception as e:
                    log.error("looking for files failed", route=self._route, exc_info=e)
                    self._trouble = "internal error"
                    await self._clock.sleep(self._backoff.longest)
        finally:
            if self._watcher is not None:
                self._watcher.stop()
            self._watcher, self._watched = None, (0, 0)

    async def _round(self, step: Step, slots: asyncio.Semaphore) -> None:
        """Look, take what is there, and wait until there may be more."""
        self._changed.clear()
        began = self._clock.monotonic()
        listing = await self._look()
        took = self._clock.monotonic() - began
        held_up = False
        for file in listing.files:
            await slots.acquire()
            taken = False
            try:
                taken = await self._take(step, file, slots)
            finally:
                if not taken:
                    slots.release()
            if self._options.order and not await self._through(file):
                held_up = True
                break
        if listing.more and not held_up:
            return
        # What is ever changing must not have us look all the time.
        await self._clock.sleep(took)
        await self._until_changed(listing.soon)

    async def _look(self) -> Listing:
        now = self._clock.monotonic()
        try:
            listing = await asyncio.to_thread(self._folder.look, now, self._unwanted)
        except (OSError, EsbError) as e:
            missing = isinstance(e, FileNotFoundError)
            told = "the folder is not there" if missing else _detail(e)
            if told != self._trouble:
                log.warning(
                    "a folder cannot be read", route=self._route, folder=self.where, error=told
                )
            self._trouble = told
            return Listing()
        self._trouble, self._too_large = "", listing.too_large
        for path in [p for p, k in self._known.items() if p not in listing.seen and not k.in_hand]:
            del self._known[path]
        if listing.folder != self._watched:
            if self._watcher is not None:
                self._watcher.stop()
            self._watched = listing.folder
            self._watcher = Watcher(self._folder.path, self._options.recursive, self._changed.set)
        return listing

    def _unwanted(self, file: Found) -> bool:
        known = self._known.get(file.path)
        if known is None:
            return False
        if known.in_hand:
            return True
        # In order, one that is to be tried again keeps its place, and the others wait behind it.
        if self._options.order and known.until < inf:
            return False
        return known.file == file and known.until > self._clock.monotonic()

    async def _until_changed(self, soon: float | None) -> None:
        now = self._clock.monotonic()
        waits = [self._options.poll if soon is None else min(soon, self._options.poll)]
        waits += [k.until - now for k in self._known.values() if now < k.until < inf]
        await self._wait(min(waits), self._changed)

    # --- taking

    async def _take(self, step: Step, file: Found, slots: asyncio.Semaphore) -> bool:
        """Begin with a file, if it is ours to handle."""
        known = self._known.get(file.path)
        if known is None or (known.file != file and not known.in_hand):
            about = {"route": self._route, "file": file.path}
            known = self._known[file.path] = _Known(self._value(file), about, file)
        elif known.in_hand or known.until > self._clock.monotonic():
            return False
        known.in_hand = True
        try:
            await self._claim(known, self._remembered())
            claim = known.claim
            alone = claim.state == "new" and claim.crashes >= MOST_CRASHES - 1
            if alone and self._running:
                # Else whoever of them is to blame would have this one blamed, too.
                await asyncio.wait(self._running)
            message = None
            if claim.state == "new" or (claim.state == "done" and not self._is_left(claim)):
                message = await asyncio.to_thread(self._read, file)
        except BaseException as e:
            known.in_hand = False
            await self._let_go(known)
            if not isinstance(e, OSError | EsbError):
                raise
            self._try_again(known, e)
            return False
        if message is None:
            # Somebody else is at work on it; or it is through, or as it was no longer there.
            busy = claim.state == "busy"
            known.until = self._clock.monotonic() + ASK_AGAIN if busy else inf
            known.in_hand = False
            await self._let_go(known)
            return False

        def finished(task: asyncio.Task[None]) -> None:
            known.in_hand = False
            slots.release()

        task = self._take_up(known, self._handle(step, message, known))
        task.add_done_callback(finished)
        if alone:
            await asyncio.wait((task,))
        return True

    def _is_left(self, claim: Claim) -> bool:
        """Whether a file that is through stays where it is."""
        return self._options.then == KEEP and not (self._failed and _is_dead(claim))

    async def _through(self, file: Found) -> bool:
        """Whether nothing is left to do with a file, once it is in hand no more."""
        if self._running:
            await asyncio.wait(self._running)
        known = self._known.get(file.path)
        return known is not None and known.until == inf

    def _remembered(self) -> float:
        """Until when it is remembered that a file was handled."""
        kept = self._options.then == KEEP
        return self._clock.time() + (REMEMBERED_KEPT if kept else REMEMBERED)

    def _value(self, file: Found) -> str:
        """What the file is claimed by, and the id of its message."""
        facts = f"{self._route}\0{file.size}\0{file.modified}\0{file.changed}\0".encode()
        return blake2b(facts + os.fsencode(file.path), digest_size=16).hexdigest()

    # --- handling

    async def _handle(self, step: Step, message: Envelope, known: _Known) -> None:
        try:
            if known.claim.state == "new":
                dead = await self._run(known, step, message, in_order=self._options.order)
            else:
                dead = _is_dead(known.claim)
            await asyncio.to_thread(self._put_away, known.file, message, dead)
            known.until, known.failures, known.trouble = inf, 0, ""
        except (Exception, asyncio.CancelledError) as e:  # noqa: BLE001 - a bug is told there
            self._try_again(known, e)
        finally:
            await self._let_go(known)

    def _is_hopeless(self, message: Envelope, error: EsbError) -> bool:
        """Whether a file goes where failed ones go, although no dead letter of it was written: that
        one is impossible if it is too large to be stored as a message."""
        if self._failed is None:
            return False
        return isinstance(error, Permanent) or message.params["file"]["size"] > MAX_WHOLE

    def _try_again(self, known: _Known, error: BaseException) -> None:
        if isinstance(error, OSError):
            error = Transient(_detail(error))
        known.until = self._clock.monotonic() + self._put_off(known, error)
        self._changed.set()  # for whoever waits to wait no longer than that

    # --- files; these run in threads

    def _read(self, file: Found) -> Envelope | None:
        """The message of a file; None if it is there no more. Raises OSError, EsbError."""
        kind = content_type(file.path, self._options.content_type, self._options.charset)
        try:
            if file.size > READ_AT_ONCE:
                raw, status = None, place.status(self._folder.path, file.path)
            else:
                raw, status = place.read(self._folder.path, file.path, READ_AT_ONCE)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if self._folder.found(file.path, status) != file:
            return None
        if raw is None:
            body = Body.from_file(self._folder.path / file.path, kind, status=status)
        else:
            body = Body(raw, kind)
        params = file.params
        return Envelope(
            body=body,
            id=self._value(file),
            source=f"file:{self._options.folder}",
            time=params["modified"],
            subject=params["path"],
            params={"file": params},
        )

    def _put_away(self, file: Found, message: Envelope, dead: bool) -> None:
        """Do with a file that is through what the route says, unless another has its name by now.
        Raises OSError, EsbError."""
        if self._folder.again(file) != file:
            return
        folder = self._folder.path
        target = self._failed if dead and self._failed is not None else self._then
        if target is not None:
            place.move(folder, file.path, target.folder, target.path(file, message))
        elif self._options.then == DELETE:
            place.delete(folder, file.path)
        else:
            return
        marker = self._folder.marker_of(file)
        if marker is not None:
            with suppress(FileNotFoundError):
                place.delete(folder, marker)


def _is_dead(claim: Claim) -> bool:
    """Whether the message of a file that was handled went to the dead letters."""
    return claim.answer is not None and claim.answer.outcome is Outcome.DEAD


def _detail(error: OSError | EsbError) -> str:
    if isinstance(error, EsbError):
        return error.detail
    return error.strerror or str(error)
