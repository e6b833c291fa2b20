"""Putting files where they belong: below a folder and nowhere else, whole or not at all.

Nothing here follows a symbolic link below the folder. A folder that is named must be there, since
one that is missing is mostly a disk that is not mounted; folders below it are made.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Literal

from esb.errors import EsbError, Overloaded, Rejected, RouteFailure, Transient, Unreachable

IfExists = Literal["fail", "replace", "append", "number"]

HIDDEN: Final = "."
"""How the names begin of files that are not there yet, and that no source takes."""

MOST_NUMBERS: Final = 100_000
CHUNK: Final = 1024 * 1024

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LONGEST: Final = 255  # bytes of a name on every common file system


def parts_of(name: str) -> list[str]:
    """The folders and the file that a relative path names. Raises RouteFailure if it could be
    anywhere else than below the folder it belongs to, or if no file can be called so."""
    parts = name.split("/")
    for part in parts:
        try:
            wrong = part in ("", ".", "..") or "\0" in part or len(os.fsencode(part)) > _LONGEST
        except UnicodeEncodeError:
            wrong = True
        if wrong:
            shown = name[:60].encode(errors="backslashreplace").decode()
            raise RouteFailure(f"{shown!r} is no name of a file below a folder")
    return parts


@contextmanager
def below(folder: Path, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder that holds the file `name`, a path relative to `folder`, and the
    file's own name. make: whether the folders on the way are made. Raises RouteFailure, OSError."""
    *folders, last = parts_of(name)
    at = os.open(folder, _FOLDER)
    try:
        for part in folders:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=at)
                    os.fsync(at)
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        yield at, last
    finally:
        os.close(at)


def read(folder: Path, name: str, most: int) -> tuple[bytes, os.stat_result]:
    """The content of a regular file and what is known of it; one byte more than `most`, if there
    are more. Raises RouteFailure, OSError."""
    with below(folder, name) as (at, last), os.fdopen(_opened(at, last), "rb") as stream:
        return stream.read(most + 1), os.fstat(stream.fileno())


def status(folder: Path, name: str) -> os.stat_result:
    """What is known of a regular file. Raises RouteFailure, OSError."""
    with below(folder, name) as (at, last):
        file = _opened(at, last)
        try:
            return os.fstat(file)
        finally:
            os.close(file)


def _opened(at: int, name: str) -> int:
    # Without O_NONBLOCK a named pipe would keep us waiting for its writer.
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise OSError(errno.EINVAL, "no regular file", name)


def write(
    folder: Path,
    name: str,
    content: BinaryIO,
    if_exists: IfExists,
    *,
    mode: int | None = None,
    end: bytes = b"",
) -> str:
    """Write a file that nobody sees before it is whole and on the disk; the path it got.

    if_exists: `number` gives it another name, "a-1.txt"; `fail` is content with a file that holds
    the very same, which an earlier try may have left. mode: its permissions, the process's default
    if None. end: written behind the content. Raises RouteFailure, OSError; FileExistsError.
    """
    with below(folder, name, make=True) as (at, last):
        if if_exists == "append":
            _append(at, last, content, mode, end)
            return name
        draft = f"{HIDDEN}{secrets.token_hex(8)}.part"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            _fill(os.open(draft, flags, 0o666, dir_fd=at), content, mode, end)
            got = _named(at, draft, at, last, if_exists)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=at)
        os.fsync(at)
    return str(PurePosixPath(name).with_name(got))


def move(source: Path, name: str, folder: Path, to: str) -> str:
    """Move the file `name` below `source` to `to` below `folder`, under another number if there is
    one already; the path it got. On another file system it is copied, and then deleted. Raises
    RouteFailure, OSError."""
    with below(source, name) as (left, old), below(folder, to, make=True) as (at, last):
        try:
            got = _named(left, old, at, last, "number")
        except OSError as e:
            if e.errno != errno.EXDEV:
                raise
            with os.fdopen(_opened(left, old), "rb") as content:
                mode = stat.S_IMODE(os.fstat(content.fileno()).st_mode)
                got = write(folder, to, content, "number", mode=mode)
            try:
                os.unlink(old, dir_fd=left)
            except OSError:
                os.unlink(PurePosixPath(got).name, dir_fd=at)  # or each try would leave a copy
                raise
            os.fsync(left)
            return got
        os.fsync(at)
        os.fsync(left)
    return str(PurePosixPath(to).with_name(got))


def delete(folder: Path, name: str) -> None:
    """Delete a file, for good. Raises OSError."""
    with below(folder, name) as (at, last):
        os.unlink(last, dir_fd=at)
        os.fsync(at)


