"""Several must agree, and not the one who asked: votes, quorum and four eyes, in the transaction of the decision."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flujo import Flujo, Pipeline, PipelineResult, Reject, Step, step, transitions
from flujo.errors import AlreadyDecided, FlujoError, InvalidInput, NotAllowed, PipelineDefinitionError
from flujo.pipeline import Node
from flujo.records import Decision, Vote
from flujo.result import Pause
from flujo.start import new_run
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.status import DecisionOutcome, Outcome, RunStatus
from flujo.testing import FakeClock, assert_crash_safe, crash_points
from pydantic import BaseModel

from tests.engine.making import decision_of, document_of, head_of, kinds_of, runner_of


class Terms(BaseModel):
    limit: int


@step
async def pay(answer: Any) -> str:
    return f"paid {answer}"


def asks(**options: Any) -> Pipeline:
    return Step.human_in_the_loop("approve", **{"input_schema": bool, "quorum": 2, **options}) >> pay


async def asked(backend: StateBackend, pipeline: Pipeline | Node, **more: Any) -> tuple[Flujo, PipelineResult]:
    flujo = runner_of(pipeline, backend)
    return flujo, await flujo.run_async("lamp", run_id="r", **more)


async def votes(backend: StateBackend) -> list[tuple[str, str]]:
    document = await document_of(backend, "r")
    task = document.human_task("approve")
    return [(vote.actor, vote.data) for vote in document.votes("approve", task.generation)] if task else []


async def test_the_run_goes_on_when_enough_different_people_have_answered(backend: StateBackend) -> None:
    flujo, paused = await asked(backend, asks())

    one = await flujo.resume_async(paused, True, actor="ana", reason="fine")
    assert one.pause is not None
    assert (one.status, one.pause.votes, one.pause.quorum) == (RunStatus.PAUSED, 1, 2)
    assert await decision_of(backend) is None
    done = await flujo.resume_async(paused, True, actor="ben")  # the form that was open before the first vote

    assert done.output == "paid True"
    decision = await decision_of(backend)
    assert decision is not None
    assert (decision.actor, await votes(backend)) == ("ben", [("ana", "true"), ("ben", "true")])
    assert (await kinds_of(backend, "r")).count("vote.recorded") == 2


async def test_nobody_counts_twice(backend: StateBackend) -> None:
    flujo, paused = await asked(backend, asks())
    await flujo.resume_async(paused, True, actor="ana")
    events = await kinds_of(backend, "r")

    again = await flujo.resume_async(paused, True, actor="ana")
    other_key = await flujo.resume_async("r", True, actor="ana", reason="really")

    assert (again.status, other_key.status) == (RunStatus.PAUSED, RunStatus.PAUSED)
    assert await kinds_of(backend, "r") == events
    assert paused.pause is not None
    assert (await head_of(backend, "r")).generation == paused.pause.generation


async def test_a_vote_of_nobody_is_refused(backend: StateBackend) -> None:
    flujo, paused = await asked(backend, asks())
    with pytest.raises(InvalidInput, match="say who does"):
        await flujo.resume_async(paused, True)
    assert await votes(backend) == []


async def test_one_rejection_ends_it(backend: StateBackend) -> None:
    flujo, paused = await asked(backend, asks(quorum=3))
    await flujo.resume_async(paused, True, actor="ana")
    await flujo.resume_async(paused, True, actor="ben")

    ended = await flujo.resume_async(paused, Reject("no"), actor="cleo")

    assert (ended.status, ended.outcome) == (RunStatus.CANCELLED, Outcome.REJECTED)
    assert len((await document_of(backend, "r")).rows[Decision]) == 1
    with pytest.raises(AlreadyDecided, match="cleo already rejected"):
        await flujo.resume_async(paused, True, actor="dora")


async def test_a_vote_may_be_changed_until_it_is_decided_and_only_the_same_answer_counts(backend: StateBackend) -> None:
    flujo, paused = await asked(backend, asks(input_schema=Terms))
    await flujo.resume_async(paused, {"limit": 5}, actor="ana")
    split = await flujo.resume_async(paused, {"limit": 9}, actor="ben")
    assert split.pause is not None
    assert (split.status, split.pause.votes) == (RunStatus.PAUSED, 1)

    done = await flujo.resume_async(paused, {"limit": 5}, actor="ben")

    assert done.output == "paid {'limit': 5}"
    assert (await kinds_of(backend, "r")).count("vote.recorded") == 3
    assert await votes(backend) == [("ana", '{"limit":5}'), ("ben", '{"limit":5}')]


async def test_an_earlier_voter_gets_the_same_answer_again_after_the_decision(backend: StateBackend) -> None:
    flujo, paused = await asked(backend, asks())
    await flujo.resume_async(paused, True, actor="ana")
    done = await flujo.resume_async(paused, True, actor="ben")

    assert await flujo.resume_async(paused, True, actor="ana") == done
    assert await flujo.resume_async(paused, True, actor="ben") == done
    with pytest.raises(AlreadyDecided):
        await flujo.resume_async(paused, Reject("no"), actor="ana")


def answer(asked: Pause, actor: str) -> transitions.Answer:
    approved, key = DecisionOutcome.APPROVED, f"of {actor}"
    return transitions.Answer("approve", asked.generation, asked.digest, approved, "true", actor, "", "test", key)


async def test_the_vote_of_who_lost_the_right_does_not_count_and_counts_again_when_it_is_back(
    backend: StateBackend,
) -> None:
    _, paused = await asked(backend, asks())
    assert paused.pause is not None
    question, now = paused.pause, FakeClock().now()
    lost = {"ana"}

    async def vote(actor: str) -> Any:
        given = answer(question, actor)
        deciding = transitions.decide(given, now=now, claim=None, facts={}, counts=lambda who: who not in lost)
        return (await backend.transact("r", deciding)).result

    assert isinstance(await vote("ana"), Vote)
    assert isinstance(await vote("ben"), Vote), "ana may no longer decide"
    lost.clear()
    assert isinstance(await vote("ben"), Decision)


async def test_votes_at_once_make_one_decision(backend: StateBackend) -> None:
    _, paused = await asked(backend, asks(quorum=3))
    assert paused.pause is not None
    question, now = paused.pause, FakeClock().now()

    async def vote(actor: str) -> Any:
        try:
            deciding = transitions.decide(answer(question, actor), now=now, claim=None, facts={})
            return (await backend.transact("r", deciding)).result
        except FlujoError as error:
            return error

    outcomes = await asyncio.gather(*(vote(f"p{number}") for number in range(6)))

    assert [isinstance(outcome, Decision) for outcome in outcomes].count(True) == 1
    assert [isinstance(outcome, AlreadyDecided) for outcome in outcomes].count(True) == 3
    assert len(await votes(backend)) == 3


async def test_a_question_in_each_branch_has_votes_of_its_own(backend: StateBackend) -> None:
    ask = Step.human_in_the_loop("ask", input_schema=bool, quorum=2)
    flujo = runner_of(Step.map_over("each", ask), backend)
    await flujo.run_async([1, 2], run_id="r")
    for item in (1, 0):
        for actor in ("ana", "ben"):
            result = await flujo.resume_async("r", True, actor=actor, step=f"each[{item}]/ask")
    assert result.output == [True, True]


async def test_a_crash_at_any_write_neither_loses_nor_doubles_a_vote() -> None:
    async def scenario(backend: StateBackend) -> Any:
        flujo = runner_of(asks(), backend, clock=FakeClock())
        result = await flujo.run_async("lamp", run_id="r")
        for actor in ("ana", "ben"):
            if result.status is RunStatus.PAUSED:
                result = await flujo.resume_async("r", True, actor=actor)
        return result.output, await votes(backend), (await kinds_of(backend, "r")).count("vote.recorded")

    async for point in crash_points(InMemoryBackend, scenario):
        assert point.expected[0] == "paid True"
        assert point.result == point.expected, str(point)


# Four eyes


@pytest.mark.parametrize("given", [True, Reject("no")])
@pytest.mark.parametrize("quorum", [1, 2])
async def test_who_requested_a_run_may_not_decide_under_four_eyes(
    backend: StateBackend, given: Any, quorum: int
) -> None:
    flujo, paused = await asked(backend, asks(four_eyes=True, quorum=quorum), requester="ana")
    before = await document_of(backend, "r")

    with pytest.raises(NotAllowed, match="You started or requested this run: under four eyes somebody else must"):
        await flujo.resume_async(paused, given, actor="ana")
    with pytest.raises(NotAllowed, match="say who decides"):
        await flujo.resume_async(paused, given)

    assert (await document_of(backend, "r")).head == before.head
    for actor in ("ben", "cleo")[:quorum]:
        result = await flujo.resume_async(paused, True, actor=actor)
    assert result.output == "paid True"


async def test_who_started_a_run_for_somebody_else_may_not_decide_under_four_eyes(backend: StateBackend) -> None:
    flujo = runner_of(asks(four_eyes=True, quorum=1), backend)
    new = new_run(flujo.registry.get("demo"), "lamp", {"run_id": "r"}, requester="a customer")
    await backend.transact("r", transitions.start(new, now=FakeClock().now(), claim=None, actor="ana", facts={}))
    await flujo.continue_async("r")
    with pytest.raises(NotAllowed):
        await flujo.resume_async("r", True, actor="ana")
    assert (await flujo.resume_async("r", True, actor="ben")).output == "paid True"


class Strict(InMemoryBackend):
    four_eyes = True


@pytest.mark.parametrize(("gate", "refused"), [(None, True), (True, True), (False, False)])
async def test_the_stores_default_holds_where_the_gate_says_nothing(*, gate: bool | None, refused: bool) -> None:
    flujo, paused = await asked(Strict(), asks(four_eyes=gate, quorum=1), requester="ana")
    if refused:
        with pytest.raises(NotAllowed):
            await flujo.resume_async(paused, True, actor="ana")
    else:
        assert (await flujo.resume_async(paused, True, actor="ana")).output == "paid True"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"quorum": 0}, "1 or more"), ({"quorum": 3, "candidates": ["ana", "ben"]}, "2 people can never be 3")],
)
def test_a_quorum_that_nobody_can_reach_is_an_error_when_built(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineDefinitionError, match=said):
        asks(**options)
    asks(quorum=3, candidates=["ana", "group:finance"])


def test_a_pipeline_with_rules_is_checked_for_crashes_with_as_many_people_as_it_asks() -> None:
    report = assert_crash_safe(asks(four_eyes=True), input="lamp", answers={"approve": True}, repeatable=["pay"])
    assert report.crashes > 5
