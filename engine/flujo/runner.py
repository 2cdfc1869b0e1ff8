"""The runner: what can be asked of the runs of one pipeline on one backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Unpack

from flujo import lineage, transitions, watch, work
from flujo.admission import run_id_for
from flujo.answers import answer_to, question_of
from flujo.bridge import wait_for
from flujo.clock import Clock, SystemClock
from flujo.context import PipelineContext
from flujo.definition import check_length
from flujo.description import checked
from flujo.errors import HumanTaskExpired, PipelineChanged, PipelineDefinitionError
from flujo.handle import RunHandle
from flujo.hold import Progress
from flujo.human import HumanStep
from flujo.lease import DEFAULT_LEASE
from flujo.options import ActOptions, AnswerOptions, ForkOptions, RerunOptions, SignalOptions, StartOptions
from flujo.past import past_result
from flujo.registry import PipelineRegistry
from flujo.result import PipelineResult, result_of
from flujo.scope import Scope
from flujo.start import check_capable, new_run
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.status import OnChange, RunStatus


class Flujo:
    """Runs one registered pipeline on one backend.

    Each call has two forms: `run_async` and its kin are awaited, `run` and its kin block and are refused inside a
    running event loop (`RunningLoop`). They work in the process that calls them, until the run pauses or ends. Those
    that are about a stored run raise `RunNotFound` for an id that is unknown or of another pipeline, and `RunDeleted`;
    all of them `PipelineNotFound`, and `PipelineChanged` where the code of an unfinished run is not registered.

    `pipeline_version` None or "latest" means the newest when a run starts; a stored run goes on under its own version.
    `state_backend` is a store in memory unless given, `context_model` what the pipeline was registered with. `lease` is
    how long a silent worker keeps a run before another process may take it over. Raises `BackendCannot` when a step
    needs what the backend has not.
    """

    def __init__(
        self,
        *,
        registry: PipelineRegistry,
        pipeline_name: str,
        pipeline_version: str | None = None,
        state_backend: StateBackend | None = None,
        context_model: type[PipelineContext] | None = None,
        clock: Clock | None = None,
        lease: timedelta = DEFAULT_LEASE,
    ) -> None:
        self.registry = registry
        self.pipeline_name = pipeline_name
        self.pipeline_version = pipeline_version
        self.backend = state_backend or InMemoryBackend()
        self.context_model = context_model
        self.clock = clock or SystemClock()
        check_length(lease, "lease")
        if lease <= timedelta(0):
            raise PipelineDefinitionError("A lease is longer than zero.")
        self.lease = lease
        for version in registry.versions(pipeline_name):
            check_capable(self.backend, registry.get(pipeline_name, version))

    @property
    def _scope(self) -> Scope:
        return Scope(
            registry=self.registry,
            pipeline_name=self.pipeline_name,
            pipeline_version=self.pipeline_version,
            context_model=self.context_model,
            backend=self.backend,
            clock=self.clock,
            lease=self.lease,
        )

    # Start

    def run(self, value: Any = None, **options: Unpack[StartOptions]) -> PipelineResult:
        """Block until the run pauses or ends; the options are those of `run_async`."""
        return wait_for(self._awaited(self.run_async(value, **options)), twin="run_async(...)")

    def run_async(
        self,
        value: Any = None,
        *,
        initial_context_data: dict[str, Any] | None = None,
        run_id: str | None = None,
        title: str = "",
        owner: str = "",
        requester: str = "",
        tags: Sequence[str] = (),
        idempotency_key: str | None = None,
        priority: int | None = None,
        on_change: OnChange | str | None = None,
    ) -> RunHandle:
        """Start a run on `value`, or go on with the one that has this `run_id`, until it pauses or ends.

        With an `idempotency_key`, every start of the pipeline with the same one means the same run, whatever version
        began it; on another input it raises `IdempotencyConflict`. Of the runs that wait for a worker, those of higher
        `priority` (-1000 to 1000; the pipeline's own unless given) go first. `on_change` ("refuse", "pin" or "migrate";
        the pipeline's own unless given) says what happens to it where its code is not registered. `requester` is who
        asked for the run: under four eyes they may not decide on it.

        What an existing id does depends on its status: unfinished after a crash, it resumes from its last checkpoint;
        paused or completed, its stored result comes back and nothing runs; that of a version which is registered no
        longer has plain JSON for its values. The delay before a retry is no pause: it is
        sat out here, however long, and survives a crash. Raises `RunConflict` when the id belongs to another pipeline
        or input, `RunIsLeased` naming a live worker, `RunFailed` (call `retry`), `RunCancelled`, `InvalidInput`,
        `CorruptState`.
        """
        context = dict(initial_context_data or {})
        facts: dict[str, Any] = {"title": title, "owner": owner, "requester": requester, "tags": tags}
        facts |= {"idempotency_key": idempotency_key or "", "priority": priority}
        chosen = run_id_for(self.pipeline_name, idempotency_key, run_id or context.get("run_id"), self.clock)
        facts["on_change"] = on_change
        return RunHandle(lambda progress: self._run(value, {**context, "run_id": chosen}, facts, progress))

    async def _run(
        self, value: Any, context: dict[str, Any], facts: dict[str, Any], progress: Progress
    ) -> PipelineResult:
        key: str = facts["idempotency_key"]
        document = await self._scope.stored(context["run_id"], whatever_version=bool(key))
        past = None if document is None else past_result(self.registry, document, value, key)
        if past is not None:
            return past
        entry = await self._scope.entry_for(document)
        new = new_run(entry, value, context, **facts)
        return await work.begin(self._scope, entry, new, progress)

    # Start from another run

    def rerun(self, run_id: str, **options: Unpack[RerunOptions]) -> PipelineResult:
        """Block until the new run pauses or ends; the options are those of `rerun_async`."""
        return wait_for(self.rerun_async(run_id, **options), twin="rerun_async(...)")

    async def rerun_async(
        self,
        run_id: str,
        *,
        version: str | None = None,
        new_run_id: str | None = None,
        actor: str = "",
        reason: str = "",
    ) -> PipelineResult:
        """Start a new run on the input and the initial context of a stored one, here.

        It is one of `version`, or of the version that this runner is for, else of the newest. The same `new_run_id`
        twice makes one run. Raises `InvalidInput` when the other version does not take the input.
        """
        document = await self._scope.load(run_id)
        self._scope.own_head(document)
        entry = self._scope.entry(version or self.pipeline_version)
        new = lineage.rerun_of(entry, document, new_run_id or self.clock.new_id(), actor=actor, reason=reason)
        return await work.begin(self._scope, entry, new, actor=actor)

    def fork(self, run_id: str, **options: Unpack[ForkOptions]) -> PipelineResult:
        """Block until the new run pauses or ends; the options are those of `fork_async`."""
        return wait_for(self.fork_async(run_id, **options), twin="fork_async(...)")

    async def fork_async(
        self,
        run_id: str,
        *,
        from_step: str,
        context: dict[str, Any] | None = None,
        new_run_id: str | None = None,
        actor: str = "",
        reason: str = "",
    ) -> PipelineResult:
        """Start a new run that takes over a stored one up to the top-level step `from_step`, and runs the rest again.

        It has the outputs of the steps before and the context as it was there, with the fields of `context` set in it.
        The stored run stays as it is, byte for byte. The same `new_run_id` twice makes one run, or `RunConflict` where
        the fields of `context` differ. Raises
        `PipelineChanged` when the registered version has another shape, `InvalidInput` for a step that it does not have
        and for fields that its context refuses, and `IllegalTransition` for a step that the run has not come to, or one
        behind a gate that turned it away.
        """
        document = await self._scope.load(run_id)
        entry = self._scope.entry_of(document)
        new = lineage.fork_of(
            entry,
            document,
            new_run_id or self.clock.new_id(),
            from_step=from_step,
            edits=context or {},
            actor=actor,
            reason=reason,
        )
        return await work.begin(self._scope, entry, new, actor=actor)

    # Go on

    async def continue_async(
        self, run_id: str, *, drain: asyncio.Event | None = None, taken: Callable[[], None] = lambda: None
    ) -> PipelineResult:
        """Take a queued run, or one whose worker is gone, and work on it here until it pauses or ends.

        This is what workers call. `taken` is called once the lease is held. Setting `drain` gives the run back to the
        queue after the current step. Before a
        retry due later than in two seconds the run pauses, and whoever comes after that instant goes on. Raises
        `RunIsLeased` when another worker was faster, `PipelineChanged`, and the error of a status that cannot go on.
        """
        scope = self._scope
        document = await scope.load(run_id)
        if await work.stays(scope, document):
            return result_of(scope.entry_of(document), await scope.load(run_id))
        entry = await scope.own_code(document)
        terms = scope.terms(entry, patient=False)
        claimed = await scope.write(document, transitions.claim(terms, now=self.clock.now()))
        taken()
        known = document.followed_by(claimed)
        return await work.execute(scope, entry, claimed.kept, drain=drain, patient=False, document=known)

    # Answer

    def resume(
        self, paused: PipelineResult | str, human_input: Any, **options: Unpack[AnswerOptions]
    ) -> PipelineResult:
        """Block until the answered run pauses again or ends; the options are those of `resume_async`."""
        return wait_for(self.resume_async(paused, human_input, **options), twin="resume_async(...)")

    async def resume_async(
        self,
        paused: PipelineResult | str,
        human_input: Any,
        *,
        step: str | None = None,
        actor: str = "",
        reason: str = "",
    ) -> PipelineResult:
        """Answer a paused run, given by its result or its id, and go on with it here.

        `human_input` is the answer, or `Reject(reason)`; `step` names the path when several questions are open. The
        answer is committed before anything behind the gate runs; giving the same one again is harmless. With a quorum
        it is the vote of `actor`, and the run stays paused until enough people gave the same answer. Raises
        `InvalidAnswer` (the run stays paused), `AlreadyDecided`, `HumanTaskExpired` (it came after the deadline, which
        is then recorded), `RunNotPaused`, `RunFinished`.
        """
        run_id = paused if isinstance(paused, str) else paused.run_id
        scope = self._scope
        document = await scope.load(run_id)
        entry = await scope.own_code(document)
        path, generation, digest = question_of(paused, document, step)
        gate = entry.pipeline.find(path)
        if not isinstance(gate, HumanStep):
            raise PipelineChanged(f"The registered {entry.name} {entry.version} has no human task {path!r}.")
        asked: dict[str, Any] = {"path": path, "generation": generation, "digest": digest}
        shown = document.human_task(path)
        answer = answer_to(gate, human_input, **asked, actor=actor, reason=reason, shown=shown)
        decided = await scope.write(
            document, transitions.decide(answer, now=self.clock.now(), claim=scope.terms(entry), facts={})
        )
        watch.hint(run_id)  # a rejection ends the run, whatever another worker does beside the question
        if isinstance(decided.result, HumanTaskExpired):
            raise decided.result
        if decided.writes and decided.kept.status is RunStatus.RUNNING and decided.before != decided.kept:
            if decided.before is not None and decided.before.fence == decided.kept.fence:
                # a worker that runs a sibling branch goes on with it
                return result_of(entry, await scope.load(run_id))
            return await work.execute(scope, entry, decided.kept, document=document.followed_by(decided))
        return await work.settled(scope, entry, decided.kept)

    # Signal

    def signal(self, run_id: str, name: str, data: Any = None, **options: Unpack[SignalOptions]) -> PipelineResult:
        """Block until the signalled run waits again or ends; the options are those of `signal_async`."""
        return wait_for(self.signal_async(run_id, name, data, **options), twin="signal_async(...)")

    async def signal_async(
        self, run_id: str, name: str, data: Any = None, *, message_id: str | None = None, actor: str = ""
    ) -> PipelineResult:
        """Send a run the message `name`, and go on with it here if it waits for that.

        The same `message_id` counts once; it is a text of at most 200 characters. Raises `InvalidInput` when it is not,
        or when `data` does not fit the step's schema, and `RunFinished`.
        """
        scope = self._scope
        document = await scope.load(run_id)
        entry = await scope.own_code(document)
        received = transitions.receive(
            name,
            entry.signal_step(name).validate(data),
            message_id=checked(message_id=message_id)["message_id"] if message_id else self.clock.new_id(),
            actor=actor,
            now=self.clock.now(),
            claim=scope.terms(entry),
            facts={},
        )
        batch = await scope.write(document, received)
        watch.hint(run_id)  # a worker may run a branch beside the one that waits
        if batch.before is not None and batch.before.fence != batch.kept.fence:
            return await work.execute(scope, entry, batch.kept, document=document.followed_by(batch))
        if batch.before is not None and batch.before.status is RunStatus.PAUSED:
            return await work.settled(scope, entry, batch.kept)
        return result_of(entry, await scope.load(run_id))

    # Retry and cancel

    def retry(self, run_id: str, **options: Unpack[ActOptions]) -> PipelineResult:
        """Block until the retried run pauses or ends; the options are those of `retry_async`."""
        return wait_for(self.retry_async(run_id, **options), twin="retry_async(...)")

    async def retry_async(self, run_id: str, *, actor: str = "", reason: str = "") -> PipelineResult:
        """Try the failed step of a failed run again, here. Raises `IllegalTransition` when the run has not failed."""
        scope = self._scope
        document = await scope.load(run_id)
        entry = await scope.own_code(document)
        terms = scope.terms(entry)
        again = transitions.retry(actor=actor, reason=reason, now=self.clock.now(), claim=terms, facts={})
        retried = await scope.write(document, again)
        return await work.take_up(scope, entry, retried.kept, document.followed_by(retried))

    def cancel(self, run_id: str, **options: Unpack[ActOptions]) -> PipelineResult:
        """Cancel a run; the options are those of `cancel_async`."""
        return wait_for(self.cancel_async(run_id, **options), twin="cancel_async(...)")

    async def cancel_async(self, run_id: str, *, actor: str = "", reason: str = "") -> PipelineResult:
        """Cancel a waiting run, or one whose worker is gone; a running one stops at its worker's next safe point.

        The request is stored before it is acted on. A worker in this process hears of it at once, one elsewhere within
        a second: it interrupts async steps (`CancelledError`) and raises `ctx.cancelled` for sync ones. Cancelled is
        final. Raises `RunFinished`, `RunCancelled`.
        """
        entry = self._scope.entry_of(await self._scope.load(run_id))
        asked = transitions.cancel(actor=actor, reason=reason, now=self.clock.now(), facts={})
        asked_of = (await self.backend.transact(run_id, asked)).kept
        watch.hint(run_id)
        if asked_of.untold:
            return await work.settled(self._scope, entry, asked_of)
        return result_of(entry, await self._scope.load(run_id))

    def unpark(self, run_id: str, **options: Unpack[ActOptions]) -> PipelineResult:
        """Block until the un-parked run pauses or ends; the options are those of `unpark_async`."""
        return wait_for(self.unpark_async(run_id, **options), twin="unpark_async(...)")

    async def unpark_async(self, run_id: str, *, actor: str = "", reason: str = "") -> PipelineResult:
        """Let a parked run go on, here. Raises `PipelineChanged` while its code is still not registered."""
        document = await self._scope.load(run_id)
        parked = document.head
        entry = await self._scope.own_code(document)
        head = document.head
        if head is None or head is parked:  # else it was migrated, and queued with that
            free = transitions.unpark(actor=actor, reason=reason, now=self.clock.now(), facts={})
            head = (await self.backend.transact(run_id, free)).kept
        return await work.go_on(self._scope, entry, head)

    @staticmethod
    async def _awaited(handle: RunHandle) -> PipelineResult:
        return await handle
