"""The way that a process writes to an SQLite store: who writes at the same time shares a commit."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias, TypeVar
from weakref import WeakSet

from flujo.batch import Batch
from flujo.errors import BackendError, Fenced, OutcomeUnknown
from flujo.records import AuditEvent
from flujo.state.backends.sqlite_connections import Connections
from flujo.state.backends.sqlite_errors import not_confirmed, translate, translated, when_free

T = TypeVar("T")
MAX_SHARED = 200
QUICK_SECONDS = 0.002
"""A commit that takes longer holds up a whole event loop, and the next ones are made by the thread."""
SLOW_FOR = 25
"""For how many times what the slow commit took: slow commits hold up a loop for a twenty-fifth of the time at most."""
LOG_WRITES = 250
"""After so many the log goes to the file: each step writes the same few pages again, which go there once."""
LOG_PAGES = 16_000
"""64 MB: so large the log becomes where the rows are. The commit that reaches it waits for its pages to be written."""
_CHUNK = 1 << 20
_INTERRUPTED = sqlite3.OperationalError("interrupted")
_OF_THE_JOB = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
    sqlite3.ProgrammingError,
)
"""What SQLite says of a value that it cannot take; other errors are the store's, and end the whole transaction."""


@dataclass(slots=True, eq=False)
class _Job:
    """Work inside a transaction; its future is settled after the commit.

    `unconfirmed` is set before its COMMIT, and to the error of that: whoever meets it later looks whether it was kept.
    """

    work: Callable[[sqlite3.Cursor], Any]
    turn: _Turn
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    unconfirmed: sqlite3.Error | None = None

    def settle(self) -> None:
        """Tell who waits, in its loop. Whoever was cancelled waits no longer; the work is done all the same."""
        if self.future.done() or self.turn.loop.is_closed():
            return
        if isinstance(self.error, StopIteration):  # which no future takes
            self.future.set_exception(RuntimeError("The write raised StopIteration. Nothing was saved."))
        elif self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


@dataclass(slots=True)
class _Turn:
    """What the tasks of a loop asked for since it last went round; `first` is the one that did not have to wait."""

    loop: asyncio.AbstractEventLoop
    jobs: list[_Job] = field(default_factory=list)
    first: asyncio.Task[Any] | None = None
    first_until: float = 0.0


_Queue: TypeAlias = SimpleQueue[list[_Job] | None]


class _OfThread(threading.local):
    turn: _Turn | None = None


