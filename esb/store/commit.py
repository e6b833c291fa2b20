"""Group commit: one thread owns the writing connection and gives many callers one fsync.

A caller alone is committed at once. When the last commit served several callers, the thread lingers
a moment for as many again, since those it has just woken are about to come back: without that, a
few would be committed while the rest wait for the next fsync.

What need not outlive a power cut (that a message was taken: after one nobody has it in hand) is
written without an fsync of its own, and outlives the process all the same.

After a failed fsync nothing is known about what the disk holds: the kernel may have dropped the
pages and report success the next time it is asked. So the fsync is never tried again; the writer
is failed for good, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import apsw
import structlog

from esb.errors import EsbError, Overloaded, RouteFailure, TooLarge, Unavailable
from esb.store.writing import FULL, RETRY_AFTER, Transaction, Writing

T = TypeVar("T")
log = structlog.get_logger("esb.store")

SYNCHRONOUS = {False: "FULL", True: "NORMAL"}
"""What SQLite is told for a transaction: whether it is relaxed."""
LINGER = 0.0008
MOST_AT_ONCE = 1000
CHECKPOINT_PAGES = 1000
"""The log is written back into the database when it is this long (SQLite's own default)."""

_CONCERNS_ALL = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.IOError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.ReadOnlyError,
)
_FSYNC_FAILED = frozenset({apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC})
Work = Callable[[apsw.Connection, Transaction], T]


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    future: asyncio.Future[Any] | None
    relaxed: bool = False
    result: Any = None
    error: EsbError | None = None


class GroupCommit:
    """Runs work in transactions on `connection`, which nobody else uses from now on.

    writing: what the work is done with. told: called in the event loop with what a commit brought
    about, before any caller learns of it.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        loop: asyncio.AbstractEventLoop,
        *,
        writing: Writing,
        told: Callable[[Transaction], None],
    ) -> None:
        self.failure = ""
        self._db = connection
        self._loop = loop
        self._writing = writing
        self._told = told
        self._pending: list[_Job] = []
        self._made: list[Transaction] = []
        self._wanted = 1
        self._expected = 1
        self._closing = False
        self._changed = threading.Condition()
        self._log_pages = 0
        self._relaxed = False
        connection.wal_autocheckpoint(0)  # it would swallow a failed fsync
        connection.set_wal_hook(self._count_pages)
        self._thread = threading.Thread(target=self._run, name="esb-store", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T], *, relaxed: bool = False) -> asyncio.Future[T]:
        """Run `work` in a transaction; the future is done once it is on the disk. relaxed: it is
        enough that it outlives the process.

        It fails with what `work` raised, which must be before it changed anything; Overloaded when
        the disk is full, or Transient when it cannot be written; then nothing of it was stored.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._enqueue(_Job(work, future, relaxed))
        return future

    def post(self, work: Work[Any], *, relaxed: bool = False) -> None:
        """Run `work` in a transaction when there is time, from any thread; nobody waits for it."""
        self._enqueue(_Job(work, None, relaxed))

    def close(self) -> None:
        """Commit what is pending, then end the thread. Blocks."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def fail(self, reason: str) -> None:
        """Refuse everything from now on."""
        if self.failure:
            return
        self.failure = f"the store has failed ({reason}); restart the bus once its disk is well"
        log.error("the store has failed and takes nothing more", reason=reason)
        # Closing would write the log back and fsync again, and might find "success".
        with contextlib.suppress(apsw.Error):
            self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def _enqueue(self, job: _Job) -> None:
        with self._changed:
            if self._closing:
                raise Unavailable("the store is closed")
            self._pending.append(job)
            if len(self._pending) >= self._wanted:
                self._changed.notify()

    def _run(self) -> None:
        while jobs := self._next():
            self._commit(jobs)
            made, self._made = self._made, []
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                self._loop.call_soon_threadsafe(self._finish, jobs, made)
            self._write_back()

    def _next(self) -> list[_Job]:
        with self._changed:
            while not self._pending and not self._closing:
                self._changed.wait()
            if self._expected > 1 and not self._closing and not self._pending[0].relaxed:
                self._wanted = self._expected
                self._changed.wait_for(
                    lambda: len(self._pending) >= self._wanted or self._closing, LINGER
                )
                self._wanted = 1
            jobs, self._pending = self._pending[:MOST_AT_ONCE], self._pending[MOST_AT_ONCE:]
        self._expected = sum(not job.relaxed for job in jobs)
        return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            self._transact(jobs)
        except _CONCERNS_ALL as e:
            self._refuse(jobs, e)
        except Exception as e:  # noqa: BLE001 - the thread must outlive whatever one job does
            if len(jobs) == 1:
                self._refuse(jobs, e)
                return
            # Alone, those pass that are not to blame, or that free room where there is none.
            for job in jobs:
                job.error = None
                self._commit([job])

    def _transact(self, jobs: list[_Job]) -> None:
        if self.failure:
            raise apsw.ReadOnlyError(self.failure)
        relaxed = all(job.relaxed for job in jobs)
        if relaxed is not self._relaxed:
            self._db.execute(f"PRAGMA synchronous={SYNCHRONOUS[relaxed]}")
            self._relaxed = relaxed
        told = Transaction(self._db)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for job in jobs:
                try:
                    job.result = job.work(self._db, told)
                except EsbError as e:
                    job.error = e
            self._writing.flush(told)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._writing.undone(told)
            raise
        self._writing.committed(told)
        self._made.append(told)

    def _refuse(self, jobs: list[_Job], cause: Exception) -> None:
        for job in jobs:
            job.error = self._translate(cause)
        if not self.failure:
            log.warning("the store could not be written", error=str(cause))

    def _translate(self, cause: Exception) -> EsbError:
        match cause:
            case apsw.FullError():
                return Overloaded(FULL, retry_after=RETRY_AFTER)
            case apsw.TooBigError():
                return TooLarge("the message is larger than the store can hold")
            case apsw.BusyError() | apsw.LockedError():
                return Unavailable("the store is locked by another program")
            case apsw.IOError() if getattr(cause, "extendedresult", 0) in _FSYNC_FAILED:
                self.fail("a write to the disk was not confirmed")
            case apsw.CorruptError() | apsw.NotADBError():
                self.fail("its file is damaged")
            case apsw.Error():
                pass
            case _:
                log.error("the store failed to write a message", exc_info=cause)
                return RouteFailure("the message cannot be stored")
        error = Unavailable("the store cannot be written", for_good=bool(self.failure))
        return error.noted(self.failure) if self.failure else error

    def _count_pages(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _write_back(self) -> None:
        if self._log_pages < CHECKPOINT_PAGES or self.failure:
            return
        # A passive one never waits; readers that overlap forever could keep the log growing.
        overdue = self._log_pages > 8 * CHECKPOINT_PAGES
        try:
            self._db.wal_checkpoint(
                mode=apsw.SQLITE_CHECKPOINT_RESTART if overdue else apsw.SQLITE_CHECKPOINT_PASSIVE
            )
        except apsw.BusyError:
            pass
        except apsw.FullError:
            log.warning("the store's log could not be written back: the disk is full")
        except apsw.Error as e:
            # What was acknowledged is safe in the log, and must not leave it for such a disk.
            self.fail(f"its log could not be written back: {e}")
        self._log_pages = 0

    def _finish(self, jobs: list[_Job], made: list[Transaction]) -> None:
        for told in made:
            self._told(told)
        _settle(jobs)


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future is None or job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
