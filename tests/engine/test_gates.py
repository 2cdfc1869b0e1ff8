"""What a human task promises: one decision, durable before anything behind the gate, whatever happens in between."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

import pytest
from flujo import Flujo, Pipeline, Reject, Step, StepContext, step
from flujo.errors import (
    AlreadyDecided,
    HumanTaskNotFound,
    InvalidAnswer,
    PipelineDefinitionError,
    RunFinished,
    RunNotPaused,
    StaleDecision,
)
from flujo.state.base import StateBackend
from flujo.status import DecisionOutcome, Outcome, RunStatus, TaskStatus
from pydantic import BaseModel, Field

from tests.engine.making import (
    Crash,
    Ledger,
    bury_holder,
    decision_of,
    document_of,
    head_of,
    kinds_of,
    order_pipeline,
    runner_of,
)
from tests.engine.stores import Store


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Verdict(BaseModel):
    amount: int = Field(gt=0)
    colour: Colour
    note: str = ""


def echo(schema: Any = None, **options: Any) -> Pipeline:
    """A gate, and a step that gives back what it was answered, with its type's name."""

    @step
    async def tell(answer: Any) -> list[Any]:
        return [type(answer).__name__, answer]

    return Step.human_in_the_loop("approve", input_schema=schema, **options) >> tell


async def test_decision_is_durable_before_anything_behind_the_gate(backend: StateBackend) -> None:
    stored: list[Any] = []

    @step
    async def after(answer: str, ctx: StepContext) -> str:
        document = await document_of(backend, ctx.run_id)
        stored.append((await decision_of(backend), document.checkpoint("approve")))
        return answer

    runner = runner_of(Step.human_in_the_loop("approve") >> after, backend)
    await runner.run_async(None, run_id="r")
    await runner.resume_async("r", "yes", actor="ana", reason="cheap")

    ((decision, checkpoint),) = stored
    assert (decision.outcome, decision.data, decision.actor) == (DecisionOutcome.APPROVED, '"yes"', "ana")
    assert (decision.reason, checkpoint.output) == ("cheap", '"yes"')


@pytest.mark.parametrize("crash_in", ["ship", "tell"])
async def test_recorded_answer_stands_after_a_crash_behind_the_gate(
    store: Store, ledger: Ledger, crash_in: str
) -> None:
    crashing = runner_of(order_pipeline(ledger, crash_in=crash_in), store.backend)
    await crashing.run_async("lamp", run_id="r")
    with pytest.raises(Crash):
        await crashing.resume_async("r", "yes", actor="ana")
    await bury_holder(store.backend, "r")
    backend = store.reopen()
    runner = runner_of(order_pipeline(ledger), backend)

    with pytest.raises(AlreadyDecided, match="ana already approved"):
        await runner.resume_async("r", "no", actor="ana")
    with pytest.raises(AlreadyDecided):
        await runner.resume_async("r", Reject("no"), actor="ben")
    done = await runner.resume_async("r", "yes", actor="ana")

    assert (done.status, done.output) == (RunStatus.COMPLETED, "SHIPPED: YES")
    assert (await kinds_of(backend, "r")).count("decision.recorded") == 1


async def test_same_answer_again_is_harmless(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), backend)
    paused = await runner.run_async("lamp", run_id="r")
    done = await runner.resume_async(paused, "yes")

    assert await runner.resume_async(paused, "yes") == done
    with pytest.raises(AlreadyDecided):
        await runner.resume_async(paused, "no")
    with pytest.raises(AlreadyDecided):
        await runner.resume_async(paused, Reject())
    with pytest.raises(RunFinished):
        await runner.resume_async("r", "yes")
    assert ledger == {"price": 1, "ship": 1, "tell": 1}


@pytest.mark.parametrize("answer", [False, 0, "", None, [], {}, 0.0])
async def test_falsy_answer_is_an_answer(backend: StateBackend, answer: Any) -> None:
    runner = runner_of(echo(), backend)
    await runner.run_async(run_id="r")

    done = await runner.resume_async("r", answer)

    assert (done.status, done.output) == (RunStatus.COMPLETED, [type(answer).__name__, answer])


