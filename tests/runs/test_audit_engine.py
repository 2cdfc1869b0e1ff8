"""What the engine writes verifies, through deletion and the reuse of a run's id."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flujo import Flujo, PipelineRegistry, Step, step
from flujo.status import RunStatus

from runs.models import Run, Tombstone
from runs.services.origin import Origin
from runs.services.purge import purge
from runs.services.verify import verify_runs
from runs.state_backend import DjangoBackend, close_store_threads
from tests.runs import factories

pytestmark = pytest.mark.django_db(transaction=True)


@step
async def to_upper(text: str) -> str:
    return text.upper()


@pytest.fixture
def runner() -> Iterator[Flujo]:
    registry = PipelineRegistry()
    pipeline = to_upper >> Step.human_in_the_loop("approve", message_for_user="Approve?")
    registry.register(pipeline, name="demo", version="1.0.0")
    yield Flujo(registry=registry, pipeline_name="demo", pipeline_version="1.0.0", state_backend=DjangoBackend())
    close_store_threads()


def test_history_of_a_run_verifies_at_every_stage_of_its_life(runner: Flujo) -> None:
    person = factories.user("otto", can=["view", "delete"])
    generations = [0]
    for _ in range(2):  # the second time with the id of the deleted run
        paused = runner.run("hello", run_id="example")
        assert verify_runs().problems == []
        kept = purge(actor=person, run_ids=["example"], reason="Too early.", origin=Origin("ui"))
        assert (kept.deleted, Run.objects.get().status) == ([], RunStatus.PAUSED)
        runner.resume(paused, "yes")
        assert verify_runs().problems == []
        gone = purge(actor=person, run_ids=["example"], reason="Old.", origin=Origin("ui"))
        assert gone.deleted == ["example"], gone.skipped
        assert verify_runs().problems == []
        generations.append(Tombstone.objects.get().generation)
    assert generations == sorted(set(generations))
