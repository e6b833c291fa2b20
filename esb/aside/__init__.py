"""Stylesheets and schemas that somebody else wrote run aside: in a process that may be killed.

libxslt and libxml2 know no deadline, and what ends in one of their loops, in all the memory there
is or in a crash takes its process with it. Here that is one with nothing in it, which has the
memory and the time that a route gives it, no network where the system lets it go without, and no
environment. It is used again for as long as all goes well; when something does not, it is killed,
and the message at work fails alone.

Bytes go in and bytes come out, in frames of msgpack that are read into `Done` and nothing else.
`__main__` is the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal

import msgspec

from esb.adapter import Health
from esb.envelope import Body, Envelope
from esb.errors import BadMessage, RouteFailure, TooLarge, UnsupportedMedia
from esb.expressions.language import MAX_TEXT
from esb.schemas import SchemaError
from esb.step import is_large
from esb.templates import TemplateError

_JOBS: Final = 1000
"""After so many a process makes room for a new one: what libraries lose adds up."""
_START: Final = 30.0
"""Seconds until a new process must be there."""
_LONGEST: Final = MAX_TEXT + 1024 * 1024
_SIZE: Final = 4  # bytes that say how long a frame is

Kind = Literal["xslt", "xsd"]


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to do to a document: None only compiles. content_type: of the result. seconds: of work,
    at most. key, sources: of the files as they were at the load, which a process is told once."""

    kind: Kind
    file: str
    folder: str
    seconds: float
    content_type: str = ""
    document: bytes | None = None
    document_type: str = ""
    key: str = ""
    sources: dict[str, bytes] = {}


