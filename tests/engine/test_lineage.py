"""A rerun does the same work anew, a fork goes on from an earlier checkpoint; neither changes the first run."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flujo import Flujo, Pipeline, PipelineContext, PipelineRegistry, Reject, Step, StepContext, canonical, step
from flujo.errors import IllegalTransition, InvalidInput, PipelineChanged, RunConflict, RunNotFound
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.testing import FakeClock, crash_points
from pydantic import BaseModel, SecretStr

from tests.engine.making import Ledger, document_of, head_of, kinds_of, runner_of
from tests.engine.stores import Store


class Offer(PipelineContext):
    """What the steps below carry."""

    discount: int = 0
    terms: dict[str, int] = {}
    notes: list[str] = []


def offer_pipeline(ledger: Ledger) -> Pipeline:
    """`read >> price >> check >> send`, each noting in the context that it ran."""

    def ran(name: str, context: Offer) -> None:
        ledger.add(name)
        context.notes.append(name)

    @step
    async def read(article: str, context: Offer) -> int:
        ran("read", context)
        context.terms["days"] = 30
        return len(article)

    @step
    async def price(number: int, context: Offer) -> int:
        ran("price", context)
        context.discount = 30
        return number * 100

    @step
    async def check(total: int, context: Offer) -> int:
        ran("check", context)
        if context.discount > 20:
            raise ValueError("too much")
        return total - context.discount

    @step
    async def send(total: int, context: Offer, ctx: StepContext) -> str:
        ran("send", context)
        return f"{total} of {ctx.output_of('price')} in {context.terms['days']} days"

    return read >> price >> check >> send


async def whole(backend: StateBackend, run_id: str) -> tuple[str, list[Any]]:
    """All rows and events of a run."""
    return (await document_of(backend, run_id)).digest(), list(await backend.events(run_id))


async def failed_offer(backend: StateBackend, ledger: Ledger) -> Flujo:
    """A run `r` that failed in `check`."""
    runner = runner_of(offer_pipeline(ledger), backend)
    failed = await runner.run_async("lamp", run_id="r", title="An offer", owner="olga", tags=["big"])
    assert failed.status is RunStatus.FAILED
    ledger.clear()
    return runner


async def test_fork_runs_the_rest_again_on_an_edited_context(backend: StateBackend, ledger: Ledger) -> None:
    runner = await failed_offer(backend, ledger)
    forked = await runner.fork_async(
        "r", from_step="check", context={"discount": 10, "terms": {"days": 14}}, new_run_id="f", actor="ana"
    )
    assert (forked.status, forked.output) == (RunStatus.COMPLETED, "390 of 400 in 14 days")
    assert ledger == {"check": 1, "send": 1}
    assert [done.path for done in forked.step_history] == ["read", "price", "check", "send"]
    context = forked.final_pipeline_context
    assert isinstance(context, Offer)
    assert (context.run_id, context.discount, context.notes) == ("f", 10, ["read", "price", "check", "send"])


async def test_fork_leaves_the_original_as_it_was_byte_for_byte(backend: StateBackend, ledger: Ledger) -> None:
    runner = await failed_offer(backend, ledger)
    before = await whole(backend, "r")
    await runner.fork_async("r", from_step="check", context={"discount": 10}, reason="agreed by phone")
    await runner.rerun_async("r")
    assert await whole(backend, "r") == before


async def test_fork_says_where_it_comes_from_and_what_was_edited(store: Store, ledger: Ledger) -> None:
    backend = store.backend
    runner = await failed_offer(backend, ledger)
    edits = {"discount": 10, "notes": ["x" * 600]}
    await runner.fork_async("r", from_step="check", context=edits, new_run_id="f", actor="ana", reason="agreed")
    head, original = await head_of(backend, "f"), await head_of(backend, "r")

    assert (head.derived_from, head.derived_at, head.title) == ("r", "check", "An offer")
    assert (head.owner, head.requester, head.tags) == ("olga", "ana", '["big"]')
    events = list(await backend.events("f"))
    assert [event.kind.value for event in events[:5]] == [
        "run.started", "run.forked", "step.taken_over", "step.taken_over", "run.claimed"
    ]  # fmt: skip
    said = json.loads(events[1].body)["data"]
    assert events[1].actor == "ana"
    assert (said["run"], said["seq"], said["chain"], said["reason"]) == ("r", original.seq, original.chain, "agreed")
    discount, notes = said["edits"]
    assert notes["after"].startswith("sha256:")
    if store.name == "sealed":  # an event holds no value of a store that encrypts them
        assert discount["before"] == f"sha256:{canonical.digest('30')}"
    else:
        assert discount == {"pointer": "/discount", "before": 30, "after": 10}
        assert notes["before"] == ["read", "price"]


async def test_fork_without_edits_resumes_from_an_earlier_step(backend: StateBackend, ledger: Ledger) -> None:
    runner = await failed_offer(backend, ledger)
    again = await runner.fork_async("r", from_step="price")
    assert (again.status, ledger) == (RunStatus.FAILED, {"price": 1, "check": 1})


async def test_fork_at_the_first_step_begins_with_an_edited_context(backend: StateBackend, ledger: Ledger) -> None:
    runner = await failed_offer(backend, ledger)
    again = await runner.fork_async("r", from_step="read", context={"notes": ["anew"]})
    context = again.final_pipeline_context
    assert isinstance(context, Offer)
    assert (context.notes, ledger) == (["anew", "read", "price"], {"read": 1, "price": 1, "check": 1})


async def test_fork_of_a_fork_has_the_context_as_it_was_at_its_own_step(backend: StateBackend, ledger: Ledger) -> None:
    runner = await failed_offer(backend, ledger)
    await runner.fork_async("r", from_step="check", context={"discount": 10}, new_run_id="f")
    second = await runner.fork_async("f", from_step="price", new_run_id="g")
    context = second.final_pipeline_context
    assert isinstance(context, Offer)
    assert (context.discount, context.notes) == (30, ["read", "price"])
    third = await runner.fork_async("f", from_step="check", new_run_id="h")
    assert third.output == "390 of 400 in 30 days"


@pytest.mark.parametrize(
    ("edits", "named"), [({"discount": "much"}, "discount"), ({"rebate": 1}, "rebate"), ({"run_id": "r"}, "run_id")]
)
async def test_fork_names_the_fields_that_the_context_refuses(
    backend: StateBackend, ledger: Ledger, edits: dict[str, Any], named: str
) -> None:
    runner = await failed_offer(backend, ledger)
    with pytest.raises(InvalidInput, match=named) as refused:
        await runner.fork_async("r", from_step="check", context=edits, new_run_id="f")
    assert [error["loc"] for error in refused.value.details["errors"]] == [(named,)]
    assert await backend.load("f") is None
    assert ledger == {}


async def test_fork_is_refused_where_the_run_has_not_been(backend: StateBackend, ledger: Ledger) -> None:
    runner = await failed_offer(backend, ledger)
    with pytest.raises(IllegalTransition, match="has not come to step 'send'"):
        await runner.fork_async("r", from_step="send")
    with pytest.raises(InvalidInput, match=r"no top-level step of demo .*: read, price"):
        await runner.fork_async("r", from_step="price/inner")
    with pytest.raises(RunNotFound):
        await runner.fork_async("absent", from_step="price")


async def test_fork_under_changed_code_is_refused(backend: StateBackend, ledger: Ledger) -> None:
    await failed_offer(backend, ledger)

    @step
    async def other(value: str) -> str:
        return value

    with pytest.raises(PipelineChanged, match="Rerun it instead"):
        await runner_of(other, backend).fork_async("r", from_step="other")


async def test_fork_takes_answers_over_but_passes_over_no_refusal(backend: StateBackend, ledger: Ledger) -> None:
    @step
    async def after(answer: object) -> str:
        ledger.add("after")
        return f"{answer}"

    @step
    async def tell(answer: object) -> str:
        return "told"

    ask = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int, on_reject=tell)
    runner = runner_of(ask >> after, backend)
    await runner.run_async(1, run_id="yes")
    await runner.resume_async("yes", 7, actor="boss")
    assert (await runner.fork_async("yes", from_step="after")).output == "7"
    assert (await runner.fork_async("yes", from_step="ask")).status is RunStatus.PAUSED

    await runner.run_async(1, run_id="no")
    await runner.resume_async("no", Reject("never"), actor="boss")
    ledger.clear()
    with pytest.raises(IllegalTransition):
        await runner.fork_async("no", from_step="after")
    assert (await runner.fork_async("no", from_step="ask")).status is RunStatus.PAUSED
    assert ledger == {}


async def test_fork_passes_over_no_deadline_that_counted_as_a_no(backend: StateBackend) -> None:
    clock = FakeClock()

    @step
    async def after(answer: object) -> str:
        return "after"

    @step
    async def too_late(answer: object) -> str:
        return "too late"

    day = timedelta(days=1)
    ask = Step.human_in_the_loop(
        "ask", message_for_user="?", input_schema=int, deadline=day, on_deadline="reject", on_reject=too_late
    )
    runner = runner_of(ask >> after, backend, clock=clock)
    await runner.run_async(1, run_id="r")
    clock.advance(2 * day.total_seconds())
    assert (await runner.run_async(1, run_id="r")).output == "too late"
    with pytest.raises(IllegalTransition, match="turned away at step 'ask'"):
        await runner.fork_async("r", from_step="after")


async def test_fork_takes_over_what_a_construct_made_as_a_whole(backend: StateBackend, ledger: Ledger) -> None:
    @step
    async def double(number: int) -> int:
        ledger.add("double")
        return number * 2

    @step
    async def total(numbers: list[int], ctx: StepContext) -> int:
        assert ctx.output_of("each") == numbers
        return sum(numbers)

    runner = runner_of(Step.map_over("each", double) >> total, backend)
    await runner.run_async([1, 2], run_id="r")
    ledger.clear()
    assert (await runner.fork_async("r", from_step="total")).output == 6
    assert ledger == {}


async def test_fork_with_the_same_id_twice_is_one_run(backend: StateBackend, ledger: Ledger) -> None:
    runner = await failed_offer(backend, ledger)
    for _ in range(2):
        await runner.fork_async("r", from_step="check", context={"discount": 10}, new_run_id="f")
    assert ledger == {"check": 1, "send": 1}
    with pytest.raises(RunConflict, match="comes from elsewhere"):
        await runner.rerun_async("r", new_run_id="f")


@pytest.mark.parametrize("step", ["read", "check"])
async def test_fork_with_the_same_id_and_other_edits_is_refused(
    backend: StateBackend, ledger: Ledger, step: str
) -> None:
    runner = await failed_offer(backend, ledger)
    await runner.fork_async("r", from_step=step, context={"discount": 10}, new_run_id="f")
    for edits in ({"discount": 11}, {}, {"discount": 10, "notes": ["x"]}):
        with pytest.raises(RunConflict, match="exists as a fork with another context"):
            await runner.fork_async("r", from_step=step, context=edits, new_run_id="f")


async def test_rerun_does_the_same_work_anew(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(offer_pipeline(ledger), backend)
    await runner.run_async("lamp", run_id="r", initial_context_data={"notes": ["given"]}, title="An offer")
    again = await runner.rerun_async("r", new_run_id="again", actor="ana", reason="tell me once more")

    assert ledger == {"read": 2, "price": 2, "check": 2}
    context = again.final_pipeline_context
    assert isinstance(context, Offer)
    assert context.notes == ["given", "read", "price"]
    head, first = await head_of(backend, "again"), (await backend.events("again"))
    assert (head.derived_from, head.derived_at, head.title, head.requester) == ("r", "", "An offer", "ana")
    said = json.loads(next(iter(first)).body)["data"]
    assert (said["rerun_of"], said["reason"]) == ("r", "tell me once more")
    assert "run.forked" not in await kinds_of(backend, "again")


async def test_rerun_takes_the_newest_version_or_the_one_that_is_named(backend: StateBackend) -> None:
    @step(name="work")
    async def old(value: int) -> str:
        return "old"

    @step(name="work")
    async def new(value: int, ctx: StepContext) -> str:
        return "new"

    @step(name="work")
    async def newest(value: list[int]) -> str:
        return "newest"

    registry = PipelineRegistry()
    for number, made in enumerate([old, new]):
        registry.register(made, name="demo", version=f"1.{number}.0")
    runner = Flujo(registry=registry, pipeline_name="demo", state_backend=backend)
    pinned = Flujo(registry=registry, pipeline_name="demo", pipeline_version="1.0.0", state_backend=backend)
    await pinned.run_async(1, run_id="r")
    assert (await runner.rerun_async("r")).output == "new"
    assert (await runner.rerun_async("r", version="1.0.0")).output == "old"
    registry.register(newest, name="demo", version="2.0.0")
    with pytest.raises(InvalidInput, match="does not fit demo"):
        await runner.rerun_async("r")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_crash_at_any_write_of_a_fork_leaves_none_or_all_of_it(kind: str, tmp_path: Any) -> None:
    numbers = iter(range(1000))
    make: Callable[[], StateBackend] = (
        InMemoryBackend if kind == "memory" else lambda: SQLiteBackend(tmp_path / f"{next(numbers)}.db")
    )

    async def scenario(backend: StateBackend) -> Any:
        runner = runner_of(offer_pipeline(Ledger()), backend)
        if await backend.load("r") is None or (await head_of(backend, "r")).status is not RunStatus.FAILED:
            await runner.run_async("lamp", run_id="r")
        forked = await runner.fork_async("r", from_step="check", context={"discount": 10}, new_run_id="f")
        taken = [row.path for row in (await document_of(backend, "f")).checkpoints() if row.fence == 0]
        return forked.output, taken, len((await document_of(backend, "r")).events())

    points = [point async for point in crash_points(make, scenario)]
    for point in points:
        assert point.result[:2] == point.expected[:2] == ("390 of 400 in 30 days", ["read", "price"]), str(point)
        await point.backend.close()
    assert any("run.forked" in point.kinds for point in points)


class Parcel(BaseModel):
    """A value with values in it that JSON does not know."""

    label: bytes
    weight: Decimal


class Typed(PipelineContext):
    """A field of each kind that is stored as something else; one has no default."""

    number: int
    parcel: Parcel | None = None
    day: date = date(2030, 1, 1)
    token: SecretStr = SecretStr("")
    places: set[str] = set()


async def test_values_keep_their_types_through_forks_and_reruns(backend: StateBackend) -> None:
    @step
    async def pack(parcel: Parcel, context: Typed) -> bytes:
        context.day, context.parcel = date(2031, 2, 3), parcel
        return parcel.label

    @step
    async def tell(label: bytes, context: Typed) -> str:
        assert context.parcel is not None
        assert context.parcel.label == label == b"\x00\xff"
        return f"{context.day} {context.token.get_secret_value()} {sorted(context.places)} {context.parcel.weight}"

    runner = runner_of(pack >> tell, backend)
    parcel = Parcel(label=b"\x00\xff", weight=Decimal("1.50"))
    await runner.run_async(
        parcel, run_id="r", initial_context_data={"number": 1, "token": SecretStr("sesame"), "places": {"b", "a"}}
    )
    whole = "sesame ['a', 'b'] 1.50"
    assert (await runner.rerun_async("r")).output == f"2031-02-03 {whole}"
    assert (await runner.fork_async("r", from_step="tell")).output == f"2031-02-03 {whole}"
    for given in (date(2032, 1, 1), "2032-01-01"):
        forked = await runner.fork_async("r", from_step="tell", context={"day": given})
        assert forked.output == f"2032-01-01 {whole}"
    with pytest.raises(InvalidInput, match="day"):
        await runner.fork_async("r", from_step="tell", context={"day": "tomorrow"})


async def test_a_secret_that_a_fork_changes_is_in_no_event(backend: StateBackend) -> None:
    @step
    async def tell(value: int, context: Typed) -> str:
        return context.token.get_secret_value()

    runner = runner_of(tell, backend)
    await runner.run_async(1, run_id="r", initial_context_data={"number": 1, "token": SecretStr("sesame")})
    forked = await runner.fork_async("r", from_step="tell", context={"token": SecretStr("open")}, new_run_id="f")
    assert forked.output == "open"
    told = [event.body for event in await backend.events("f")]
    assert not any("sesame" in body or '"open"' in body for body in told)
    assert any('"pointer":"/token"' in body and "hidden (marked secret)" in body for body in told)