def _fill(file: int, content: BinaryIO, mode: int | None, end: bytes) -> None:
    with os.fdopen(file, "wb") as out:
        if mode is not None:
            os.fchmod(file, mode)
        for chunk in iter(lambda: content.read(CHUNK), b""):
            out.write(chunk)
        out.write(end)
        out.flush()
        os.fsync(file)


def _append(at: int, last: str, content: BinaryIO, mode: int | None, end: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(last, flags, 0o666, dir_fd=at)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "no regular file", last)
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        size = os.fstat(file).st_size
        try:
            _fill(os.dup(file), content, mode if size == 0 else None, end)
        except BaseException:
            os.ftruncate(file, size)  # half of it would be the beginning of what comes next
            raise
    finally:
        os.close(file)
    if size == 0:
        os.fsync(at)


def _named(source: int, old: str, at: int, new: str, if_exists: IfExists) -> str:
    """Give a file its name, in one step for whoever looks; the name it got."""
    if if_exists == "replace":
        os.rename(old, new, src_dir_fd=source, dst_dir_fd=at)
        return new
    for name in chain((new,), _numbered(new) if if_exists == "number" else ()):
        try:
            _rename_to_free(source, old, at, name)
        except FileExistsError:
            if if_exists == "fail" and not _same_content(source, old, at, name):
                raise
            if if_exists == "number":
                continue
        return name
    raise FileExistsError(errno.EEXIST, "too many files of this name", new)


def _numbered(name: str) -> Iterator[str]:
    path = PurePosixPath(name)
    for number in range(1, MOST_NUMBERS):
        yield f"{path.stem}-{number}{path.suffix}"


def _rename_to_free(source: int, old: str, at: int, new: str) -> None:
    try:
        if _renamed(source, old, at, new):
            return
        # A plain rename would replace what is there; a second name is refused.
        os.link(old, new, src_dir_fd=source, dst_dir_fd=at, follow_symlinks=False)
    except FileExistsError:
        there = os.stat(new, dir_fd=at, follow_symlinks=False)
        if not os.path.samestat(there, os.stat(old, dir_fd=source, follow_symlinks=False)):
            raise
        # The process died between the two names.
    except OSError as e:
        if e.errno not in _NO_LINKS:
            raise
        with suppress(FileNotFoundError):
            os.stat(new, dir_fd=at, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, "it is there", new) from None
        os.rename(old, new, src_dir_fd=source, dst_dir_fd=at)
        return
    os.unlink(old, dir_fd=source)


_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_NO_REPLACE: Final = 1


def _renamed(source: int, old: str, at: int, new: str) -> bool:
    """Rename a file unless the name is taken, in one step (renameat2 of Linux): with a second name
    in between, a file would be another for whoever goes by when it changed. Returns whether the
    system can. Raises OSError."""
    rename = getattr(_LIBC, "renameat2", None)
    if rename is None:
        return False
    if rename(source, os.fsencode(old), at, os.fsencode(new), _NO_REPLACE) == 0:
        return True
    if (code := ctypes.get_errno()) in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code), new)


_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)
"""What a file system says that has no hard links, or gives us none to this file."""


def _same_content(source: int, old: str, at: int, new: str) -> bool:
    try:
        with (
            os.fdopen(_opened(source, old), "rb") as ours,
            os.fdopen(_opened(at, new), "rb") as theirs,
        ):
            if os.fstat(ours.fileno()).st_size != os.fstat(theirs.fileno()).st_size:
                return False
            while chunk := ours.read(CHUNK):
                if chunk != theirs.read(CHUNK):
                    return False
    except OSError:
        return False
    return True


# --- errors ---------------------------------------------------------------------------------------


_MEANS: Final[dict[int, tuple[type[EsbError], str]]] = {
    errno.EEXIST: (Rejected, "there is a file of this name already"),
    errno.EISDIR: (Rejected, "there is a folder of this name"),
    errno.EINVAL: (Rejected, "there can be no file of this name, or what has it is none"),
    errno.ENXIO: (Rejected, "there can be no file of this name, or what has it is none"),
    errno.ELOOP: (Rejected, "the name leads through a symbolic link"),
    errno.ENOTDIR: (Rejected, "the name leads through what is no folder"),
    errno.ENAMETOOLONG: (Rejected, "no file can have so long a name"),
    errno.ENOSPC: (Overloaded, "there is no room for the file"),
    errno.EDQUOT: (Overloaded, "there is no room for the file"),
    errno.ENOENT: (Unreachable, "the folder is not there"),
}


def told(error: OSError, folder: Path, name: str) -> EsbError:
    """What a file system's error means for a message about the file `name` below `folder`."""
    kind, text = _MEANS.get(error.errno or 0, (Transient, "the file cannot be accessed now"))
    return kind(text).noted(f"{folder}/{name}: {error.strerror or error}")
