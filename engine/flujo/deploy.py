"""What a deploy means for an unfinished run: it goes on, is left to others, or is parked for an operator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from flujo import transitions
from flujo.batch import Transition
from flujo.errors import PipelineChanged
from flujo.records import RunHead
from flujo.registry import PipelineRegistry, RegisteredPipeline
from flujo.state.base import StateBackend
from flujo.status import OnChange


class Course(StrEnum):
    """What is to become of a run here."""

    GO_ON = "go_on"
    LEAVE = "leave"
    PARK = "park"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The course for one run, and why; `registered` is the pipeline that is here in place of the run's own."""

    course: Course
    why: str = ""
    registered: RegisteredPipeline | None = None

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
    why = f"{_name(head)} {_differs(head, there)}"
    if policy_of(registry, head) is OnChange.PIN:
        return Verdict(Course.LEAVE, f"{why} The run is pinned: it waits for a process that has its version.", there)
    return Verdict(
        Course.PARK,
        f"{why} The run is parked: register {head.pipeline} {head.version} as it was, then un-park the run.",
        there,
    )


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


def parking(verdict: Verdict, head: RunHead, now: datetime) -> Transition | None:
    """What the verdict has written about a run, if anything."""
    if verdict.course is not Course.PARK:
        return None
    there = verdict.registered
    return transitions.park(
        head,
        verdict.why,
        registered="" if there is None else there.fingerprint,
        now=now,
        error_type=PipelineChanged.__name__,
    )


async def follow(verdict: Verdict, head: RunHead, backend: StateBackend, now: datetime) -> bool:
    """Do with the run what the verdict says; whether anything was written."""
    transition = parking(verdict, head, now)
    return transition is not None and (await backend.transact(head.run_id, transition)).writes
