"""What a deploy does to runs, on the command line: shown before, and set right after."""

from __future__ import annotations

from pathlib import Path

import pytest
from flujo import Flujo
from flujo.errors import PipelineChanged
from flujo.state.base import StateBackend

from tests.engine.command_line import KINDS, Place, changed, migrating, registry
from tests.engine.making import kinds_of


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    place = Place(request.param, tmp_path, capsys)
    place.start("a")
    return place


def park(place: Place) -> None:
    async def parking(backend: StateBackend) -> None:
        with pytest.raises(PipelineChanged):
            await Flujo(registry=changed, pipeline_name="demo", state_backend=backend).resume_async("a", "yes")

    place.do(parking)


def test_unpark_queues_a_parked_run_once_its_code_is_named(place: Place) -> None:
    park(place)
    code, out, err = place.call("unpark", "a", *registry("changed"))
    assert (code, out) == (3, "")
    assert "fingerprint" in err
    assert err.count("\n") == 1
    shown = place.json("unpark", "a", *registry("same"), "--actor", "ana", "--reason", "back")
    assert (shown["run"]["status"], shown["run"]["outcome"]) == ("queued", None)
    event = place.json("history", "a")["events"][-1]
    assert (event["kind"], event["actor"], event["data"]) == (
        "run.unparked", "ana", {"reason": "back", "channel": "cli"}
    )  # fmt: skip
    assert place.call("unpark", "a", *registry("same"))[0] == 3


def test_check_says_what_would_become_of_each_run(place: Place) -> None:
    (finding,) = place.json("check", *registry("changed"), code=1)["findings"]
    assert (finding["course"], finding["migration"]) == ("park", None)
    (finding,) = place.json("check", *registry("migrating"))["findings"]
    assert finding["course"] == "migrate"
    assert (finding["migration"]["next_step"], finding["migration"]["never_run"]) == ("approve", ["tell"])
    assert "it would be migrated" in place.call("check", *registry("migrating"))[1]


def test_migrate_shows_before_it_writes(place: Place) -> None:
    before = place.do(lambda backend: kinds_of(backend, "a"))
    options = ["a", "--version", "2.0.0", *registry("migrating")]
    shown = place.json("migrate", *options, "--dry-run")
    assert (shown["dry_run"], shown["next_step"], shown["to"]["version"]) == (True, "approve", "2.0.0")
    assert "never run       tell" in place.call("migrate", *options, "--dry-run")[1]
    assert place.do(lambda backend: kinds_of(backend, "a")) == before

    code, out, err = place.call("migrate", *options)
    assert (code, out, err) == (0, "Run a is now queued under 2.0.0.\n", "")
    assert place.do(lambda backend: kinds_of(backend, "a")) == [*before, "run.migrated"]

    async def go_on(backend: StateBackend) -> object:
        runner = Flujo(registry=migrating, pipeline_name="demo", state_backend=backend)
        await runner.run_async("lamp", run_id="a")
        return (await runner.resume_async("a", "yes")).output

    assert place.do(go_on) == "shipped: yes"


def test_migrate_without_a_registered_migration_is_refused(place: Place) -> None:
    code, _, err = place.call("migrate", "a", "--version", "3.0.0", *registry("migrating"))
    assert (code, err) == (2, "No migration of demo from 1.0.0 to 3.0.0 is registered.\n")
