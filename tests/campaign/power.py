"""A power cut after each acknowledgement, and at random moments: what was acknowledged must be there."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any

from flujo.batch import Batch
from flujo.state.base import StateBackend
from flujo.testing import FaultyBackend
from flujo.verify import verify_chain

from tests.campaign.disk import Disk
from tests.engine.making import Ledger, order_pipeline, runner_of

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


async def _check(backend: StateBackend, acknowledged: dict[str, int]) -> None:
    for run_id, seq in acknowledged.items():
        document = await backend.load(run_id)
        events = list(await backend.events(run_id))
        assert len(events) >= seq, f"event {seq} of {run_id} was acknowledged and lost: {len(events)} are left"
        assert document is not None
        verify_chain(events, document.head)
    await backend.close()
