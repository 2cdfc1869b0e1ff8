"""The one connection that a process writes to an SQLite store through: who writes at the same time shares a commit."""

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
from typing import Any, TypeVar

from flujo.batch import Batch
from flujo.errors import Fenced, OutcomeUnknown
from flujo.records import AuditEvent
from flujo.state.backends.sqlite_errors import translate, translated, when_free

T = TypeVar("T")
MAX_SHARED = 200
QUICK_SECONDS = 0.002
"""A commit that takes longer holds up a whole event loop, and the next ones are made by the thread."""
SLOW_FOR = 25
"""For how many times what the slow commit took: slow commits hold up a loop for a hundredth of the time at most."""
LOG_ROWS = 1_000
"""After so many rows the log goes to the file: each step writes the same few pages again, which go there once."""
LOG_PAGES = 16_000
"""64 MB: so large the log becomes where the rows are. The commit that reaches it waits for its pages to be written."""
_OF_THE_PARENT: list[sqlite3.Connection | None] = []  # kept, since closing them would let go of the parent's locks


@dataclass(slots=True, eq=False)
class _Job:
    """Work inside a transaction; its future is settled after the commit."""

    work: Callable[[sqlite3.Cursor], Any]
    turn: _Turn
    future: asyncio.Future[Any] | None = None
    result: Any = None
    error: BaseException | None = None

    def settle(self) -> None:
        """Tell who waits, in its loop. Whoever was cancelled waits no longer; the work is done all the same."""
        if self.future is None or self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