class Writer:
    """Does work inside transactions, and tells who waits after the commit.

    What the tasks of an event loop ask for in one turn of it shares a commit. That is made in the loop's own thread
    while the disk is quick and nobody else writes, since waking another thread and being woken by it takes as long as
    the commit. Else a thread makes it, and the loop goes on meanwhile. The thread is a daemon: what it acknowledged is
    committed, so nothing is lost with it.

    `connect` opens the file, which has a write-ahead log; a locked one is waited for `busy_seconds`. The audit events
    in `audit_table` tell whether a commit that failed was kept.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], busy_seconds: float, *, audit_table: str) -> None:
        self._connect = connect
        self._busy_seconds = busy_seconds
        self._audit_table = audit_table
        self._connections = Connections(self._open, busy_seconds)
        self.begin()
        _writers.add(self)

    def begin(self) -> None:
        """Begin, or begin anew in a child of a fork: it has none of the threads, and leaves their jobs to them."""
        self._guard = threading.RLock()  # a backend may be collected, and stop it, while this thread is in here
        self._thread: threading.Thread | None = None
        self._queue: _Queue = SimpleQueue()
        self._busy = False  # the thread, with jobs or about to have some
        self._here = _OfThread()
        self._slow_until = 0.0
        self._in_log = 0
        self._in_doubt = False  # the log: what it shows may not be on the disk

    def _open(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.execute("PRAGMA busy_timeout = 0")  # in a loop's thread nothing is waited for
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_PAGES * 4096}")  # after a reader that made it larger
        return connection

    async def write(self, work: Callable[[sqlite3.Cursor], T]) -> T:
        """The result of `work`, once it is committed. Raises its error, or that of the store; then nothing is kept.

        `work` may be called several times, until a transaction with it is committed.
        """
        loop = asyncio.get_running_loop()
        turn = self._here.turn
        if turn is None or turn.loop is not loop:
            turn = self._here.turn = _Turn(loop)
        loop.call_soon(self._end, turn)  # each time, since an interrupt may come where the loop was about to call it
        job = _Job(work, turn, loop.create_future())
        if not (self._comes_first(turn) and self._commit_here([job])):
            turn.jobs.append(job)
        try:
            result: T = await job.future
        finally:
            del job  # its error would keep this frame, and the frame it
        return result

    def _comes_first(self, turn: _Turn) -> bool:
        """Whether this task may write at once: the first in this turn of the loop, until others should have theirs."""
        task, now = asyncio.current_task(turn.loop), time.monotonic()
        if turn.first is None:
            turn.first, turn.first_until = task, now + QUICK_SECONDS
        return turn.first is task and not turn.jobs and now < turn.first_until

    async def close(self) -> None:
        """Close the connections, after all that was asked for before. A later write opens another."""
        turn = self._here.turn
        while turn is not None and turn.jobs:
            self._end(turn)
        thread = self.stop()
        if thread is not None:
            await asyncio.to_thread(thread.join)

    def stop(self) -> threading.Thread | None:
        """Close the connections, or have the thread close them after its last job. Waits for nobody."""
        with self._guard:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is None:
            self._connections.close()
        return thread

    # In the loop's thread

    def _end(self, turn: _Turn) -> None:
        """Commit what a turn of the loop asked for, or have it committed. What an interrupt leaves comes up again."""
        jobs, turn.first = turn.jobs[:MAX_SHARED], None
        if jobs and not self._commit_here(jobs):
            self._hand_over(jobs)
        del turn.jobs[: len(jobs)]

    def _commit_here(self, jobs: list[_Job]) -> bool:
        """Commit without waiting for anybody. False when that may take long, or something is wrong: nothing is kept.

        It sees to jobs whose COMMIT fails: they are handed over.
        """
        if self._busy or self._in_doubt or self._in_log >= LOG_WRITES or time.monotonic() < self._slow_until:
            return False
        if jobs[0].unconfirmed is not None:  # an interrupt came between its COMMIT and the word to who waits
            return False
        connection = self._connections.take_idle()
        if connection is None:
            return False
        try:
            connection.execute("BEGIN IMMEDIATE")
            if not self._all_clean(connection.cursor(), jobs):
                return False
            self._commit(connection, jobs)
        except sqlite3.Error:  # locked by another process, or broken: the thread waits, or tells of it
            if all(job.unconfirmed is None for job in jobs):
                return False
            self._hand_over(jobs)
        else:
            _settle(jobs)
        finally:
            self._connections.give_back(connection)
        return True

    def _hand_over(self, jobs: list[_Job]) -> None:
        """Give jobs to the thread; under the guard, since one that came after the word to stop would never be done."""
        with self._guard:
            try:
                if self._thread is None:
                    self._thread, self._queue = self._started()
                self._busy = True
                self._queue.put(jobs)
            except RuntimeError as error:
                for job in jobs:
                    refused = BackendError if job.unconfirmed is None else OutcomeUnknown
                    job.error = job.error or refused(f"No thread can be started to write: {error}.")
                _settle(jobs)

    # In the thread

    def _started(self) -> tuple[threading.Thread, _Queue]:
        queue: _Queue = SimpleQueue()
        thread = threading.Thread(target=self._serve, args=(queue,), name="flujo-sqlite-writer", daemon=True)
        thread.start()
        return thread, queue

    def _serve(self, queue: _Queue) -> None:
        more = True
        while more and (jobs := queue.get()) is not None:
            jobs, more = self._gather(queue, jobs)
            self._see_to(jobs)
            with self._guard:
                self._busy = not queue.empty()
            self._tell(jobs)
            self._empty_log()
            del jobs  # nothing is kept of them while the thread waits
        self._connections.close()

    @staticmethod
    def _gather(queue: _Queue, first: list[_Job]) -> tuple[list[_Job], bool]:
        """All jobs that wait now; False when the last word was to stop."""
        jobs = list(first)
        while len(jobs) < MAX_SHARED:
            try:
                more = queue.get_nowait()
            except Empty:
                break
            if more is None:
                return jobs, False
            jobs += more
        return jobs, True

    def _see_to(self, jobs: list[_Job]) -> None:
        """Commit as soon as the file is there and nobody else has it locked; what may be committed is looked for."""
        left = [job for job in jobs if job.unconfirmed is None]
        unconfirmed = [job for job in jobs if job.unconfirmed is not None]
        try:
            if left:
                self._commit_patiently(left)
        except BaseException as error:  # whatever it is, it belongs to those who wait for these writes
            if isinstance(error, Fenced) and len(left) > 1:  # said by the COMMIT, which does not say of whose write
                for job in left:
                    self._see_to([job])
                left = []
            for job in left:
                if job.unconfirmed is None:
                    job.error = job.error or error
                else:
                    unconfirmed.append(job)
        if unconfirmed:
            self._look_what_is_kept(unconfirmed)

    def _commit_patiently(self, jobs: list[_Job]) -> None:
        """Do the jobs, each whole or not at all, and commit."""
        with translated("the store"):
            failure = self._commit_on_one(jobs)
            if failure is not None:
                raise failure

    def _commit_on_one(self, jobs: list[_Job]) -> Exception | None:
        """What the disk failed in, after which the connection stays open: the last one to close would go on writing."""
        with self._connections.lent() as connection:
            if self._in_doubt and (failure := self._write_log_again(connection)):
                return failure
            when_free(connection, "BEGIN IMMEDIATE", self._busy_seconds)
            cursor = connection.cursor()
            if not self._all_clean(cursor, jobs):
                cursor.execute("ROLLBACK")
                when_free(connection, "BEGIN IMMEDIATE", self._busy_seconds)
                for job in jobs:
                    self._alone(cursor, job)
            try:
                self._commit(connection, jobs)
            except sqlite3.Error as error:
                return error
        return None

    def _look_what_is_kept(self, jobs: list[_Job]) -> None:
        """A COMMIT that failed may have been kept: the store tells for each job which it was."""
        self._in_doubt = self._in_doubt or any(job.unconfirmed is not _INTERRUPTED for job in jobs)
        try:
            with translated("the store"), self._connections.lent() as connection:
                failure: Exception | None = self._write_log_again(connection) if self._in_doubt else None
                kept = [self._is_kept(connection, job.result) for job in jobs]
        except Exception as error:
            failure = error
        if failure is not None:  # a transition's refusal stands; of the others nothing is known
            for job in jobs:
                job.error = job.error or OutcomeUnknown(f"What became of a failed write is not known: {failure}")
            return
        for job, found in zip(jobs, kept, strict=True):
            if not found and job.error is None and job.unconfirmed is not None:
                job.error = not_confirmed(job.unconfirmed, "the store", may_be_kept=found is None)

    def _write_log_again(self, connection: sqlite3.Connection) -> BackendError | None:
        """Write the log's bytes again as they are read, so that a sync is about them again; the error when it fails.

        A system that failed to sync pages gives them up: it shows them until the power is cut, and no later sync of the
        log tells of them. With them would go all that is written behind them.
        """
        when_free(connection, "BEGIN IMMEDIATE", self._busy_seconds)  # nobody writes to the log meanwhile, or cuts it
        try:
            log = os.open(f"{connection.execute('PRAGMA database_list').fetchone()[2]}-wal", os.O_RDWR)
            try:
                for offset in range(0, os.fstat(log).st_size, _CHUNK):
                    os.pwrite(log, os.pread(log, _CHUNK, offset), offset)
                os.fsync(log)
            finally:
                os.close(log)
        except OSError as error:
            return BackendError(f"The disk does not confirm what was written: {error}. No more is until it does.")
        finally:
            connection.execute("ROLLBACK")
        self._in_doubt = False
        return None

    def _is_kept(self, connection: sqlite3.Connection, result: Any) -> bool | None:
        """None when nothing tells: a write without audit events leaves no trace of its own."""
        if not isinstance(result, Batch):
            return None
        events = [(row.run_id, row.seq, row.hash) for row in result.inserts if isinstance(row, AuditEvent)]
        if not result.writes:
            return True
        sql = f"SELECT count(*) FROM {self._audit_table} WHERE run_id = ? AND seq = ? AND hash = ?"
        return all(connection.execute(sql, event).fetchone()[0] for event in events) if events else None

    @staticmethod
    def _tell(jobs: list[_Job]) -> None:
        """Wake each loop once for all of its jobs."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        for job in jobs:
            by_loop.setdefault(job.turn.loop, []).append(job)
        for loop, its in by_loop.items():
            with suppress(RuntimeError):  # the loop was closed: nobody waits in it
                loop.call_soon_threadsafe(_settle, its)

    def _empty_log(self) -> None:
        """Write the log's pages to the file, when there are enough of them. Whoever waited was told before."""
        if self._in_log >= LOG_WRITES:
            self._in_log = 0
            with suppress(Exception), self._connections.lent() as connection:  # the log keeps what the file has not
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    # In either thread

    def _all_clean(self, cursor: sqlite3.Cursor, jobs: list[_Job]) -> bool:
        """Do all jobs, and say whether each was done or refused whole; savepoints are for when one was not."""
        for job in jobs:
            before = cursor.connection.total_changes
            if not self._one(cursor, job) and cursor.connection.total_changes != before:
                return False
        return True

    def _alone(self, cursor: sqlite3.Cursor, job: _Job) -> None:
        cursor.execute("SAVEPOINT job")
        if not self._one(cursor, job):
            cursor.execute("ROLLBACK TO job")
        cursor.execute("RELEASE job")

    def _one(self, cursor: sqlite3.Cursor, job: _Job) -> bool:
        """Do a job and keep its result or its error; False when it failed."""
        job.error = None
        try:
            job.result = job.work(cursor)
        except _OF_THE_JOB as error:
            if not cursor.connection.in_transaction:  # a trigger ended it, and with it what others wrote
                raise
            job.error = translate(error, "the store")
        except sqlite3.Error:
            raise
        except BaseException as error:  # a transition's refusal, any fault in it, an interrupt: this job's alone
            job.error = error
        return job.error is None

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        """From here on the jobs may be kept, and are not to be done again."""
        for job in jobs:
            job.unconfirmed = _INTERRUPTED
        began = time.monotonic()
        try:
            connection.execute("COMMIT")
        except sqlite3.IntegrityError:  # a constraint that is looked at in the end: certainly nothing is kept
            for job in jobs:
                job.unconfirmed = None
            raise
        except sqlite3.Error as error:
            for job in jobs:
                job.unconfirmed = error
            raise
        self._in_log += len(jobs)
        seconds = time.monotonic() - began
        if seconds > QUICK_SECONDS:
            self._slow_until = began + SLOW_FOR * seconds


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        job.settle()


def _after_fork_in_child() -> None:
    for writer in _writers:
        writer.begin()


_writers: WeakSet[Writer] = WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
