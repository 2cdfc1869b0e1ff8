"""Every error Flujo raises: one class, one code, one sentence that says what to do."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any, ClassVar


class FlujoError(Exception):
    """Flujo could not do what was asked."""

    code: ClassVar[str] = "flujo_error"

    def __init__(self, message: str | None = None, **details: Any) -> None:
        self.message = message or cleandoc(type(self).__doc__ or "").split("\n\n")[0].replace("\n", " ")
        self.details = details
        super().__init__(self.message)


# Pipelines and their registry


class PipelineNotFound(FlujoError):
    """No pipeline of this name and version is registered. Register it, or name a registered one."""

    code = "pipeline_not_found"


class PipelineConflict(FlujoError):
    """This name and version is registered with a different shape. Give the changed pipeline a new version."""

    code = "pipeline_conflict"


class PipelineDefinitionError(FlujoError):
    """The pipeline cannot be built as written. Correct the step that the message names."""

    code = "pipeline_definition"


class PipelineChanged(FlujoError):
    """The run was started by a pipeline of another shape. Register the version that started it."""

    code = "pipeline_changed"


class MigrationRefused(FlujoError):
    """The run cannot be moved to the other version without repeating, skipping or reordering steps. See why."""

    code = "migration_refused"


# Values


class UnstorableValue(FlujoError):
    """A value cannot be stored as JSON. Return a JSON value, or annotate the step with the value's type."""

    code = "unstorable_value"


class InvalidInput(FlujoError):
    """The input or context does not fit the pipeline. Correct the fields that the message names."""

    code = "invalid_input"


class ContextConflict(FlujoError):
    """Two branches changed the same context field. Let one of them change it, or declare a reducer."""

    code = "context_conflict"


# Runs and their lifecycle


class RunNotFound(FlujoError):
    """No run with this id is stored. Check the id and the backend."""

    code = "run_not_found"


class RunDeleted(FlujoError):
    """The run was deleted; only its audit trail is left."""

    code = "run_deleted"


class InvalidRunId(FlujoError):
    """A run id is 1 to 128 letters, digits, dots, dashes or underscores, and starts with a letter or digit."""

    code = "invalid_run_id"


class RunConflict(FlujoError):
    """A run with this id exists under another pipeline or input. Use another run id."""

    code = "run_conflict"


class IdempotencyConflict(RunConflict):
    """A run was started with this idempotency key on another input. Use another key for another run."""

    code = "idempotency_conflict"


class IllegalTransition(FlujoError):
    """The run's status does not allow this."""

    code = "illegal_transition"


class RunNotPaused(IllegalTransition):
    """The run is not paused, so there is nothing to answer."""

    code = "run_not_paused"


class RunWaits(IllegalTransition):
    """The run waits for a person, a signal or a timer. Answer it, send the signal, or wait."""

    code = "run_waits"


class RunFinished(IllegalTransition):
    """The run is already finished. Start a new run instead."""

    code = "run_finished"


class RunFailed(IllegalTransition):
    """The run has failed. Call retry(run_id) to try its failed step again."""

    code = "run_failed"


class RunCancelled(IllegalTransition):
    """The run was cancelled, which is final. Start a new run instead."""

    code = "run_cancelled"


class RunActive(IllegalTransition):
    """The run is active and cannot be deleted. Cancel it first."""

    code = "run_active"


class RunIsLeased(FlujoError):
    """Another worker holds the run. Wait for it, or for its lease to expire."""

    code = "run_is_leased"


class AtMaxConcurrency(FlujoError):
    """As many runs of this pipeline or key are running as may. The run stays queued until one of them ends."""

    code = "at_max_concurrency"


class Fenced(FlujoError):
    """This worker no longer holds the run: its lease expired and was taken over. Nothing was written."""

    code = "fenced"


class RunningLoop(FlujoError):
    """A blocking call inside a running event loop would stop the loop. Await its _async twin instead."""

    code = "running_loop"


# Human tasks