@dataclass(slots=True)
class _Turn:
    """What the tasks of a loop asked for since it last went round; `first` is the one that did not have to wait."""

    loop: asyncio.AbstractEventLoop
    jobs: list[_Job] = field(default_factory=list)
    ends: bool = False
    first: asyncio.Task[Any] | None = None
    first_until: float = 0.0


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
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        self._using = threading.Lock()
        self._guard = threading.RLock()  # a backend may be collected, and stop it, while this thread is in here
        self._thread: threading.Thread | None = None
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._here = _OfThread()
        self._slow_until = 0.0
        self._log_full_at = 0

    async def write(self, work: Callable[[sqlite3.Cursor], T]) -> T:
        """The result of `work`, once it is committed. Raises its error, or that of the store; then nothing is kept."""
        if self._pid != os.getpid():  # a fork has neither the threads of its parent nor the use of its connection
            _OF_THE_PARENT.append(self._connection)
            self._begin()
        loop = asyncio.get_running_loop()
        turn = self._here.turn
        if turn is None or turn.loop is not loop:
            turn = self._here.turn = _Turn(loop)
        job = _Job(work, turn)
        if self._comes_first(turn) and self._commit_here([job]):
            if job.error is not None:
                try:
                    raise job.error
                finally:
                    del job  # which would keep this frame, and the frame it
            alone: T = job.result
            return alone
        job.future = loop.create_future()
        turn.jobs.append(job)
        result: T = await job.future
        return result

    def _comes_first(self, turn: _Turn) -> bool:
        """Whether this task may write at once: the first in this turn of the loop, until others should have theirs."""
        task = asyncio.current_task(turn.loop)
        if not turn.ends:
            turn.ends, turn.first, turn.first_until = True, task, time.monotonic() + QUICK_SECONDS
            turn.loop.call_soon(self._end, turn)
        return turn.first is task and not turn.jobs and time.monotonic() < turn.first_until

    async def close(self) -> None:
        """Close the connection, after all that was asked for before. A later write opens another."""
        turn = self._here.turn
        while turn is not None and turn.jobs:
            self._end(turn)
        thread = self.stop()
        if thread is not None:
            await asyncio.to_thread(thread.join)

    def stop(self) -> threading.Thread | None:
        """Close the connection, or have the thread close it after its last job. Waits for nobody."""
        with self._guard:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
            elif self._using.acquire(blocking=False):
                self._drop_connection()
                self._using.release()
        return thread

    # In the loop's thread

    def _end(self, turn: _Turn) -> None:
        """Commit what a turn of the loop asked for, or have it committed."""
        jobs, turn.jobs = turn.jobs[:MAX_SHARED], turn.jobs[MAX_SHARED:]
        turn.ends, turn.first = bool(turn.jobs), None
        if turn.ends:
            turn.loop.call_soon(self._end, turn)
        if jobs and not self._commit_here(jobs):
            self._queue_up(jobs)

    def _commit_here(self, jobs: list[_Job]) -> bool:
        """Commit without waiting for anybody; False, and nothing is done, when that may take long."""
        if time.monotonic() < self._slow_until or not self._using.acquire(blocking=False):
            return False
        try:
            connection = self._connection
            if connection is None or connection.total_changes >= self._log_full_at:
                return False
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error:  # locked by another process, or broken: the thread waits, or tells of it
                return False
            seconds = self._commit(connection, jobs)
        finally:
            self._using.release()
        if seconds > QUICK_SECONDS:
            self._slow_until = time.monotonic() + SLOW_FOR * seconds
        _settle(jobs)
        return True

    def _queue_up(self, jobs: list[_Job]) -> None:
        """Give jobs to the thread; under the guard, since one that came after the word to stop would never be done."""
        with self._guard:
            if self._thread is None:
                self._queue = SimpleQueue()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._queue,), name="flujo-sqlite-writer", daemon=True
                )
                self._thread.start()
            for job in jobs:
                self._queue.put(job)

    # In the thread

    def _serve(self, queue: SimpleQueue[_Job | None]) -> None:
        more = True
        while more and (job := queue.get()) is not None:
            jobs, more = self._gather(queue, job)
            with self._using:
                self._commit_patiently(jobs)
            self._tell(jobs)
            with self._using:
                self._empty_log()
            del job, jobs  # nothing is kept of them while the thread waits
        with self._using:
            self._drop_connection()

    @staticmethod
    def _gather(queue: SimpleQueue[_Job | None], first: _Job) -> tuple[list[_Job], bool]:
        """All jobs that wait now; False when the last word was to stop."""
        jobs = [first]
        while len(jobs) < MAX_SHARED:
            try:
                job = queue.get_nowait()
            except Empty:
                break
            if job is None:
                return jobs, False
            jobs.append(job)
        return jobs, True

    def _commit_patiently(self, jobs: list[_Job]) -> None:
        """Commit as soon as the file is there and nobody else has it locked."""
        try:
            with translated("the store"):
                if self._connection is None:
                    self._connection = self._connect()
                    self._connection.execute("PRAGMA busy_timeout = 0")  # in a loop's thread nothing is waited for
                    self._connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
                    self._log_full_at = LOG_ROWS
                when_free(self._connection, "BEGIN IMMEDIATE", self._busy_seconds)
        except BaseException as error:
            self._fail(jobs, error)
        else:
            self._commit(self._connection, jobs)

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
        connection = self._connection
        if connection is not None and connection.total_changes >= self._log_full_at:
            self._log_full_at = connection.total_changes + LOG_ROWS
            with suppress(sqlite3.Error):  # nothing is lost: the log keeps what the file has not
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    # In either, by whoever uses the connection

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> float:
        """Do all jobs in the transaction that has begun, and commit it: the seconds that the commit itself took."""
        try:
            with translated("the store"):
                self._do(connection, jobs)
                began = time.perf_counter()
                try:
                    connection.execute("COMMIT")
                except sqlite3.Error as error:
                    self._look_what_is_kept(jobs, error)
                return time.perf_counter() - began
        except BaseException as error:  # whatever it is, it belongs to those who wait for these writes
            self._fail(jobs, error)
            return 0.0

    def _do(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        """Do all jobs, each whole or not at all; savepoints are for when one was left half done."""
        cursor = connection.cursor()
        if not self._all_clean(cursor, jobs):
            cursor.execute("ROLLBACK")
            when_free(connection, "BEGIN IMMEDIATE", self._busy_seconds)
            for job in jobs:
                self._alone(cursor, job)

    def _all_clean(self, cursor: sqlite3.Cursor, jobs: list[_Job]) -> bool:
        """Do all jobs, and say whether each was done or refused whole."""
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
        except sqlite3.IntegrityError as error:
            job.error = Fenced(f"The run changed meanwhile ({error}). Nothing was written.")
        except sqlite3.Error:
            raise
        except Exception as error:  # a transition's refusal, or any fault in it: this job's alone
            job.error = error
        return job.error is None

    def _look_what_is_kept(self, jobs: list[_Job], error: sqlite3.Error) -> None:
        """A COMMIT that failed may have been kept: a fresh connection tells for each job which it was."""
        self._drop_connection()
        for job in jobs:
            if job.error is None and isinstance(job.result, Batch):
                job.error = None if self._is_kept(job.result) else translate(error, "the store")
            elif job.error is None:
                job.error = OutcomeUnknown(f"The store did not confirm the write: {error}")

    def _is_kept(self, batch: Batch) -> bool:
        hashes = [(row.run_id, row.seq, row.hash) for row in batch.inserts if isinstance(row, AuditEvent)]
        if not batch.writes:
            return True
        try:
            connection = self._connect()
        except sqlite3.Error as error:
            raise OutcomeUnknown(f"The store did not confirm the write, and cannot be read: {error}") from error
        try:
            sql = f"SELECT count(*) FROM {self._audit_table} WHERE run_id = ? AND seq = ? AND hash = ?"
            return bool(hashes) and all(connection.execute(sql, key).fetchone()[0] for key in hashes)
        finally:
            connection.close()

    def _fail(self, jobs: list[_Job], error: BaseException) -> None:
        self._drop_connection()
        for job in jobs:
            job.error = job.error or error

    def _drop_connection(self) -> None:
        """Close the connection; what it has not committed is undone."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        job.settle()
