"""One execution: a claimed run worked on until it pauses or ends, with a heartbeat that keeps the lease."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from flujo import transitions
from flujo.batch import Transition
from flujo.branches import Stopped, Suspended
from flujo.errors import BackendError, Fenced, FlujoError
from flujo.hold import Hold, Stop
from flujo.records import RunHead
from flujo.status import RunStatus, Wait
from flujo.walk import Ended, Failed, Walk
from flujo.watch import Watch
from flujo.ways import WAYS


class Execution:
    """Works on the run that `hold` holds."""

    def __init__(self, hold: Hold) -> None:
        self.hold = hold

    async def run(self) -> None:
        """Work until the run pauses or ends, or the drain is asked for. Raises `Fenced` when the lease is lost."""
        run_id, shared = self.hold.head.run_id, self.hold.backend.shared_by_processes
        heartbeat = asyncio.create_task(self._beat(), name=f"flujo-heartbeat {run_id}")
        try:
            with Watch(run_id, self._look, shared=shared):
                await self._work()
        except Stopped:
            await self._stopped()
        except asyncio.CancelledError:
            await self._commit_quietly(transitions.release(fence=self.hold.fence, now=self.hold.now()))
            raise
        except Fenced:
            await self._ended_elsewhere()
        except Exception:
            await self._give_back()
            raise
        finally:
            heartbeat.cancel()

    async def _work(self) -> None:
        """Walk, and walk again when an answer came in while all branches were about to wait."""
        while self.hold.held:
            try:
                await Walk(self.hold, WAYS).run()
            except Suspended:
                await self._pause()
            except (Ended, Failed):
                return
            else:
                if self.hold.held:  # every step had its checkpoint when the run was claimed
                    await self.hold.commit(transitions.finish(fence=self.hold.fence, now=self.hold.now()))

    async def _pause(self) -> None:
        if not self.hold.held:
            return  # it paused with the question
        if self.hold.draining:
            await self.hold.commit(transitions.release(fence=self.hold.fence, now=self.hold.now()))
            return
        if self.hold.patient and self._retries:
            await self._rest()
            return
        known = transitions.waiting(self.hold.document.open_human_tasks(), self.hold.document.open_waits())
        paused = await self.hold.commit(transitions.pause(known, fence=self.hold.fence, now=self.hold.now()))
        if paused.kept.cancel_requested:
            await self.hold.commit(transitions.cancel_here(fence=self.hold.fence, now=self.hold.now()))
        elif not paused.result:
            await self.hold.reload()

    @property
    def _retries(self) -> bool:
        return any(wait.kind is Wait.RETRY for wait in self.hold.document.open_waits())

    async def _rest(self) -> None:
        """Sit a retry's delay out, until the first wait is over or an answer or a signal came in."""
        until = min(wait.due_at for wait in self.hold.document.open_waits() if wait.due_at is not None)
        waits = [
            asyncio.ensure_future(self.hold.sleep_until(until)),
            asyncio.ensure_future(self.hold.news(self.hold.told)),
        ]
        try:
            with self.hold.stoppable():
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        await self.hold.reload()

    async def _ended_elsewhere(self) -> None:
        """Fenced because an operator ended the run is an end; fenced by another worker is an error."""
        await self.hold.reload()
        if self.hold.head.fence != self.hold.fence or self.hold.head.status is RunStatus.RUNNING:
            raise Fenced(f"Run {self.hold.head.run_id} was taken over by another worker. Nothing was written.")

    async def _stopped(self) -> None:
        """Between the steps is a safe point, at which a cancellation that was asked for takes effect."""
        if self.hold.stop_for is Stop.CANCELLED:
            await self._commit_quietly(transitions.cancel_here(fence=self.hold.fence, now=self.hold.now()))
        else:
            await self._ended_elsewhere()

    async def _give_back(self) -> None:
        """After an error that stopped the work nobody should have to wait for the lease to end."""
        with suppress(FlujoError):
            await self.hold.backend.transact(
                self.hold.head.run_id, transitions.release(fence=self.hold.fence, now=self.hold.now())
            )

    async def _commit_quietly(self, transition: Transition) -> None:
        """The run may have ended or moved on meanwhile; then there is nothing left to give back."""
        try:
            await asyncio.shield(self.hold.commit(transition))
        except Fenced:
            await self.hold.reload()

    # While the work goes on

    async def _beat(self) -> None:
        """Keep the lease, also while a step that was interrupted still tidies up."""
        while self.hold.stop_for is not Stop.FENCED:
            await self.hold.clock.sleep(self.hold.lease.total_seconds() / 3)
            try:
                renewal = transitions.renew(fence=self.hold.fence, lease=self.hold.lease, now=self.hold.now())
                await self._judge((await self.hold.backend.transact(self.hold.head.run_id, renewal)).head)
            except Fenced:
                self.hold.stop(Stop.FENCED)
            except BackendError:
                continue  # a store that is away for a moment may be back before the lease ends

    async def _look(self) -> None:
        with suppress(BackendError):  # the heartbeat looks too
            await self._judge(await self.hold.backend.head(self.hold.head.run_id))

    async def _judge(self, head: RunHead | None) -> None:
        """Stop when the store says that the run is no longer ours, or is to be cancelled; else see what is new."""
        if head is None or head.fence != self.hold.fence or head.status is not RunStatus.RUNNING:
            self.hold.stop(Stop.FENCED)
        elif head.cancel_requested:
            self.hold.stop(Stop.CANCELLED)
        else:
            await self.hold.look(head)
