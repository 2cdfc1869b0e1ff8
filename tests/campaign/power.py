"""A power cut after each acknowledgement, and at random moments: what was acknowledged must be there."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from random import Random
from typing import Any

from flujo import transitions
from flujo.batch import Batch, Transition
from flujo.clock import SystemClock
from flujo.errors import BackendError
from flujo.state.base import StateBackend
from flujo.testing import FaultyBackend
from flujo.verify import verify_chain

from tests.campaign.disk import Disk, recorded_files
from tests.engine.making import Ledger, order_pipeline, runner_of
from tests.engine.test_shared_commits import start

RUNS = 3


class Cut(FaultyBackend):
    """After each write that was acknowledged the power is cut, on a copy."""

    def __init__(self, inner: StateBackend, cut: Callable[[str, int], None]) -> None:
        super().__init__(inner)
        self.cut = cut

    async def transact(self, run_id: str, transition: Any, *, known: Any = None) -> Batch:
        batch = await super().transact(run_id, transition, known=known)
        if batch.writes and batch.head is not None:
            self.cut(run_id, batch.head.seq)
        return batch


def cut_the_power(
    root: Path,
    opens: Callable[[Path], StateBackend],
    recorded: Callable[[Disk], AbstractContextManager[None]],
    *,
    order: str = "lamp",
) -> int:
    """Cut the power after every write of some runs; how often. Raises an `AssertionError` for what is lost."""
    work, images = root / "work", root / "images"
    work.mkdir()
    images.mkdir()
    disk, chances, cuts = Disk(work), Random(1), []

    def cut(run_id: str, seq: int) -> None:
        disk.acknowledged[run_id] = seq
        for some in (None, chances):
            image = images / str(len(cuts))
            disk.image(image, some)
            cuts.append((image, dict(disk.acknowledged)))

    with recorded(disk):
        asyncio.run(_use(opens(work / "store"), cut, order))
    for image, acknowledged in cuts:
        asyncio.run(_check(opens(image / "store"), acknowledged))
        shutil.rmtree(image)
    return len(cuts)


async def _use(backend: StateBackend, cut: Callable[[str, int], None], order: str) -> None:
    """Runs that wait, are answered and end, and one that is deleted."""
    runner = runner_of(order_pipeline(Ledger()), Cut(backend, cut))
    for number in range(RUNS):
        await runner.run_async(order, run_id=f"r{number}")
        await runner.resume_async(f"r{number}", f"{order}!")
    await backend.close()


def fail_to_sync(
    root: Path,
    opens: Callable[[Path], StateBackend],
    recorded: Callable[[Disk], AbstractContextManager[None]],
    chances: Random,
) -> int:
    """Cut the power now and then while some syncs fail, after which the system gives up what they were about."""
    work, images = root / "work", root / "images"
    work.mkdir()
    images.mkdir()
    disk, cuts = Disk(work), list[tuple[Path, dict[str, int]]]()

    def cut() -> None:
        cuts.append((images / str(len(cuts)), dict(disk.acknowledged)))
        disk.image(cuts[-1][0], chances if chances.random() < 0.5 else None)

    with recorded_files(disk), recorded(disk):
        asyncio.run(_signal(opens(work / "store"), disk, cut, chances))
    for image, acknowledged in cuts:
        asyncio.run(_check(opens(image / "store"), acknowledged))
        shutil.rmtree(image)
    return len(cuts)


async def _signal(backend: StateBackend, disk: Disk, cut: Callable[[], None], chances: Random) -> None:
    """Two runs that are told something again and again, now and then at once, or by who opens the store anew."""

    async def write(run_id: str, transition: Transition) -> None:
        with suppress(BackendError):
            disk.acknowledged[run_id] = (await backend.transact(run_id, transition)).kept.seq

    for run_id in ("a", "b"):
        await write(run_id, start(run_id))
    for number in range(40):
        if chances.random() < 0.3:
            disk.failures = [chances.choice([0, sqlite3.SQLITE_IOERR_FSYNC]) for _ in range(chances.randrange(6))]
        if chances.random() < 0.2:
            disk.failures, left = [], disk.failures
            await backend.close()
            disk.failures = left
        data = f'"{chances.randbytes(chances.choice([5, 2_000, 5_000])).hex()}"'
        told = {"message_id": f"m{number}", "actor": "", "now": SystemClock().now(), "claim": None, "facts": {}}
        runs = ["a", "b"] if chances.random() < 0.3 else [chances.choice("ab")]
        await asyncio.gather(*[write(run_id, transitions.receive("told", data, **told)) for run_id in runs])
        if chances.random() < 0.3:
            cut()
    disk.failures = []
    await backend.close()


async def _check(backend: StateBackend, acknowledged: dict[str, int]) -> None:
    for run_id, seq in acknowledged.items():
        document = await backend.load(run_id)
        events = list(await backend.events(run_id))
        assert len(events) >= seq, f"event {seq} of {run_id} was acknowledged and lost: {len(events)} are left"
        assert document is not None
        verify_chain(events, document.head)
    await backend.close()
