"""Acting on runs from the command line goes through the same rules as a program, and leaves who did it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from flujo import PipelineRegistry, Step, step, transitions
from flujo.clock import SystemClock
from flujo.lease import this_process
from flujo.runner import Flujo
from flujo.state.base import StateBackend
from flujo.transitions import ClaimTerms

from tests.engine.command_line import KINDS, OLD, Place, registry
from tests.engine.making import hold_elsewhere


@step
async def fetch(value: str) -> str:
    raise ValueError("not today")


@step
async def keep(value: int) -> int:
    return value


signals = PipelineRegistry()
signals.register(Step.wait_for_signal("paid", int) >> keep, name="signals", version="1.0.0")
failing = PipelineRegistry()
failing.register(fetch, name="failing", version="1.0.0")
OWN = ["--registry", f"{__name__}:signals"]
FAILING = ["--registry", f"{__name__}:failing"]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    place = Place(request.param, tmp_path, capsys)
    place.start("a")
    return place


def start(place: Place, registry: PipelineRegistry) -> None:
    name = registry.names()[0]
    place.do(lambda backend: start_async(backend, registry, name))


async def start_async(backend: StateBackend, registry: PipelineRegistry, name: str) -> None:
    await Flujo(registry=registry, pipeline_name=name, state_backend=backend).run_async("x", run_id=name)


def test_resume_records_the_answer_and_leaves_the_run_to_a_worker(place: Place) -> None:
    told = place.json("resume", "a", "--text", "yes", *registry("same"), "--actor", "ana")
    assert told["run"]["status"] == "queued"
    event = place.json("history", "a")["events"][-1]
    assert (event["kind"], event["actor"], event["data"]["channel"]) == ("decision.recorded", "ana", "cli")


def test_resume_here_goes_on_to_the_end(place: Place) -> None:
    code, out, err = place.call("resume", "a", "--answer", '"yes"', "--here", *registry("same"))
    assert (code, out, err) == (0, "Run a is completed.\n", "")


def test_resume_with_a_rejection_ends_the_run(place: Place) -> None:
    told = place.json("resume", "a", "--reject", "--reason", "too dear", *registry("same"))
    assert (told["run"]["status"], told["run"]["outcome"]) == ("cancelled", "rejected")


def test_resume_under_other_code_records_nothing(place: Place) -> None:
    code, out, err = place.call("resume", "a", "--text", "yes", *registry("changed"))
    assert (code, out) == (3, "")
    assert "fingerprint" in err
    assert place.json("show", "a")["run"]["status"] == "paused"


def test_resume_of_what_asks_nothing_is_refused(place: Place) -> None:
    place.call("cancel", "a")
    assert place.call("resume", "a", "--text", "yes", *registry("same"))[0] == 3
    assert place.call("resume", "a", "--text", "yes", "--step", "ship", *registry("same"))[0] == 3


def test_cancel_ends_a_waiting_run_once(place: Place) -> None:
    assert place.json("cancel", "a", "--actor", "ana", "--reason", "late")["run"]["status"] == "cancelled"
    code, _, err = place.call("cancel", "a")
    assert (code, err) == (3, "Run a is cancelled already.\n")
    assert place.call("cancel", "nobody")[0] == 2


def test_cancel_asks_a_leased_run_to_stop(place: Place) -> None:
    place.start("b")

    async def lease(backend: StateBackend) -> None:
        terms = ClaimTerms(this_process(), timedelta(hours=1), OLD.fingerprint, lambda head: None)
        await backend.transact("b", transitions.claim(terms, now=SystemClock().now()))

    place.call("resume", "b", "--text", "yes", *registry("same"))
    place.do(lease)
    place.do(lambda backend: hold_elsewhere(backend, "b"))
    told = place.json("cancel", "b")
    assert (told["run"]["status"], told["run"]["cancel_requested"]) == ("running", True)


def test_retry_queues_a_failed_run_or_tries_here(place: Place) -> None:
    start(place, failing)
    assert place.json("retry", "failing", "--reason", "again")["run"]["status"] == "queued"
    assert place.call("retry", "a")[0] == 3


def test_retry_here_works_on_the_run_in_this_process(place: Place) -> None:
    start(place, failing)
    told = place.json("retry", "failing", "--here", *FAILING)
    assert (told["run"]["status"], told["run"]["round"]) == ("failed", 1)


def test_signal_counts_once_by_its_id(place: Place) -> None:
    start(place, signals)
    arguments = ["signals", "paid", "--data", "5", "--message-id", "m1", *OWN]
    assert place.json("signal", *arguments)["run"]["status"] == "queued"
    assert "known already" in place.call("signal", *arguments)[1]
    code, _, err = place.call("signal", "signals", "paid", "--data", '"five"', *OWN)
    assert (code, "does not fit" in err) == (3, True)
    assert place.call("signal", "signals", "lost", *OWN)[0] == 3


def test_signal_here_goes_on_to_the_end(place: Place) -> None:
    start(place, signals)
    assert place.json("signal", "signals", "paid", "--data", "5", "--here", *OWN)["run"]["status"] == "completed"
