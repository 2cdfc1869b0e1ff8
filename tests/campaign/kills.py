"""A program that kills itself with -9 within a write, and goes on from what is left.

`kills.py STORE PLACE SEED KILLS [PLANT]` drives the pipeline that has everything to its end once, then again `KILLS`
times. Each time a child is killed at another moment: between two statements of a transaction,
after its commit but before anybody is told, in the middle of a line. A second child looks at what the first left: it
must hold all that was acknowledged, whole transactions only, and come to the end of the run that was not killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flujo.batch import Batch
from flujo.state.base import StateBackend
from flujo.testing import FaultyBackend
from flujo.verify import verify_chain

from tests.campaign.everything import drive
from tests.campaign.opening import Opens, make_tables, opener, plant

WRITES = ("INSERT", "UPDATE", "DELETE", "COMMIT")


class Moments:
    """Counts the moments at which this process could die; at the chosen one it does."""

    def __init__(self) -> None:
        self.count = 0
        self.last = 0

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


moment = Moments()


class MortalCursor(sqlite3.Cursor):
    """Each statement that writes is a moment."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        done = super().execute(sql, parameters)
        if sql.startswith(WRITES):
            moment()
        return done


class MortalConnection(sqlite3.Connection):
    def cursor(self, factory: Any = MortalCursor) -> Any:
        return super().cursor(factory)


def mortal(store: str) -> None:
    """Let the writes of this kind of store be moments."""
    if store == "sqlite":
        connect = sqlite3.connect
        sqlite3.connect = lambda *given, **named: connect(*given, factory=MortalConnection, **named)
    elif store == "file":
        _mortal_files()
    else:
        _mortal_orm()


def _mortal_files() -> None:
    write, fsync, replace = os.write, os.fsync, Path.replace

    def torn(descriptor: int, data: bytes) -> int:
        if not data.startswith(b'{"rows"'):
            return write(descriptor, data)
        half = len(data) // 2
        written = write(descriptor, data[:half])
        moment()
        written += write(descriptor, data[half:])
        moment()
        return written

    def then(done: Any) -> Any:
        moment()
        return done

    os.write, os.fsync = torn, lambda descriptor: then(fsync(descriptor))
    Path.replace = lambda path, target: then(replace(path, target))


def _mortal_orm() -> None:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.signals import connection_created

    commit = BaseDatabaseWrapper._commit

    def watched(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        done = execute(sql, params, many, context)
        if sql.startswith(WRITES):
            moment()
        return done

    def then_die(self: BaseDatabaseWrapper) -> None:
        commit(self)
        moment()

    connection_created.connect(lambda connection, **_: connection.execute_wrappers.append(watched), weak=False)
    BaseDatabaseWrapper._commit = then_die


class Noting(FaultyBackend):
    """Writes down outside the store which runs it is about to write, and what it acknowledged."""

    def __init__(self, inner: StateBackend, ledger: Path) -> None:
        super().__init__(inner)
        self.ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def _begin(self, run_id: str, what: tuple[str, ...]) -> int:
        os.write(self.ledger, f"{run_id} 0\n".encode())
        return super()._begin(run_id, what)

    async def transact(self, run_id: str, transition: Any, *, known: Any = None) -> Batch:
        batch = await super().transact(run_id, transition, known=known)
        if batch.writes and batch.head is not None:
            os.write(self.ledger, f"{run_id} {batch.head.seq}\n".encode())
        return batch


def acknowledged_in(ledger: Path) -> dict[str, int]:
    """The newest event of each run that somebody was told of; 0 where there was only an attempt to write."""
    newest: dict[str, int] = {}
    for line in ledger.read_text().splitlines() if ledger.exists() else []:
        run_id, _, seq = line.partition(" ")
        newest[run_id] = max(int(seq), newest.get(run_id, 0))
    return newest


async def check(backend: StateBackend, run_id: str, acknowledged: int) -> None:
    """What a killed process left: all that was acknowledged, and no half of a transaction."""
    document = await backend.load(run_id)
    events = list(await backend.events(run_id))
    assert len(events) >= acknowledged, f"{run_id}: event {acknowledged} was acknowledged, {len(events)} are there"
    if document is None:
        assert not events, "events of a run that is not there"
        return
    verify_chain(events, document.head)
    saved = {row.path for row in document.checkpoints()}
    done = {
        event.path for event in events if event.kind in ("step.completed", "decision.recorded", "human_task.expired")
    }
    assert saved <= done, f"checkpoints that no event tells of: {saved - done}"
    completed = {event.path for event in events if event.kind == "step.completed"}
    assert completed <= saved, f"events of checkpoints that are not there: {completed - saved}"


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Do it in a child: how it ended (minus the signal that killed it), and what it returned."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        try:
            told = json.dumps(work()).encode()
            code = 0
        except BaseException as error:  # whatever it is, the parent reports it
            traceback.print_exc()
            told, code = json.dumps(f"{type(error).__name__}: {error}").encode(), 1
        with os.fdopen(writes, "wb") as pipe:
            pipe.write(told)
        os._exit(code)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), json.loads(told) if told else None


def main(store: str, place: str, seed: str, kills: str, planted: str = "") -> int:
    opens = opener(store, place)
    plant(planted)
    in_child(lambda: make_tables(store))
    mortal(store)
    folder = Path(os.environ["FLUJO_DATA"])
    code, whole = in_child(lambda: run(opens, "whole", folder / "whole"))
    if code:
        print(whole)
        return 1
    moments = range(1, whole["moments"] + 1)
    chosen = random.Random(seed).sample(moments, min(int(kills), len(moments)))
    found, killed = [], 0
    for number in chosen:
        ledger, run_id = folder / f"ledger-{number}", f"r-{number}"
        code, _ = in_child(lambda number=number, run_id=run_id, ledger=ledger: run(opens, run_id, ledger, number))
        killed += code == -signal.SIGKILL
        code, told = in_child(lambda run_id=run_id, ledger=ledger: recover(opens, run_id, ledger))
        if code:
            found.append(f"killed at moment {number}: {told}")
        elif told != whole["ending"]:
            different = [what for what in whole["ending"] if told.get(what) != whole["ending"][what]]
            found.append(f"killed at moment {number}: another end: {different}")
    print(f"{killed} kills at {len(moments)} moments, {len(found)} findings", *found, sep="\n")
    return 1 if found else 0


def run(opens: Opens, run_id: str, ledger: Path, last: int = 0) -> dict[str, Any]:
    moment.last = last
    ending = asyncio.run(drive("approved").run(Noting(opens(), ledger), run_id))
    return {"ending": ending, "moments": moment.count}


def recover(opens: Opens, run_id: str, ledger: Path) -> dict[str, str]:
    acknowledged = acknowledged_in(ledger)

    async def check_all(backend: StateBackend) -> None:
        for one, seq in acknowledged.items():
            await check(backend, one, seq)

    async def work() -> dict[str, str]:
        backend, driven = opens(), drive("approved")
        await check_all(backend)
        driven.run_ids[run_id].update(acknowledged)
        ending = await driven.run(backend, run_id)
        await check_all(opens())  # as the next process finds it
        return ending

    return asyncio.run(work())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
