"""Reruns and forks from the command line are those that a program makes, and the log is read as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest
from flujo import PipelineContext, PipelineRegistry, StepContext, step
from flujo.runner import Flujo
from flujo.state.base import StateBackend

from tests.engine.command_line import KINDS, Place, registry


class Offer(PipelineContext):
    """What an offer carries."""

    discount: int = 0


@step
async def price(article: str, context: Offer, ctx: StepContext) -> int:
    ctx.log.info("priced %s", article, amount=100)
    context.discount = 30
    return 100


@step
async def check(total: int, context: Offer, ctx: StepContext) -> int:
    ctx.log.warning("discount %d", context.discount)
    if context.discount > 20:
        raise ValueError("too much")
    return total - context.discount


offers = PipelineRegistry()
offers.register(price >> check, name="offers", version="1.0.0")
OFFERS = ["--registry", f"{__name__}:offers"]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    """A store with the failed run `o`."""
    place = Place(request.param, tmp_path, capsys)

    async def offering(backend: StateBackend) -> None:
        await Flujo(registry=offers, pipeline_name="offers", state_backend=backend).run_async("pen", run_id="o")

    place.do(offering)
    return place


def test_rerun_queues_a_new_run_on_the_same_input(place: Place) -> None:
    told = place.json("rerun", "o", "--new-run-id", "o2", "--actor", "ana", "--reason", "again", *OFFERS)["run"]
    assert (told["run_id"], told["status"], told["derived_from"]) == ("o2", "queued", "o")
    assert place.json("show", "o2", "--values")["input"] == "pen"
    event = place.json("history", "o2")["events"][0]
    assert (event["actor"], event["data"]["channel"], event["data"]["reason"]) == ("ana", "cli", "again")


def test_rerun_twice_with_one_id_makes_one_run(place: Place) -> None:
    arguments = ["o", "--new-run-id", "o2", *OFFERS]
    assert place.json("rerun", *arguments) == place.json("rerun", *arguments)
    assert len(place.json("list")["runs"]) == 2


def test_rerun_here_works_on_the_new_run_in_this_process(place: Place) -> None:
    told = place.json("rerun", "o", "--here", *OFFERS)["run"]
    assert (told["status"], told["derived_from"], told["run_id"] != "o") == ("failed", "o", True)


def test_rerun_of_a_version_that_is_not_there_makes_nothing(place: Place) -> None:
    code, out, err = place.call("rerun", "o", "--version", "9.0.0", *OFFERS)
    assert (code, out, "9.0.0" in err) == (2, "", True)
    assert place.call("rerun", "nobody", *OFFERS)[0] == 2
    assert len(place.json("list")["runs"]) == 1


def test_fork_begins_with_a_step_under_an_edited_context(place: Place) -> None:
    before = place.json("show", "o", "--values")
    code, out, _ = place.call(
        "fork", "o", "--from-step", "check", "--set", "discount=10", "--new-run-id", "f", "--actor", "ana", *OFFERS
    )
    assert (code, out) == (0, "Run f is queued: a fork of o at check.\n")
    told = place.json("show", "f", "--values")
    assert (told["context"]["discount"], [row["path"] for row in told["steps"]]) == (10, ["price"])
    forked = next(event for event in place.json("history", "f")["events"] if event["kind"] == "run.forked")
    assert forked["data"]["edits"] == [{"pointer": "/discount", "before": 30, "after": 10}]
    assert (forked["actor"], forked["data"]["channel"]) == ("ana", "cli")
    assert place.json("show", "o", "--values") == before


def test_fork_here_goes_on_to_the_end(place: Place) -> None:
    arguments = ["--from-step", "check", "--set", "discount=10", "--new-run-id", "f", "--here", *OFFERS]
    assert place.call("fork", "o", *arguments)[:2] == (0, "Run f is completed.\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--from-step", "ship"], 3, "no top-level step"),
        (["--from-step", "check", "--set", 'discount="much"'], 3, "does not fit"),
        (["--from-step", "check", "--set", "nothing=1"], 3, "nothing"),
    ],
)
def test_fork_that_cannot_be_made_makes_nothing(place: Place, arguments: list[str], code: int, said: str) -> None:
    got, out, err = place.call("fork", "o", *arguments, *OFFERS)
    assert (got, out, said in err) == (code, "", True), err
    assert len(place.json("list")["runs"]) == 1


def test_fork_under_other_code_is_refused(place: Place) -> None:
    place.start("a")
    assert place.call("fork", "a", "--from-step", "price", *registry("changed"))[0] == 3


@pytest.mark.parametrize("setting", ["discount", "=1", "discount=x"])
def test_fork_takes_fields_as_json_only(place: Place, setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        place.call("fork", "o", "--from-step", "check", "--set", setting, *OFFERS)
    assert refused.value.code == 2


def test_log_shows_the_lines_of_all_steps_or_of_one(place: Place) -> None:
    told = place.json("log", "o")
    assert [(line["path"], line["level"], line["message"]) for line in told["lines"]] == [
        ("price", "INFO", "priced pen"),
        ("check", "WARNING", "discount 30"),
    ]
    assert told["lines"][0]["fields"] == {"amount": 100}
    assert [line["path"] for line in place.json("log", "o", "--step", "check")["lines"]] == ["check"]
    assert place.json("log", "o", "--attempt", "2")["lines"] == []
    out = place.call("log", "o")[1]
    assert "price  1        priced pen amount=100" in out


def test_log_of_a_run_that_said_nothing_is_empty_and_of_no_run_an_error(place: Place) -> None:
    place.start("a")
    assert place.json("log", "a") == {"run_id": "a", "lines": [], "dropped": 0}
    assert place.call("log", "nobody")[0] == 2
    assert place.json("log", "o", "--step", "nowhere")["lines"] == []
