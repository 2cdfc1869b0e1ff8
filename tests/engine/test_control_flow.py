"""Control flow under attack: nesting, races between branches, and functions of the author's that go wrong."""

from __future__ import annotations

from flujo import Step

from tests.engine.making import runner_of
from tests.engine.stores import Store


async def test_a_question_in_a_map_in_a_map_can_be_answered(built_in: Store) -> None:
    ask = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int)
    flujo = runner_of(Step.map_over("outer", Step.map_over("inner", ask)), built_in.backend)
    paused = await flujo.run_async([[1]], run_id="r")
    assert [pause.path for pause in paused.pauses] == ["outer[0]/inner[0]/ask"]
    assert (await flujo.resume_async("r", 5)).output == [[5]]
