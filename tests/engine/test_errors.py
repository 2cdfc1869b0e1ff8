"""The errors: one class, one code, one sentence each; and the blocking calls that refuse to stop a loop."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import flujo
import pytest
from flujo import Flujo
from flujo.errors import FlujoError, RunningLoop
from flujo.state.backends.memory import InMemoryBackend

from tests.engine.making import Ledger, order_pipeline, runner_of


def _every(kind: type[FlujoError]) -> Iterator[type[FlujoError]]:
    yield kind
    for derived in kind.__subclasses__():
        yield from _every(derived)


def _errors() -> list[type[FlujoError]]:
    for module in pkgutil.walk_packages(flujo.__path__, "flujo."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return sorted(
        {kind for kind in _every(FlujoError) if kind.__module__.startswith("flujo.")}, key=lambda k: k.__name__
    )


ERRORS = _errors()


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_error_has_a_code_and_a_sentence_of_its_own(kind: type[FlujoError]) -> None:
    assert "code" in vars(kind), f"{kind.__name__} would answer with the code of {kind.__base__}"
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert kind.__doc__, "its first paragraph is the default message"
    message = str(kind())
    assert message == kind().message
    assert re.fullmatch(r"[A-Z][^\n]+\.", message), "a whole sentence in one line"
    assert kind(message="Something else.", field="x").details == {"field": "x"}


def test_codes_and_sentences_are_unique() -> None:
    assert len(ERRORS) > 35
    for facts in (Counter(kind.code for kind in ERRORS), Counter(str(kind()) for kind in ERRORS)):
        assert [fact for fact, times in facts.items() if times > 1] == []


BLOCKING: dict[str, Callable[[Flujo], Any]] = {
    "run_async": lambda runner: runner.run("a", run_id="r"),
    "resume_async": lambda runner: runner.resume("r", "yes"),
    "signal_async": lambda runner: runner.signal("r", "paid"),
    "retry_async": lambda runner: runner.retry("r"),
    "rerun_async": lambda runner: runner.rerun("r"),
    "fork_async": lambda runner: runner.fork("r", from_step="price"),
    "unpark_async": lambda runner: runner.unpark("r"),
    "cancel_async": lambda runner: runner.cancel("r"),
}


@pytest.mark.parametrize("twin", BLOCKING)
async def test_blocking_call_inside_a_loop_names_its_twin_and_does_nothing(twin: str) -> None:
    backend, ledger = InMemoryBackend(), Ledger()
    runner = runner_of(order_pipeline(ledger), backend)
    with pytest.raises(RunningLoop, match=re.escape(f"Await {twin}(...) instead")):
        BLOCKING[twin](runner)
    assert (ledger, await backend.run_ids()) == ({}, [])


def test_every_blocking_call_is_tried() -> None:
    twins = {name for name in vars(Flujo) if name.endswith("_async") and hasattr(Flujo, name.removesuffix("_async"))}
    assert twins == set(BLOCKING)
