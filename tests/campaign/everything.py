"""One pipeline that has everything: every construct and every wait, inside one another, and in child runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flujo import Approve, Pipeline, PipelineContext, PipelineRegistry, Reject, Step, StepContext, step
from flujo.testing import FakeClock
from flujo.testing.drive import NAME, Drive

HOUR = timedelta(hours=1)
ANSWERS = {
    "approved": {"gate": 7, "given up": 7, "check": 7, "sign": 7, "last": 7},
    "rejected": {"gate": Reject("no"), "given up": 7, "check": 7, "sign": 7, "last": Reject("no")},
}
SIGNALS = {"go": 3, "alone": 3, "inner/ship/carry/arrived": 3}


class Tally(PipelineContext):
    paths: list[str] = []
    totals: dict[str, int] = {}
    left: int = 0


def all_paths(lists: list[list[str]]) -> list[str]:
    return sorted({path for part in lists for path in part})


def drive(answer: str) -> Drive:
    """Drives this pipeline to its end, its gates approved or rejected."""
    return Drive(everything(), "start", {}, dict(ANSWERS[answer]), dict(SIGNALS))


def counted(name: str) -> Step:
    @step(name=name)
    async def count(value: Any, context: Tally, ctx: StepContext) -> int:
        context.paths.append(ctx.path)
        return value + 1 if isinstance(value, int) else len(value)

    return count


@step
async def total(value: Any, context: Tally, ctx: StepContext) -> list[int]:
    context.totals[ctx.path] = len(str(value))
    return [1, 5]


@step
async def total_again(value: dict[str, Any]) -> list[int]:
    return [1, 5]


@step(retries=1, backoff=timedelta(0))
async def broken(value: Any) -> int:
    raise ConnectionError("down")


@step
def left(value: Any, context: Tally) -> int:
    context.left += 1
    return context.left


def ask(name: str, **more: Any) -> Pipeline:
    return Pipeline([Step.human_in_the_loop(name, message_for_user="?", input_schema=int, **more)])


def child(name: str) -> Pipeline:
    return Pipeline([Step.run_pipeline(name, pipeline=name)])


def everything() -> PipelineRegistry:
    """The pipeline, and those of its children. Each of their steps does no harm when it runs again."""
    late = Step.wait_for_signal("never", timeout=HOUR)
    nudges = {"reminders": [HOUR / 2], "escalate_after": HOUR / 4, "escalate_to": ["bo"], "candidates": ["ana"]}
    unheard = ask("unheard", deadline=HOUR, on_deadline=Approve(5), **nudges)
    slow = Step.sleep("too long", 3 * HOUR) >> broken
    side = Step.parallel(
        "side",
        {
            "safe": Step.fallback("safe", broken, counted("one") >> Step.sleep("nap", HOUR) >> counted("two")),
            "asked": ask("gate", on_reject=counted("sorry") >> counted("refund")) >> counted("after"),
            "told": Step.wait_for_signal("go", int) >> counted("told"),
            "late": Step.fallback("late", late, left),
            "tardy": ask("tardy", deadline=2 * HOUR, reminders=[HOUR], on_deadline=counted("chase"))
            >> counted("never"),
            "unheard": unheard >> counted("by default"),
            "lost": Step.parallel("both", {"a": broken, "b": ask("given up")}, on_error="collect") >> counted("some"),
            "served": Step.fallback("served", child("breaks"), counted("instead")),
            "dropped": Step.fallback(
                "dropped", Step.parallel("hurry", {"a": slow, "b": child("idle")}), counted("else")
            ),
        },
        reducers={"paths": all_paths},
    )
    poll = Step.loop_until("poll", counted("look"), until=lambda n: n >= 4)
    way = Step.branch_on("way", lambda n: "big" if n > 3 else "small", {"big": ask("check"), "small": poll})
    each = Step.map_over("each", way >> child("weigh") >> counted("end"), max_parallel=1, reducers={"paths": all_paths})
    then = Step.sleep_until("then", lambda value: FakeClock().now() + 24 * HOUR)
    inner = (counted("in") >> then >> child("ship")).as_step("inner")
    alone = Step.wait_for_signal("alone", int, timeout=100 * HOUR)
    skipped = Step.human_in_the_loop("skipped", when=lambda value: value is None)
    ending = ask("last", quorum=2, on_reject=counted("excuse") >> counted("undo")) >> counted("done")
    pipelines = {
        NAME: total >> side >> total_again >> each >> counted("sum") >> inner >> skipped >> alone >> ending,
        "ship": counted("pack") >> ask("sign") >> child("carry") >> counted("shipped"),
        "carry": counted("drive") >> Step.wait_for_signal("arrived", int),
        "weigh": Step.sleep("settle", HOUR) >> counted("scale"),
        "breaks": broken,
        "idle": Step.wait_for_signal("nothing"),
    }
    registry = PipelineRegistry()
    for name, pipeline in pipelines.items():
        registry.register(pipeline, name=name, version="1.0.0")
    return registry
