"""The configurations that a bus ran, kept with the content of their files, to compare and go back.

A folder holds one small JSON document a version and, under the digest of its content, each file
once for all versions that have it. What is secret (keys, `${file:...}`) is never kept.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from esb.control import NotThere

_NUMBER: Final = re.compile(r"([1-9][0-9]*)\.json\Z")


class NoSuchVersion(NotThere):
    """A version that is not kept."""

    code = "no-such-version"


Cause = Literal["start", "reload", "watch", "secret", "roll-back", "found"]
"""Why a version is kept; "found": its files never ran, and were about to be overwritten."""


class Version(msgspec.Struct, frozen=True):
    """One configuration.

    by: who wanted it, as they said. changes: the names of routes that were added, changed and
    removed. files: the digest of each, by its path from the project's folder.
    """

    number: int
    time: datetime
    cause: Cause
    by: str = ""
    changes: dict[str, list[str]] = {}
    files: dict[str, str] = {}


class Change(msgspec.Struct, frozen=True):
    """How a file differs between two versions: a unified diff, "" where it is no text."""

    path: str
    kind: Literal["added", "changed", "removed"]
    diff: str


class Versions:
    """The versions in `folder` of the project in `root`. keep: how many."""

    def __init__(self, folder: Path, root: Path, keep: int = 50) -> None:
        self.folder = folder
        self.root = root.resolve()
        self._keep = keep
        self._files = folder / "files"

    def all(self) -> list[Version]:
        """The newest first, without those that are damaged."""
        found: list[Version] = []
        for number in sorted(self._numbers(), reverse=True):
            with contextlib.suppress(NoSuchVersion):
                found.append(self._read(number))
        return found

    def get(self, number: int) -> Version:
        """One of them. Raises NoSuchVersion."""
        if number not in self._numbers():
            kept = sorted(self._numbers())
            there = f"there are {kept[0]} to {kept[-1]}" if kept else "none is kept"
            raise NoSuchVersion(f"there is no version {number}: {there}")
        return self._read(number)

    def content(self, version: Version, path: str) -> bytes:
        """A file of it, as it was. Raises NoSuchVersion."""
        digest = version.files.get(path)
        if digest is None:
            raise NoSuchVersion(f"version {version.number} has no file {path}")
        try:
            content = (self._files / digest).read_bytes()
        except FileNotFoundError:
            content = b""
        if hashlib.sha256(content).hexdigest() != digest:
            raise NoSuchVersion(f"the file {path} of version {version.number} is damaged")
        return content

    def add(
        self,
        files: Mapping[Path, bytes],
        cause: Cause,
        *,
        by: str = "",
        changes: Mapping[str, list[str]] | None = None,
    ) -> Version:
        """Keep what the project's files are now, and forget the oldest version if there are too
        many. If the newest is the same it stays the newest. Raises OSError."""
        digests = {self.name(p): hashlib.sha256(c).hexdigest() for p, c in files.items()}
        if (newest := self.all()[:1]) and newest[0].files == digests:
            return newest[0]
        number = max(self._numbers(), default=0)
        self._files.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)  # options may hold what others need not see
        for path, content in files.items():
            kept = self._files / digests[self.name(path)]
            if not kept.exists():
                write(kept, content)
        version = Version(
            number + 1,
            datetime.now(UTC),
            cause,
            by,
            dict(changes or {}),
            dict(sorted(digests.items())),
        )
        write(self.folder / f"{version.number}.json", msgspec.json.encode(version))
        self._prune()
        return version

    def diff(self, old: Version, new: Version) -> list[Change]:
        """What became of each file from one version to another. Raises NoSuchVersion."""
        changes: list[Change] = []
        for path in sorted(old.files.keys() | new.files.keys()):
            before, after = old.files.get(path), new.files.get(path)
            if before != after:
                kind: Literal["added", "changed", "removed"] = (
                    "added" if before is None else "removed" if after is None else "changed"
                )
                lines = _compare(path, self._text(old, path), self._text(new, path))
                changes.append(Change(path, kind, "\n".join(lines)))
        return changes

    def contents(self, version: Version) -> dict[Path, bytes]:
        """All its files. Raises NoSuchVersion."""
        return {self.root / name: self.content(version, name) for name in version.files}

    def name(self, path: Path) -> str:
        """A file as versions name it: from the project's folder, if it is in there."""
        path = path.resolve()
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    # --- what else outlives the process ---

    @property
    def stopped(self) -> list[str]:
        """The names of the routes that were stopped."""
        try:
            return msgspec.json.decode((self.folder / "stopped.json").read_bytes(), type=list[str])
        except (OSError, msgspec.MsgspecError):
            return []

    def keep_stopped(self, names: Iterable[str]) -> None:
        """Remember them. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write(self.folder / "stopped.json", msgspec.json.encode(sorted(names)))

    def _numbers(self) -> set[int]:
        if not self.folder.is_dir():
            return set()
        found = (_NUMBER.match(path.name) for path in self.folder.iterdir())
        return {int(match[1]) for match in found if match}

    def _read(self, number: int) -> Version:
        try:
            raw = (self.folder / f"{number}.json").read_bytes()
            return msgspec.json.decode(raw, type=Version)
        except (OSError, msgspec.MsgspecError) as e:
            raise NoSuchVersion(f"version {number} is damaged") from e

    def _text(self, version: Version, path: str) -> list[str] | None:
        if path not in version.files:
            return []
        try:
            return self.content(version, path).decode().splitlines()
        except UnicodeDecodeError:
            return None

    def _prune(self) -> None:
        numbers = sorted(self._numbers())
        for number in numbers[: max(0, len(numbers) - self._keep)]:
            (self.folder / f"{number}.json").unlink(missing_ok=True)
        used = {digest for version in self.all() for digest in version.files.values()}
        for path in list(self._files.iterdir()):
            if path.name not in used:
                path.unlink(missing_ok=True)


def _compare(path: str, before: list[str] | None, after: list[str] | None) -> Iterator[str]:
    if before is None or after is None:
        return iter(())
    return difflib.unified_diff(before, after, path, path, lineterm="")


def put(files: Mapping[Path, bytes], now: Mapping[Path, bytes], removed: Iterable[Path]) -> None:
    """Make files what they shall be: those that are not so `now`, without those `removed`.

    Raises OSError; then they are what they were, as far as that can be.
    """
    gone = [path for path in removed if path not in files]
    try:
        for path, content in files.items():
            if now.get(path) != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, content, mode=None)
        for path in gone:
            path.unlink(missing_ok=True)
    except OSError:
        with contextlib.suppress(OSError):
            for path in (*files, *gone):
                if path in now:
                    write(path, now[path], mode=None)
                else:
                    path.unlink(missing_ok=True)
        raise


def write(path: Path, content: bytes, mode: int | None = 0o600) -> None:
    """Write a file so that it is there whole or not at all. mode: None for that of the file that
    is there, or what is usual."""
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            elif path.exists():
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