async def test_pending_question_is_readable_from_stored_state_alone(store: Store) -> None:
    gate = Step.human_in_the_loop(
        "approve",
        message_for_user=lambda price: f"Pay {price} €?",
        input_schema=Verdict,
        candidates=["ana", "group:finance"],
    )

    @step
    async def price(order: str) -> int:
        return len(order)

    await runner_of(price >> gate, store.backend).run_async("lamp", run_id="r")
    backend = store.reopen()

    state = await backend.load_state("r")
    assert state is not None
    assert (state["status"], state["current_step_index"], state["pipeline_name"]) == ("paused", 1, "demo")
    (row,) = json.loads(json.dumps(state))["rows"]["human_task"]
    assert (row["message"], row["kind"], row["status"]) == ("Pay 4 €?", "form", "open")
    assert json.loads(row["candidates"]) == ["ana", "group:finance"]
    assert json.loads(row["evidence"]) == 4
    assert json.loads(row["schema"]) == Verdict.model_json_schema()
    assert (row["if_approved"], row["if_rejected"]) == ("complete the run", "stop the run")
    (task,) = (await document_of(backend, "r")).open_human_tasks()
    assert (task.path, task.generation, task.status) == ("approve", row["generation"], TaskStatus.OPEN)


async def test_pause_shows_the_question(backend: StateBackend) -> None:
    runner = runner_of(echo(Verdict, message_for_user="How much?", candidates=["ana"]), backend)

    pause = (await runner.run_async(run_id="r")).pause

    assert pause is not None
    assert (pause.name, pause.path, pause.message, pause.kind) == ("approve", "approve", "How much?", "form")
    assert (pause.schema, pause.candidates) == (Verdict.model_json_schema(), ["ana"])


WRONG = [{}, {"amount": 0, "colour": "red"}, {"amount": 1, "colour": "green"}, "text", None, {"amount": float("nan")}]


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_input_leaves_the_pause_untouched(backend: StateBackend, wrong: Any) -> None:
    runner = runner_of(echo(Verdict), backend)
    paused = await runner.run_async(run_id="r")
    before = await document_of(backend, "r")
    events = list(await backend.events("r"))

    with pytest.raises(InvalidAnswer) as refused:
        await runner.resume_async(paused, wrong)

    assert refused.value.details["errors"][0].keys() >= {"loc", "msg", "type"}
    assert (await document_of(backend, "r")).head == before.head
    assert list(await backend.events("r")) == events
    assert (await runner.run_async(run_id="r")).pause == paused.pause


async def test_typed_answer_reaches_the_next_step_with_its_type(backend: StateBackend) -> None:
    @step
    async def tell(verdict: Verdict, ctx: StepContext) -> str:
        assert ctx.output_of("approve") == verdict
        return f"{type(verdict).__name__} {verdict.amount} {verdict.colour!r}"

    runner = runner_of(Step.human_in_the_loop("approve", input_schema=Verdict) >> tell, backend)
    await runner.run_async(run_id="r")

    done = await runner.resume_async("r", {"amount": "3", "colour": "blue"})

    assert done.output == "Verdict 3 <Colour.BLUE: 'blue'>"
    assert done.step_history[0].output == Verdict(amount=3, colour=Colour.BLUE)


async def test_answer_may_be_given_as_an_object_of_its_type(backend: StateBackend) -> None:
    runner = runner_of(echo(Verdict), backend)
    await runner.run_async(run_id="r")

    done = await runner.resume_async("r", Verdict(amount=2, colour=Colour.RED))

    assert done.output == ["dict", {"amount": 2, "colour": "red", "note": ""}]


async def test_rejection_ends_the_run(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), backend)
    paused = await runner.run_async("lamp", run_id="r")

    rejected = await runner.resume_async(paused, Reject("too expensive"), actor="ana")

    assert (rejected.status, rejected.outcome, rejected.output) == (RunStatus.CANCELLED, Outcome.REJECTED, None)
    assert ledger == {"price": 1}
    decision = await decision_of(backend)
    assert decision is not None
    assert (decision.outcome, decision.reason, decision.actor) == (DecisionOutcome.REJECTED, "too expensive", "ana")
    assert (await kinds_of(backend, "r"))[-2:] == ["decision.recorded", "run.rejected"]
    assert await runner.resume_async(paused, Reject("too expensive"), actor="ana") == rejected


