"""What is wrong with a pipeline's parts is said when they are made, in words of their author."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from flujo import Pipeline, RetryPolicy, Step, step
from flujo.errors import InvalidInput, InvalidRunId, PipelineDefinitionError
from flujo.state.backends.memory import InMemoryBackend

from tests.engine.making import runner_of


def one(value: int) -> int:
    return value


class Doubler:
    def __call__(self, value: int) -> int:
        return value


def yields(value: int) -> Iterator[int]:
    yield value


async def yields_async(value: int) -> AsyncIterator[int]:
    yield value


ANY: Any = step
STEP: Any = Step
POLICY: Any = RetryPolicy
NOT_TYPED: dict[str, tuple[Any, str]] = {
    "timeout": (lambda: ANY(timeout=5), "timeout is a timedelta, such as .*, not 5"),
    "backoff": (lambda: ANY(backoff=5), "backoff is a timedelta"),
    "longest": (lambda: ANY(retry=POLICY(longest=60)), "longest is a timedelta"),
    "retries": (lambda: ANY(retries=1.5), "retries is a whole number"),
    "retry": (lambda: ANY(retry=5)(one), "retry is a RetryPolicy or a list of them"),
    "level": (lambda: ANY(capture_log="INFO"), r"capture_log is a level, such as logging\.INFO"),
    "partial": (lambda: ANY(functools.partial(one, 5)), "is no function"),
    "object": (lambda: ANY(Doubler()), "is no function"),
    "generator": (lambda: ANY(yields), "'yields' yields"),
    "asynchronous generator": (lambda: ANY(yields_async), "'yields_async' yields"),
    "no name": (lambda: ANY(name="")(one), "1 to 200 printable characters"),
    "sleep": (lambda: STEP.sleep("a", 5), "the duration is a timedelta"),
    "signal": (lambda: STEP.wait_for_signal("a", timeout=5), "the timeout is a timedelta"),
    "deadline": (lambda: gate(deadline=5), "the deadline is a timedelta"),
    "reminder": (lambda: gate(deadline=timedelta(days=9), reminders=[5]), "each reminder.* is a timedelta"),
    "bound": (lambda: STEP.map_over("a", step(one), max_parallel="5"), "a whole number of at least 1"),
}


def gate(**options: Any) -> Any:
    return Step.human_in_the_loop("ask", **options)


@pytest.mark.parametrize("name", NOT_TYPED)
def test_option_of_another_type_is_refused_by_name(name: str) -> None:
    make, said = NOT_TYPED[name]
    with pytest.raises(PipelineDefinitionError, match=said):
        make()


@pytest.mark.parametrize("levels", [60, 1_000])
def test_nesting_whose_paths_no_store_could_hold_is_refused(levels: int) -> None:
    built = Pipeline([step(one)])
    for _ in range(levels):
        built = Pipeline([built.as_step("level")])
    with pytest.raises(PipelineDefinitionError, match="nested so deeply"):
        runner_of(built, InMemoryBackend())
    if levels == 1_000:
        with pytest.raises(PipelineDefinitionError, match="nested too deeply"):
            built >> step(one)


def test_lease_is_a_length_of_time() -> None:
    for wrong, said in ((5, "lease is a timedelta"), (timedelta(0), "longer than zero")):
        given: Any = wrong
        with pytest.raises(PipelineDefinitionError, match=said):
            runner_of(step(one), InMemoryBackend(), lease=given)


async def test_run_id_that_is_no_text_is_refused_as_such() -> None:
    wrong: Any = 7
    with pytest.raises(InvalidInput, match="run_id: Input should be a valid string"):
        await runner_of(step(one), InMemoryBackend()).run_async(1, run_id=wrong)
    with pytest.raises(InvalidRunId, match="7 is no run id"):
        await runner_of(step(one), InMemoryBackend()).retry_async(wrong)
