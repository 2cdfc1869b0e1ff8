"""The way each kind of node is done: one function per kind, called by the walk."""

from collections.abc import Mapping

from flujo.walk import Way
from flujo.ways import children, constructs, human_tasks, side_by_side, steps, waits

WAYS: Mapping[str, Way] = {
    "step": steps.step,
    "human_task": human_tasks.human_task,
    "pipeline": constructs.sub_pipeline,
    "branch": constructs.branch,
    "loop": constructs.loop,
    "fallback": constructs.fallback,
    "parallel": side_by_side.parallel,
    "map": side_by_side.map_over,
    "timer": waits.timer,
    "signal": waits.signal,
    "child": children.child,
}