@pytest.mark.parametrize("answer", [True, "yes", "true", 1])
async def test_bool_gate_approves(backend: StateBackend, answer: Any) -> None:
    runner = runner_of(echo(bool), backend)
    await runner.run_async(run_id="r")

    assert (await runner.resume_async("r", answer)).output == ["bool", True]


@pytest.mark.parametrize("answer", [False, "no", "false", 0, Reject("no")])
async def test_bool_gate_rejects_whatever_says_no(backend: StateBackend, answer: Any, ledger: Ledger) -> None:
    @step
    async def pay(approved: bool) -> None:  # a gate's answer
        ledger.add("pay")

    runner = runner_of(Step.human_in_the_loop("approve", input_schema=bool) >> pay, backend)
    await runner.run_async(run_id="r")

    rejected = await runner.resume_async("r", answer)

    assert (rejected.status, rejected.outcome) == (RunStatus.CANCELLED, Outcome.REJECTED)
    assert not ledger


def routed(ledger: Ledger) -> Pipeline:
    @step
    async def price(order: str) -> int:
        ledger.add("price")
        return len(order)

    @step
    async def apologise(price: int, ctx: StepContext) -> str:
        ledger.add(f"apologise at {ctx.path}")
        return f"sorry, {price}"

    @step
    async def refund(text: str) -> str:
        ledger.add("refund")
        return text + ", refunded"

    @step
    async def ship(answer: str) -> str:
        ledger.add("ship")
        return answer

    return price >> Step.human_in_the_loop("approve", on_reject=apologise >> refund) >> ship


