"""The process that works aside: reads jobs from its input until that ends.

`python -m esb.aside <bytes of memory>`
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

import esb.codecs  # noqa: F401 - which reads the documents
from esb.aside import Done, Job, frame
from esb.envelope import Body, Envelope
from esb.errors import BadMessage, EsbError, RouteFailure
from esb.schemas import SchemaError, compile_xsd
from esb.templates import TemplateError, compile_xslt

_NEW_USER, _NEW_NETWORK, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000  # of unshare(2)
_DIE_WITH_PARENT, _NO_NEW_PRIVILEGES = 1, 38  # of prctl(2)
_FILES: Final = 32
_TOO_MUCH: Final = "it needs more memory than it may have"


def confine(memory: int) -> None:
    """Give up what the work does not need. What the system does not know how to take is left."""
    import resource

    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(AttributeError):  # beside Linux
        libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        if libc.unshare(_NEW_NETWORK | _NEW_IPC) != 0:  # for root alone
            libc.unshare(_NEW_USER | _NEW_NETWORK | _NEW_IPC)
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: _FILES,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_AS: _taken() + memory,
    }
    for limit, value in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))


def _taken() -> int:
    """Bytes of addresses that are in use already: those of the libraries."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 512 * 1024**2
    return pages * os.sysconf("SC_PAGE_SIZE")


def limit_time(seconds: float) -> None:
    """Let the system end this process if it works for longer: whoever asked may be gone."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft, most))


_known: Final[dict[str, Any]] = {}
"""What is compiled, by key."""


def _compiled(job: Job) -> Any:
    if job.key in _known:
        return _known[job.key]

    def read(file: Path) -> bytes:
        if not job.sources:
            return file.read_bytes()
        try:
            return job.sources[str(file)]
        except KeyError:
            raise FileNotFoundError(file) from None

    file, folder = Path(job.file), Path(job.folder)
    if job.kind == "xslt":
        made: Any = compile_xslt(file, job.content_type, folder=folder, read=read)
    else:
        made = compile_xsd(file, folder=folder, read=read)
    if job.key:
        _known[job.key] = made
    return made


def work(job: Job) -> Done:
    """Do it; what fails is told."""
    try:
        compiled = _compiled(job)
        if job.document is None:
            return Done(files=[str(file) for file in compiled.files])
        made: Body | None = compiled(Envelope(body=Body(job.document, job.document_type)))
        return Done() if made is None else Done(made.raw, made.content_type)
    except TemplateError as e:
        return Done(code="template", detail=e.message, file=e.file, line=e.line)
    except SchemaError as e:
        return Done(code="schema", detail=e.message, file=e.file, line=e.line)
    except BadMessage as e:
        return Done(code=e.code, detail=e.detail, errors=[*e.errors])
    except EsbError as e:
        return Done(code=e.code, detail=e.detail)
    except MemoryError:
        return Done(code=RouteFailure.code, detail=_TOO_MUCH)


def serve(given: BinaryIO, told: BinaryIO, work: Callable[[Job], Done] = work) -> None:
    """Answer one job after the other."""
    read = msgspec.msgpack.Decoder(Job).decode

    def tell(done: Done) -> None:
        told.write(frame(done))
        told.flush()

    tell(Done())  # ready
    while size := given.read(4):
        job = read(given.read(int.from_bytes(size)))
        limit_time(job.seconds)
        tell(work(job))


if __name__ == "__main__":
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    confine(int(sys.argv[1]))
    serve(sys.stdin.buffer, told)
