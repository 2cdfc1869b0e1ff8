"""Answers to human tasks: which question one is meant for, and what is recorded of it."""

from __future__ import annotations

import json
from typing import Any, Protocol

from flujo import canonical
from flujo.description import checked
from flujo.document import RunDocument
from flujo.errors import AmbiguousAnswer, HumanTaskNotFound, InvalidAnswer, RunFinished, RunNotPaused
from flujo.human import HumanStep, Reject
from flujo.json_schema import problems
from flujo.records import HumanTask
from flujo.result import PipelineResult
from flujo.status import DecisionOutcome, TaskStatus
from flujo.transitions import Answer


def question_of(paused: PipelineResult | str, document: RunDocument, step: str | None) -> tuple[str, int, str]:
    """The path, generation and digest of the question that an answer is meant for; `step` names one of several.

    Raises `AmbiguousAnswer`, and what says that nothing is asked.
    """
    if not isinstance(paused, str) and paused.pause is not None:
        chosen = next((p for p in paused.pauses if p.path == (step or p.path)), None)
        if chosen is None or (step is None and len(paused.pauses) > 1):
            raise _which_one([p.path for p in paused.pauses])
        return chosen.path, chosen.generation, chosen.digest
    open_tasks = [task for task in document.open_human_tasks() if step in (None, task.path)]
    if len(open_tasks) > 1:
        raise _which_one([task.path for task in open_tasks])
    task = open_tasks[0] if open_tasks else _last_asked(document, step)
    return task.path, task.generation, task.digest


def answer_to(
    gate: HumanStep,
    human_input: Any,
    *,
    path: str,
    generation: int,
    digest: str,
    actor: str,
    reason: str = "",
    channel: str = "program",
    key: str = "",
    shown: Shown | None = None,
) -> Answer:
    """A validated answer. Without a `key` of its own, the same answer to the same question counts as one.

    `shown` is the stored question. Where it asked for something else than the code does now, because there was a deploy
    since, the answer must fit both. Raises `InvalidAnswer`, and `InvalidInput` for a key that is no text of at most 100
    characters.
    """
    checked(key=key)
    data = "null" if isinstance(human_input, Reject) else _validated(gate, human_input, shown)
    rejected = isinstance(human_input, Reject) or (gate.kind_of_answer == "bool" and data == "false")
    data = "null" if rejected else data
    outcome = DecisionOutcome.REJECTED if rejected else DecisionOutcome.APPROVED
    if isinstance(human_input, Reject):
        reason = human_input.reason or reason
    key = key or canonical.digest(f"{generation}\n{outcome}\n{data}")
    return Answer(path, generation, digest, outcome, data, actor, reason, channel, key)


class Shown(Protocol):
    """What was asked, as it is stored: the `kind` of the answer, and the JSON Schema of a form, else ""."""

    @property
    def kind(self) -> str: ...
    @property
    def schema(self) -> str: ...


def _validated(gate: HumanStep, human_input: Any, shown: Shown | None) -> str:
    wanted = "" if gate.answer_schema is None else canonical.dump(gate.answer_schema)
    if shown is None or (gate.kind_of_answer == shown.kind and wanted == _canonical(shown.schema)):
        return gate.validate_answer(human_input)
    _check_shown(gate, human_input, shown)
    try:
        return gate.validate_answer(human_input)
    except InvalidAnswer as error:
        raise InvalidAnswer(
            f"The request was shown before its code changed. {error.message}", **error.details
        ) from error


def _canonical(schema: str) -> str:
    return canonical.dump(json.loads(schema)) if schema else ""


def _check_shown(gate: HumanStep, human_input: Any, shown: Shown) -> None:
    """Raise `InvalidAnswer` unless the answer fits what the person was asked for."""
    schema = json.loads(shown.schema) if shown.schema else {"type": "boolean"} if shown.kind == "bool" else {}
    found = problems(schema, json.loads(canonical.encode(human_input, where="answer")))
    if found:
        said = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'answer'}: {item['msg']}" for item in found)
        raise InvalidAnswer(f"The answer to {gate.name!r} does not fit the form that was shown: {said}", errors=found)


def _which_one(paths: list[str]) -> AmbiguousAnswer:
    return AmbiguousAnswer(f"The run waits on {', '.join(sorted(paths))}. Name one of them as the step.")


def _last_asked(document: RunDocument, step: str | None) -> HumanTask:
    """The newest question that was already answered, so that the same answer can be given again after a crash."""
    head = document.head
    assert head is not None  # `_load` returns no document without one
    asked = [task for task in document.human_tasks() if step in (None, task.path)]
    if step is not None and not asked:
        raise HumanTaskNotFound(f"Run {head.run_id} asks nothing at {step!r}.")
    newest = max(asked, key=lambda task: task.generation, default=None)
    if newest is not None and newest.status is TaskStatus.EXPIRED:
        return newest
    if not head.active:
        raise RunFinished(f"Run {head.run_id} is {head.status.value}: there is nothing to answer.")
    if newest is None:
        raise RunNotPaused(f"Run {head.run_id} is {head.status.value} and asks nothing.")
    return newest