async def test_rejection_takes_its_route_and_nothing_behind_the_gate(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(routed(ledger), backend)
    await runner.run_async("lamp", run_id="r")

    ended = await runner.resume_async("r", Reject("no"))

    assert (ended.status, ended.outcome, ended.output) == (RunStatus.COMPLETED, Outcome.REJECTED, "sorry, 4, refunded")
    assert [s.path for s in ended.step_history] == ["price", "approve/apologise", "approve/refund", "approve"]
    assert ledger == {"price": 1, "apologise at approve/apologise": 1, "refund": 1}
    assert (await head_of(backend, "r")).step_index == 2, "behind the gate, whatever ran in the route"


async def test_approval_skips_the_route(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(routed(ledger), backend)
    await runner.run_async("lamp", run_id="r")

    ended = await runner.resume_async("r", "fine")

    assert (ended.status, ended.outcome, ended.output) == (RunStatus.COMPLETED, None, "fine")
    assert ledger == {"price": 1, "ship": 1}


def twice_gated(ledger: Ledger) -> Pipeline:
    @step
    async def note(value: str) -> str:
        ledger.add("note")
        return f"noted {value}"

    inner = Step.human_in_the_loop("sure", on_reject=note)
    return Pipeline([Step.human_in_the_loop("approve", on_reject=inner)])


async def test_route_may_ask_again_and_be_rejected_in_turn(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(twice_gated(ledger), backend)
    await runner.run_async("lamp", run_id="r")

    asked = await runner.resume_async("r", Reject("no"))
    assert asked.pause is not None
    assert asked.pause.path == "approve/sure"
    ended = await runner.resume_async("r", Reject("no, really"))

    assert (ended.status, ended.outcome) == (RunStatus.COMPLETED, Outcome.REJECTED)
    assert ended.output == "noted lamp"
    assert ledger == {"note": 1}


async def test_gate_that_need_not_ask_passes_its_input_on(backend: StateBackend) -> None:
    runner = runner_of(echo(when=lambda price: price > 100), backend)

    cheap = await runner.run_async(5, run_id="cheap")
    dear = await runner.run_async(500, run_id="dear")

    assert (cheap.status, cheap.output) == (RunStatus.COMPLETED, ["int", 5])
    assert dear.status is RunStatus.PAUSED
    assert (await runner.resume_async("dear", "ok")).output == ["str", "ok"]


@pytest.mark.parametrize("where", ["message_for_user", "when"])
async def test_gate_whose_own_code_fails_fails_the_run(backend: StateBackend, where: str) -> None:
    def broken(value: Any) -> Any:
        raise ZeroDivisionError("a gate of glass")

    runner = runner_of(echo(**{where: broken}), backend)

    failed = await runner.run_async("lamp", run_id="r")

    assert (failed.status, failed.error) == (RunStatus.FAILED, "ZeroDivisionError: a gate of glass")
    options: dict[str, Any] = {where: lambda value: "Ship it?"}
    mended = runner_of(echo(**options), backend)
    assert (await mended.retry_async("r")).status is RunStatus.PAUSED


async def test_question_is_asked_whatever_letters_it_has(backend: StateBackend) -> None:
    gate = Step.human_in_the_loop("ask", message_for_user=lambda value: f"{value} \0 \ud800?")
    nobody: Any = None

    paused = await runner_of(gate, backend).run_async(1, run_id="r")
    assert paused.pause is not None
    assert paused.pause.message == "1 \\0 \\ud800?"
    assert (await runner_of(gate, backend).resume_async("r", "yes", actor=nobody)).output == "yes"


async def test_several_gates_are_answered_one_after_the_other(backend: StateBackend) -> None:
    pipeline = Step.human_in_the_loop("first") >> Step.human_in_the_loop("second") >> Step.human_in_the_loop("third")
    runner = runner_of(pipeline, backend)
    paused = await runner.run_async(run_id="r")

    for name in ("first", "second", "third"):
        assert paused.pause is not None
        assert paused.pause.path == name
        earlier = paused
        paused = await runner.resume_async(paused, name)
        assert await runner.resume_async(earlier, name) == paused

    assert (paused.status, paused.output) == (RunStatus.COMPLETED, "third")


async def test_answer_names_a_question_that_is_asked(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), backend)
    await runner.run_async("lamp", run_id="r")

    with pytest.raises(HumanTaskNotFound):
        await runner.resume_async("r", "yes", step="ship")
    assert (await runner.resume_async("r", "yes", step="approve")).status is RunStatus.COMPLETED


async def test_run_that_asks_nothing_cannot_be_answered(backend: StateBackend) -> None:
    @step
    async def only(value: int) -> int:
        raise Crash

    runner = runner_of(only, backend)
    with pytest.raises(Crash):
        await runner.run_async(1, run_id="r")

    with pytest.raises(RunNotPaused):
        await runner.resume_async("r", "yes")


async def test_cancelled_run_cannot_be_answered(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), backend)
    paused = await runner.run_async("lamp", run_id="r")
    await runner.cancel_async("r", actor="ana")

    with pytest.raises(RunFinished):
        await runner.resume_async("r", "yes")
    with pytest.raises(Exception, match="cancelled by ana"):
        await runner.resume_async(paused, "yes")
    assert ledger == {"price": 1}


async def test_form_from_before_a_deletion_is_stale(built_in: Store, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), built_in.backend)
    old = await runner.run_async("lamp", run_id="r")
    await runner.cancel_async("r")
    await built_in.backend.delete_state("r")
    new = await runner.run_async("lamp", run_id="r")

    with pytest.raises(StaleDecision):
        await runner.resume_async(old, "yes")

    assert (await runner.resume_async(new, "yes")).status is RunStatus.COMPLETED


def test_candidates_that_name_nobody_are_an_error_when_built() -> None:
    nobody: list[Any] = [[], (), "ana"]
    for wrong in nobody:
        with pytest.raises(PipelineDefinitionError, match="candidates"):
            Step.human_in_the_loop("approve", candidates=wrong)


async def test_resume_waits_for_a_running_loop_with_its_twin(backend: StateBackend, ledger: Ledger) -> None:
    runner: Flujo = runner_of(order_pipeline(ledger), backend)

    with pytest.raises(Exception, match=r"Await run_async\(\.\.\.\)"):
        runner.run("lamp")
    with pytest.raises(Exception, match=r"Await resume_async\(\.\.\.\)"):
        runner.resume("r", "yes")
