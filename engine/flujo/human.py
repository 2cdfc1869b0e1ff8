"""The step that asks a person: its question, the form of its answer and its ways out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Union

from pydantic import ValidationError

from flujo import canonical
from flujo.definition import no_coroutine
from flujo.errors import InvalidAnswer, PipelineDefinitionError, UnstorableValue
from flujo.pipeline import Node, Pipeline
from flujo.stored_type import external
from flujo.timetable import Approve, Timetable


@dataclass(frozen=True, slots=True)
class Reject:
    """The answer that says no, with its reason: `runner.resume(paused, Reject("too expensive"))`."""

    reason: str = ""


class HumanStep(Node):
    """A human task in a pipeline, made by `Step.human_in_the_loop`."""

    kind = "human_task"

    def __init__(
        self,
        name: str,
        *,
        message_for_user: str | Callable[[Any], str],
        input_schema: Any,
        candidates: Sequence[str] | None,
        on_reject: Pipeline | None,
        when: Callable[[Any], bool] | None,
        timetable: Timetable,
        quorum: int,
        four_eyes: bool | None,
    ) -> None:
        super().__init__(name, description=message_for_user if isinstance(message_for_user, str) else "")
        if isinstance(candidates, str) or (candidates is not None and not candidates):
            raise PipelineDefinitionError(
                f"Human task {name!r}: candidates is a list of user names and group:names. "
                "Leave it out to let anyone decide who may decide on the pipeline."
            )
        no_coroutine(when, f"Human task {name!r}: when")
        no_coroutine(message_for_user, f"Human task {name!r}: message_for_user")
        self.message = message_for_user
        self.answer_type = input_schema
        self.candidates = None if candidates is None else list(candidates)
        self.on_reject = on_reject
        self.when = when
        self.kind_of_answer = {None: "text", bool: "bool"}.get(input_schema, "form")
        self.answer_schema: dict[str, Any] | None = (
            external(input_schema).json_schema(mode="validation") if self.kind_of_answer == "form" else None
        )
        timetable.check(name, self.candidates)
        _check_quorum(name, quorum, [*(candidates or []), *timetable.escalate_to])
        self.quorum = quorum
        self.four_eyes = four_eyes
        self.timetable = timetable
        self.default_answer = self._default_answer()
        self._check_routes()

    def _default_answer(self) -> str:
        """The canonical JSON of the answer that counts at the deadline; "" without one."""
        default = self.timetable.on_deadline
        if not isinstance(default, Approve):
            return ""
        try:
            answer = self.validate_answer(default.answer)
        except InvalidAnswer as error:
            raise PipelineDefinitionError(f"Human task {self.name!r}: on_deadline: {error.message}") from error
        if self.kind_of_answer == "bool" and answer == "false":
            raise PipelineDefinitionError(f"Human task {self.name!r}: a no at the deadline is on_deadline='reject'.")
        return answer

    def _check_routes(self) -> None:
        names = [node.name for route in self.routes for node in route.nodes]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise PipelineDefinitionError(
                f"Human task {self.name!r}: both ways out have a step {twice!r}. Give one another name, or let "
                "on_deadline='reject' take the steps of on_reject."
            )

    @property
    def routes(self) -> list[Pipeline]:
        """The steps that may run instead of all that follows: those for a rejection, those for a missed deadline."""
        return [route for route in (self.on_reject, self.timetable.steps) if route is not None]

    def reach(self) -> int:
        return max((1 + route.longest_path() for route in self.routes), default=0)

    def inner(self, path: str) -> Node | None:
        found = (route.find(path) for route in self.routes)
        return next((node for node in found if node is not None), None)

    @property
    def output(self) -> Any:
        """The annotation of what the step behind the gate receives."""
        return Any if self.when is not None or self.answer_type is None else self.answer_type

    @property
    def result(self) -> Any:
        """The annotation of what the gate itself gives: the answer, or the output of the steps that ran instead."""
        outputs = (self.output, *(route.output for route in self.routes))
        return Union[outputs]  # noqa: UP007  # of values

    def shape(self) -> dict[str, Any]:
        shape: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.on_reject is not None:
            shape["on_reject"] = self.on_reject.shape()
        if self.timetable.steps is not None:
            shape["on_deadline"] = self.timetable.steps.shape()
        return shape

    def asks(self, value: Any) -> bool:
        """Whether this input needs a person."""
        return self.when is None or bool(self.when(value))

    def message_about(self, value: Any) -> str:
        """The question, for this input."""
        return self.message if isinstance(self.message, str) else str(self.message(value))

    def validate_answer(self, value: Any) -> str:
        """The canonical JSON of a valid answer. Raises `InvalidAnswer` with pydantic's `errors` in its details."""
        annotation = Any if self.answer_type is None else self.answer_type
        try:
            return canonical.take(value, annotation, where="answer")
        except ValidationError as error:
            errors = json.loads(error.json(include_url=False, include_input=False, include_context=False))
            said = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'answer'}: {item['msg']}" for item in errors)
            raise InvalidAnswer(f"The answer to {self.name!r} does not fit: {said}", errors=errors) from error
        except UnstorableValue as error:
            errors = [{"loc": [], "msg": error.message, "type": error.code}]
            raise InvalidAnswer(error.message, errors=errors) from error


def _check_quorum(name: str, quorum: int, named: Sequence[str]) -> None:
    if quorum < 1:
        raise PipelineDefinitionError(f"Human task {name!r}: a quorum is 1 or more, not {quorum}.")
    people = set(named)
    if named and len(people) < quorum and not any(one.startswith("group:") for one in people):
        raise PipelineDefinitionError(f"Human task {name!r}: {len(people)} people can never be {quorum}.")