class InvalidAnswer(FlujoError):
    """The answer does not fit the form. The run is still paused: correct the fields and answer again."""

    code = "invalid_answer"


class AlreadyDecided(FlujoError):
    """The human task was already decided; the recorded decision stands."""

    code = "already_decided"


class StaleDecision(FlujoError):
    """The request changed since it was shown. Read it again, then decide."""

    code = "stale_decision"


class HumanTaskClosed(FlujoError):
    """The human task is closed: its run was cancelled, or its time ran out."""

    code = "human_task_closed"


class HumanTaskExpired(HumanTaskClosed):
    """The time to answer has run out; what the pipeline declares for that case was done."""

    code = "human_task_expired"


class DeadlinePassed(FlujoError):
    """Nobody answered the human task in time. Retry the run to ask again."""

    code = "deadline_passed"


class HumanTaskNotFound(FlujoError):
    """The run has no such human task."""

    code = "human_task_not_found"


class AmbiguousAnswer(FlujoError):
    """The run waits on several human tasks. Say which one by its step path."""

    code = "ambiguous_answer"


class NotAllowed(FlujoError):
    """You may not do this. Ask an administrator for the permission the message names."""

    code = "not_allowed"


# Storage


class BackendError(FlujoError):
    """The store did not accept the write. Nothing was saved; the run stopped at its last checkpoint."""

    code = "backend_error"


class BackendBusy(BackendError):
    """The store is locked by another process and stayed so. Nothing was saved: try again."""

    code = "backend_busy"


class BackendCannot(BackendError):
    """This backend has no such capability. Use one of the built-in backends."""

    code = "backend_cannot"


class OutcomeUnknown(BackendError):
    """The store did not confirm the write. Read the run before acting: repeating the same call is safe."""

    code = "outcome_unknown"


class StaleState(BackendError):
    """The store holds a newer state or another history of this run. Nothing was written: load it again."""

    code = "stale_state"


class CorruptState(BackendError):
    """The stored state cannot be read. The run was left as it is: restore it from a backup or delete it."""

    code = "corrupt_state"


class KeyMissing(BackendError):
    """A stored value is encrypted with a key that was not given. Nothing was changed: give that key, too."""

    code = "key_missing"


class AuditChainBroken(FlujoError):
    """The audit chain is broken: stored history was changed."""

    code = "audit_chain_broken"


# Steps


class StepInputError(FlujoError):
    """A step cannot take what the step before it gave. Correct one of the two annotations."""

    code = "step_input"


class StepNotFinished(FlujoError):
    """No finished step of this name: `output_of` reaches only steps that ran before."""

    code = "step_not_finished"


class StepTimeout(FlujoError):
    """The step did not finish within its timeout."""

    code = "step_timeout"


class StepRolledBack(FlujoError):
    """The step undid its own transaction. Catch a database error outside an `atomic()` that holds what failed."""

    code = "step_rolled_back"


class LoopBoundReached(FlujoError):
    """A loop came to its bound before its condition was true. Raise the bound, or correct the condition."""

    code = "loop_bound_reached"


class NoSuchBranch(FlujoError):
    """The choice names no branch, and there is no default. Correct the function that chooses."""

    code = "no_such_branch"


class SignalUnknown(FlujoError):
    """No step of the pipeline waits for a signal of this name. Correct the name."""

    code = "signal_unknown"


class SignalTimeout(FlujoError):
    """The signal did not come in time."""

    code = "signal_timeout"


class ChildFailed(FlujoError):
    """The child run has failed. Retry this run: it starts another child."""

    code = "child_failed"


class ChildCancelled(FlujoError):
    """The child run was cancelled. Retry this run: it starts another child."""

    code = "child_cancelled"


class ChildTooDeep(FlujoError):
    """The run is a child of so many others that it starts none itself. See whether the pipelines start one another."""

    code = "child_too_deep"


class StepLost(FlujoError):
    """The step's worker died or lost its lease too often. Find out why before retrying the run."""

    code = "step_lost"
