"""The transaction of a step: what it wrote and its checkpoint, committed together and in time, or not at all."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Lock, Thread, Timer
from typing import Any

from django.db import DatabaseError, IntegrityError, InterfaceError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from flujo.batch import Batch, Transition
from flujo.errors import StepRolledBack, StepTimeout
from flujo.state.base import WorkFailed

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Store:
    """How the checkpoint is written into the open transaction, and what is made of an error of its commit."""

    write: Callable[[Transition], Batch]
    settle: Callable[[Batch | None, Exception], Batch]


class StepTransaction:
    """One transaction on a thread of its own, which ends with the connection that it opened.

    Whether it is committed is decided once: by the thread when the work is done, or before that by `stop`, when the
    time is up or nobody waits any longer. A stopped transaction is rolled back at once, though Python code cannot be
    stopped: the function runs on, each statement of it is refused, and its result is thrown away.
    """

    def __init__(self, using: str, limit: timedelta) -> None:
        self.outcome: Future[Batch] = Future()
        self._using = using
        self._limit = limit
        self._decision = Lock()  # taken for good by whoever decides first
        self._mine = False  # whether the thread itself decided
        self._statement = Lock()  # held while a statement of the work runs
        self._stopped = Event()
        self._committed = Event()
        self._connection: BaseDatabaseWrapper | None = None

    def start(self, work: Callable[[], Transition], store: Store) -> None:
        """Begin. `store` writes the checkpoint when the work is done."""
        context = contextvars.copy_context()
        Thread(target=context.run, args=(self._run, work, store), name="flujo-transaction", daemon=True).start()

    def stop(self) -> bool:
        """Decide that it is not committed; False when it is too late for that. `roll_back` is to follow."""
        if not self._decision.acquire(blocking=False):
            return False
        self._stopped.set()
        return True

    def roll_back(self) -> None:
        """End a stopped transaction from another thread: interrupt what runs, then undo, so that no lock stays."""
        if self._connection is None or self._connection.connection is None:
            return
        raw = self._connection.connection
        interrupt = getattr(raw, "interrupt", None) or raw.cancel  # sqlite3's name, psycopg's name
        with suppress(DatabaseError, InterfaceError), self._connection.wrap_database_errors:
            interrupt()
            while not self._statement.acquire(timeout=_AGAIN_SECONDS):
                interrupt()  # it may have come before the statement
            try:
                raw.rollback()
            finally:
                self._statement.release()

    def _run(self, work: Callable[[], Transition], store: Store) -> None:
        connection = connections[self._using]
        try:
            commit_by_itself(connection)
            batch = self._commit(connection, work, store)
        except BaseException as error:  # whatever it is, it belongs to the one who waits
            if self._conclude():
                self.outcome.set_exception(error)
        else:
            self.outcome.set_result(batch)
        finally:
            connection.close()

    def _conclude(self) -> bool:
        """Decide for this thread; False when it was stopped before."""
        self._mine = self._mine or self._decision.acquire(blocking=False)
        return self._mine

    def _begin_commit(self) -> None:
        if not self._conclude():
            raise WorkFailed(self._too_late())

    def _commit(self, connection: BaseDatabaseWrapper, work: Callable[[], Transition], store: Store) -> Batch:
        batch: Batch | None = None
        try:
            with transaction.atomic(using=self._using):
                transaction.on_commit(self._committed.set, using=self._using)  # before the hooks of the work
                transition = self._call(connection, work)
                self._begin_commit()
                batch = store.write(transition)
        except Exception as error:  # the seam to user code: its hooks run after the commit
            if batch is not None and self._committed.is_set():
                logger.exception("A hook failed after the commit of run %s, which stands.", batch.run_id)
                return batch
            if batch is not None and isinstance(error, IntegrityError):  # a deferred constraint that the work broke
                raise WorkFailed(error) from error
            if isinstance(error, DatabaseError | InterfaceError):
                return store.settle(batch, error)
            raise
        return batch

    def _call(self, connection: BaseDatabaseWrapper, work: Callable[[], Transition]) -> Transition:
        """The work, inside a savepoint, so that a transaction which it left broken shows here."""
        if self._stopped.is_set():
            raise WorkFailed(self._too_late())
        self._connection = connection
        timer = Timer(self._limit.total_seconds(), self._expire)
        timer.daemon = True
        timer.start()
        try:
            with connection.execute_wrapper(self._guard), transaction.atomic(using=self._using):
                transition = work()
                _check_intact(connection)
            return transition
        except Exception as error:  # the seam to user code
            raise WorkFailed(error) from error
        finally:
            timer.cancel()

    def _guard(self, execute: Callable[..., Any], *statement: Any) -> Any:
        """Refuse the statements of a stopped transaction: after its end they would be committed one by one."""
        with self._statement:
            if self._stopped.is_set():
                raise self._too_late()
            return execute(*statement)

    def _expire(self) -> None:
        if self.stop():
            self.roll_back()
            self.outcome.set_exception(WorkFailed(self._too_late()))

    def _too_late(self) -> StepTimeout:
        return StepTimeout(f"The step's transaction took longer than {self._limit} and was rolled back.")


def commit_by_itself(connection: BaseDatabaseWrapper) -> None:
    """A site without autocommit commits what it began; in a thread of ours nobody would."""
    if not connection.get_autocommit():
        connection.set_autocommit(True)


def _check_intact(connection: BaseDatabaseWrapper) -> None:
    """Django rolls a marked transaction back without a word, and the checkpoint must not be saved without the rest."""
    if connection.get_rollback():
        raise StepRolledBack
