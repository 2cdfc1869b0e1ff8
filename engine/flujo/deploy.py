"""What a deploy means for an unfinished run: it goes on, is left to others, is migrated, or parked for an operator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from flujo import transitions
from flujo.batch import Transition
from flujo.document import RunDocument
from flujo.errors import MigrationRefused, PipelineChanged
from flujo.migration import Migrate, MigrationPlan
from flujo.planning import plan
from flujo.records import RunHead
from flujo.registry import PipelineRegistry, RegisteredPipeline
from flujo.state.base import StateBackend
from flujo.status import OnChange
from flujo.transitions.moving import is_moving


class Course(StrEnum):
    """What is to become of a run here."""

    GO_ON = "go_on"
    LEAVE = "leave"
    MIGRATE = "migrate"
    PARK = "park"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The course for one run, and why.

    `registered` is the pipeline that is here in place of the run's own, `migrate` the function that moves it there.
    """

    course: Course
    why: str = ""
    registered: RegisteredPipeline | None = None
    migrate: Migrate | None = None

    @property
    def error(self) -> PipelineChanged:
        """What a caller is told who wanted to go on with the run."""
        return PipelineChanged(self.why)


def judge(registry: PipelineRegistry, head: RunHead) -> Verdict:
    """What the code that is registered here means for a run.

    A run whose own code is here goes on. Else its own policy decides, and without one that of the newest version of its
    pipeline; a pipeline of which no version is here is the business of others.
    """
    if registry.has(head):
        return Verdict(Course.GO_ON)
    if head.pipeline not in registry.names():
        return Verdict(Course.LEAVE, f"No version of {head.pipeline} is registered here. {_name(head)}")
    there = _in_its_place(registry, head)
    if is_moving(head):
        return Verdict(Course.LEAVE, f"Run {head.run_id} is being moved to another store.", there)
    why, policy = f"{_name(head)} {_differs(head, there)}", policy_of(registry, head)
    if policy is OnChange.PIN:
        return Verdict(Course.LEAVE, f"{why} The run is pinned: it waits for a process that has its version.", there)
    for target, migrate in registry.migrations(head.pipeline, head.version) if policy is OnChange.MIGRATE else ():
        return Verdict(Course.MIGRATE, f"{why} It is migrated to {target.version}.", target, migrate)
    if policy is OnChange.MIGRATE:
        why += f" No migration from {head.version} is registered."
    return _parked(head, why, there)


def _parked(head: RunHead, why: str, there: RegisteredPipeline | None) -> Verdict:
    now, then = ("is parked", "un-park the run") if head.active else (f"stays {head.status.value}", "retry it")
    back = f"register {head.pipeline} {head.version} as it was, then {then}."
    return Verdict(Course.PARK, f"{why} The run {now}: {back}", there)


def policy_of(registry: PipelineRegistry, head: RunHead) -> OnChange:
    """The run's own policy, else that of its pipeline's newest version here."""
    return head.on_change or registry.get(head.pipeline).on_change


def _in_its_place(registry: PipelineRegistry, head: RunHead) -> RegisteredPipeline:
    same = head.version in registry.versions(head.pipeline)
    return registry.get(head.pipeline, head.version if same else None)


def _name(head: RunHead) -> str:
    return (
        f"Run {head.run_id} was started by {head.pipeline} {head.version} with the fingerprint {head.fingerprint[:12]}."
    )


def _differs(head: RunHead, there: RegisteredPipeline) -> str:
    if there.version == head.version:
        return f"The registered {there.version} has the fingerprint {there.fingerprint[:12]}: its steps changed."
    return f"That version is not registered, but {there.version} with the fingerprint {there.fingerprint[:12]}."


def foresee(registry: PipelineRegistry, document: RunDocument) -> tuple[Verdict, MigrationPlan | None]:
    """The verdict on a stored run, and the plan of its migration; one that is refused parks the run."""
    head = document.head
    assert head is not None  # a deleted run is not gone on with
    verdict = judge(registry, head)
    if verdict.course is Course.MIGRATE and verdict.migrate is not None and verdict.registered is not None:
        try:
            return verdict, plan(document, verdict.registered, verdict.migrate)
        except MigrationRefused as error:
            return _parked(head, f"{_name(head)} {error.message}", verdict.registered), None
    return verdict, None


def settling(registry: PipelineRegistry, document: RunDocument, now: datetime) -> tuple[Verdict, Transition | None]:
    """The verdict on a stored run, and what it has written about it."""
    verdict, planned = foresee(registry, document)
    if planned is not None:
        return verdict, transitions.migrate(planned, actor="", now=now, facts={})
    head = document.head
    if verdict.course is not Course.PARK or head is None:
        return verdict, None
    registered = "" if verdict.registered is None else verdict.registered.fingerprint
    name = PipelineChanged.__name__
    return verdict, transitions.park(head, verdict.why, registered=registered, now=now, error_type=name)


async def settle(registry: PipelineRegistry, document: RunDocument, backend: StateBackend, now: datetime) -> Verdict:
    """Do with a run what its policy says. Raises what `transitions.migrate` raises."""
    verdict, transition = settling(registry, document, now)
    if transition is not None:
        await backend.transact(document.run_id, transition)
    return verdict


async def migrated(
    registry: PipelineRegistry, document: RunDocument, backend: StateBackend, now: datetime
) -> str | None:
    """The version that a run was just migrated to, and `document` is read again; None when no version of it is here.

    Raises `PipelineChanged` when the run was parked or is left to others.
    """
    verdict = await settle(registry, document, backend, now)
    if verdict.registered is None:
        return None
    if verdict.course is not Course.MIGRATE:
        raise verdict.error
    fresh = await backend.load(document.run_id)
    if fresh is not None:
        document.head, document.rows = fresh.head, fresh.rows
    return verdict.registered.version
