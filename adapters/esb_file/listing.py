"""Which files of a folder are there to be taken, and being told when that may have changed."""

from __future__ import annotations

import asyncio
import heapq
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import translate
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import watchfiles

from esb.adapter import Text
from esb.envelope import Envelope
from esb_file.options import KEEP, SourceOptions
from esb_file.place import HIDDEN

AHEAD: Final = 1000
"""So many files at most are lined up between two looks, however many there are."""

_LOOK_AGAIN: Final = 5.0  # seconds until it is tried again to be told of changes


class Found(NamedTuple):
    """A file as it was when somebody looked: one that differs in anything is another.

    path: below the folder. modified, changed: nanoseconds since 1970, of the content and of
    anything. The latter tells a new file from an old one of the same name, size and time; it is 0
    where files are kept, since a backup or a `chmod` makes no new file.
    """

    path: str
    size: int
    modified: int
    changed: int

    @property
    def params(self) -> dict[str, Any]:
        """What expressions see as `file`."""
        shown = PurePosixPath(self.path.encode(errors="surrogateescape").decode(errors="replace"))
        return {
            "name": shown.name,
            "stem": shown.stem,
            "suffix": shown.suffix,
            "path": str(shown),
            "size": self.size,
            "modified": _date(self.modified),
        }


_KEYS: Final[dict[str, Callable[[Found], Any]]] = {
    "name": lambda file: file.path,
    "time": lambda file: (file.modified, file.path),
    "size": lambda file: (file.size, file.path),
}


def _date(nanoseconds: int) -> datetime:
    """A time since 1970; the first or the last there is for what nobody can have meant."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        year = 1 if nanoseconds < 0 else 9999
        return datetime(year, 1, 1, tzinfo=UTC)


@dataclass
class Listing:
    """What a look has found.

    files: those to be taken, in their order. more: whether there are others behind them. soon:
    seconds until one will have settled. seen: the paths of all that the route is about. too_large:
    how many are. folder: which one it was, should another get its name.
    """

    files: list[Found] = field(default_factory=list)
    more: bool = False
    soon: float | None = None
    seen: set[str] = field(default_factory=set)
    too_large: int = 0
    folder: tuple[int, int] = (0, 0)


class Folder:
    """A folder with the options that say which of its files count.

    apart: names of folders in it where files go that are through. marker: the name of a file's
    marker, None if files have none.
    """

    def __init__(
        self, path: Path, options: SourceOptions, marker: Text | None, apart: frozenset[str]
    ) -> None:
        self.path = path
        self._options = options
        self._patterns = [re.compile(translate(pattern)) for pattern in options.glob]
        self._marker = marker
        self._apart = apart
        self._key = _KEYS[options.sort]
        self._settling: dict[str, tuple[Found, float]] = {}

    def look(self, now: float, unwanted: Callable[[Found], bool]) -> Listing:
        """The files that are ready at `now`, on any clock that never jumps, except for those that
        are `unwanted`. Raises OSError if the folder cannot be read."""
        at = self.path.stat()
        listing = Listing(folder=(at.st_dev, at.st_ino))
        settling: dict[str, tuple[Found, float]] = {}
        ready = self._ready(now, listing, settling, unwanted)
        files = heapq.nsmallest(AHEAD + 1, ready, key=self._key)
        listing.more = len(files) > AHEAD
        listing.files = files[:AHEAD]
        self._settling = settling
        return listing

    def again(self, file: Found) -> Found | None:
        """The file of this path as it is now; None if there is none any more. Raises OSError."""
        try:
            return self.found(file.path, (self.path / file.path).stat(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def marker_of(self, file: Found) -> str | None:
        """The path of a file's marker. Raises RouteFailure."""
        if self._marker is None:
            return None
        name = self._marker(Envelope(params={"file": file.params}))
        return str(PurePosixPath(file.path).with_name(PurePosixPath(name).name or "?"))

    def _ready(
        self,
        now: float,
        listing: Listing,
        settling: dict[str, tuple[Found, float]],
        unwanted: Callable[[Found], bool],
    ) -> Iterator[Found]:
        for file in self._all(self.path, ""):
            listing.seen.add(file.path)
            if file.size < self._options.min_size:
                continue
            if self._options.max_size is not None and file.size > self._options.max_size:
                listing.too_large += 1
                continue
            if unwanted(file):
                continue
            if self._options.settle:
                known, since = self._settling.get(file.path, (None, now))
                settling[file.path] = file, since if known == file else now
                left = settling[file.path][1] + self._options.settle - now
                if left > 0:
                    listing.soon = left if listing.soon is None else min(left, listing.soon)
                    continue
            yield file

    def _all(self, folder: Path, prefix: str) -> Iterator[Found]:
        """The files of the folder and, if so asked, of those in it."""
        files: list[Found] = []
        names: set[str] = set()
        inner: list[os.DirEntry[str]] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                names.add(entry.name)
                if entry.name.startswith(HIDDEN):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if prefix or entry.name not in self._apart:
                        inner.append(entry)
                elif any(pattern.match(entry.name) for pattern in self._patterns):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if found := self.found(prefix + entry.name, status):
                        files.append(found)
        if self._marker is not None:
            files = self._marked(files, names)
        yield from files
        for entry in inner if self._options.recursive else ():
            try:
                yield from self._all(Path(entry.path), f"{prefix}{entry.name}/")
            except FileNotFoundError:
                continue

    def found(self, path: str, status: os.stat_result) -> Found | None:
        """What is known of a file; None of what is no regular one."""
        if not stat.S_ISREG(status.st_mode):
            return None
        changed = 0 if self._options.then == KEEP else status.st_ctime_ns
        return Found(path, status.st_size, status.st_mtime_ns, changed)

    def _marked(self, files: list[Found], names: set[str]) -> list[Found]:
        markers = {file.path: PurePosixPath(self.marker_of(file) or "").name for file in files}
        every = set(markers.values())
        return [
            file
            for file in files
            if markers[file.path] in names and PurePosixPath(file.path).name not in every
        ]


class Watcher:
    """Has somebody told that a file appeared or changed in a folder. Where the system cannot tell
    (a network mount, too many watches) nobody hears anything: it saves waiting, and is not to be
    relied upon."""

    def __init__(self, folder: Path, recursive: bool, tell: Callable[[], None]) -> None:
        self._folder = folder
        self._recursive = recursive
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        # A thread of its own: those of the pools are for work that comes to an end.
        threading.Thread(target=self._run, name="esb file: watch", daemon=True).start()

    def stop(self) -> None:
        """Tell nobody any more."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                listening = False
                for changes in watchfiles.watch(
                    self._folder,
                    watch_filter=lambda change, path: change is not watchfiles.Change.deleted,
                    debounce=500,
                    rust_timeout=1000,
                    yield_on_timeout=True,
                    stop_event=self._stopping,
                    raise_interrupt=False,
                    recursive=self._recursive,
                    ignore_permission_denied=True,
                ):
                    # The first time also of what came before there was somebody to listen.
                    if changes or not listening:
                        self._loop.call_soon_threadsafe(self._tell)
                    listening = True
            except (OSError, RuntimeError):  # RuntimeError: also a loop that is closed
                self._stopping.wait(_LOOK_AGAIN)