class Done(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of it: a document, or an error by its code, with its place for one of a file."""

    body: bytes = b""
    content_type: str = ""
    code: str = ""
    detail: str = ""
    errors: list[dict[str, str]] = []
    file: str = ""
    line: int = 0
    files: list[str] = []

    def check(self) -> Done:
        """This, if it is no error. Raises as the work did: EsbError; TemplateError or SchemaError
        for a file that cannot be compiled."""
        match self.code:
            case "":
                return self
            case "template":
                raise TemplateError(self.detail, self.file, self.line)
            case "schema":
                raise SchemaError(self.detail, self.file, self.line)
            case TooLarge.code:
                raise TooLarge(self.detail)
            case UnsupportedMedia.code:
                raise UnsupportedMedia(self.detail)
            case BadMessage.code:
                raise BadMessage(self.detail, self.errors)
        raise RouteFailure(self.detail)


_read: Final = msgspec.msgpack.Decoder(Done).decode
_write: Final = msgspec.msgpack.Encoder().encode


def frame(value: Job | Done) -> bytes:
    """How it goes through a pipe."""
    raw = _write(value)
    return len(raw).to_bytes(_SIZE) + raw


def compile_aside(
    kind: Kind, file: Path, content_type: str, folder: Path, seconds: float, memory: int
) -> Work:
    """Compile a file in a process of its own, which takes as long as to start one: the load knows
    what is wrong with it. Raises TemplateError or SchemaError, also if there is no end to it."""
    job = Job(kind, str(file.resolve()), str(folder.resolve()), seconds, content_type)
    files = [Path(one) for one in _alone(job, memory).check().files]
    return Work(job, memory, {str(one): one.read_bytes() for one in files})


class Work:
    """A file that was found to compile, with all that it is made of: what lies there later is for
    the next load. `pool` is where it runs, until then each time alone."""

    def __init__(self, job: Job, memory: int, sources: dict[str, bytes]) -> None:
        self.files = frozenset(map(Path, sources))
        self.pool: Pool | None = None
        key = blake2b(repr((job.kind, job.file, job.content_type, sources)).encode()).hexdigest()
        self._job = msgspec.structs.replace(job, key=key, sources=sources)
        self._memory = memory

    async def __call__(self, envelope: Envelope) -> Body:
        """The new body; that of the message where there is only something to check.

        Raises BadMessage and RouteFailure as the same would in this process, and RouteFailure if it
        takes too long, too much, or everything down with it.
        """
        body = envelope.body
        if self.pool is not None and is_large(envelope):
            await asyncio.to_thread(lambda: body.raw)  # it may be to be written, or read, first
        job = msgspec.structs.replace(self._job, document=body.raw, document_type=body.content_type)
        done = await self.pool.do(job) if self.pool is not None else _alone(job, self._memory)
        done.check()
        return body if job.kind == "xsd" else Body(done.body, done.content_type)


class Pool:
    """The processes for work that gets so many bytes of memory; a Resource."""

    def __init__(self, memory: int, most: int = 2) -> None:
        self._memory = memory
        self._turns = asyncio.Semaphore(most)
        self._idle: list[_Process] = []
        self._closed = False

    async def open(self) -> None:
        """The first one starts now, so that no message waits for it."""
        with contextlib.suppress(OSError, RouteFailure):
            self._idle.append(await _Process.started(self._memory))

    async def close(self) -> None:
        self._closed = True  # what is still at work comes back to nobody
        while self._idle:
            process = self._idle.pop()
            process.kill()
            await process.gone()

    def health(self) -> Health:
        return Health(True)

    async def do(self, job: Job) -> Done:
        """What comes of a job. Raises RouteFailure if nothing does."""
        async with self._turns:
            process = self._at_hand() or await _Process.started(self._memory)
            good = False
            try:
                async with asyncio.timeout(job.seconds):
                    done = await process.ask(job)
                good = True
            except TimeoutError:
                raise RouteFailure(_LATE.format(_WHAT[job.kind], job.seconds)) from None
            except (OSError, EOFError, msgspec.DecodeError) as e:
                raise RouteFailure(_LOST.format(_WHAT[job.kind])).noted(str(e)) from None
            finally:
                if good and process.jobs < _JOBS and not self._closed:
                    self._idle.append(process)
                else:
                    process.kill()
        return done

    def _at_hand(self) -> _Process | None:
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
        return None


_WHAT: Final = {"xslt": "a stylesheet", "xsd": "a schema"}
_LATE: Final = "{} took longer than {:g} s"
_LOST: Final = "{} took down the process that it ran in"


class _Process:
    """One of them, and what goes to and fro."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._in, self._out = process.stdin, process.stdout
        self._known: set[str] = set()
        self.jobs = 0

    @classmethod
    async def started(cls, memory: int) -> _Process:
        """A new one that is ready. Raises RouteFailure if none can be had."""
        made = cls(
            await asyncio.create_subprocess_exec(
                *_command(memory),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
                start_new_session=True,  # the terminal's Ctrl-C is for the bus
            )
        )
        try:
            async with asyncio.timeout(_START):
                await made._answer()
        except (TimeoutError, OSError, EOFError, msgspec.DecodeError):
            made.kill()
            raise RouteFailure("there is no process to run it in") from None
        except BaseException:
            made.kill()
            raise
        return made

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, job: Job) -> Done:
        """Raises OSError, EOFError or msgspec.DecodeError if it came to its end."""
        self.jobs += 1
        if job.key in self._known:
            job = msgspec.structs.replace(job, sources={})
        self._known.add(job.key)
        self._in.write(frame(job))
        await self._in.drain()
        return await self._answer()

    async def _answer(self) -> Done:
        size = int.from_bytes(await self._out.readexactly(_SIZE))
        if size > _LONGEST:
            raise EOFError("it writes too much")
        return _read(await self._out.readexactly(size))

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._in.close()

    async def gone(self) -> None:
        """Wait for its end."""
        await self._process.wait()


def _alone(job: Job, memory: int) -> Done:
    """The same, waiting: for the load, and for tests of routes, whose time is not the clock's."""
    try:
        run = subprocess.run(  # noqa: S603 - our own program
            _command(memory),
            input=frame(job),
            capture_output=True,
            timeout=_START + job.seconds,
            env=_environment(),
            cwd="/",
            start_new_session=True,
            check=False,
        )
        ready = int.from_bytes(run.stdout[:_SIZE])
        raw = run.stdout[2 * _SIZE + ready :]
        return _read(raw)
    except subprocess.TimeoutExpired:
        return _failed(job, _LATE.format(_WHAT[job.kind], job.seconds))
    except msgspec.DecodeError:
        return _failed(job, _LOST.format(_WHAT[job.kind]))


def _failed(job: Job, detail: str) -> Done:
    if job.document is not None:
        return Done(code=RouteFailure.code, detail=detail)
    return Done(code={"xslt": "template", "xsd": "schema"}[job.kind], detail=detail, file=job.file)


def _command(memory: int) -> list[str]:
    return [sys.executable, "-m", __name__, str(memory)]


def _environment() -> dict[str, str]:
    """No secret is in it."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


__all__ = ["Done", "Job", "Kind", "Pool", "Work", "compile_aside", "frame"]
