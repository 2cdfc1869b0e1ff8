"""How sub-pipelines, branches, loops and fallbacks are walked."""

from __future__ import annotations

from dataclasses import replace

from flujo import canonical
from flujo.constructs import Branch, Fallback, Loop
from flujo.errors import LoopBoundReached, NoSuchBranch
from flujo.pipeline import SubPipeline
from flujo.walk import Spot, Walk


async def sub_pipeline(walk: Walk, spot: Spot) -> None:
    """Its steps, one after the other."""
    assert isinstance(spot.node, SubPipeline)  # what this way is for
    scope = spot.scope.below(f"{spot.path}/", spot.top_index)
    output = await walk.sequence(spot.node.pipeline.nodes, scope, spot.value)
    await walk.join(spot, output, scope.fields)


async def branch(walk: Walk, spot: Spot) -> None:
    """Choose once, then walk what was chosen."""
    node, noted = spot.node, f"{spot.path}#choice"
    assert isinstance(node, Branch)  # what this way is for
    choice = walk.noted(noted)
    if choice is None:
        choice = await walk.ask(spot, node.choice, await walk.given(spot))
        if choice not in node.branches:
            known = ", ".join(node.branches)
            await walk.fail(spot, NoSuchBranch(f"{spot.path!r} chose {choice!r}, which is none of {known}."))
        await walk.note(spot, noted, choice)
    scope = spot.scope.below(f"{spot.path}/", spot.top_index)
    output = await walk.part(node.branches[choice], f"{spot.path}/{choice}", scope, spot.value)
    await walk.join(spot, output, scope.fields)


async def loop(walk: Walk, spot: Spot) -> None:
    """The body on its own output until its verdict ends it."""
    node, value, fields = spot.node, spot.value, spot.scope.fields
    assert isinstance(node, Loop)  # what this way is for
    for number in range(1, node.max_iterations + 1):
        at = f"{spot.path}#{number}"
        given = spot.scope.given if number == 1 else node.output
        scope = replace(spot.scope.below(f"{at}/", spot.top_index), fields=fields, given=given)
        value = await walk.sequence(node.body.nodes, scope, value)
        fields = scope.fields
        verdict = walk.noted(f"{at}#verdict")
        if verdict is None:
            verdict = bool(await walk.ask(spot, node.until, await walk.ask(spot, canonical.decode, value, node.output)))
            await walk.note(spot, f"{at}#verdict", verdict)
        if verdict:
            await walk.join(spot, value, fields)
            return
    await walk.fail(
        spot, LoopBoundReached(f"Loop {spot.path!r} ran {node.max_iterations} times without coming to its end.")
    )


async def fallback(walk: Walk, spot: Spot) -> None:
    """The primary part and, when it has failed for good, the backup."""
    node = spot.node
    assert isinstance(node, Fallback)  # what this way is for
    scope = spot.scope.below(f"{spot.path}/", spot.top_index, contained=True)
    place = f"{spot.path}/{node.primary.name}"
    output = await walk.catch(spot, place, lambda: walk.part(node.primary, place, scope, spot.value))
    if not isinstance(output, str):
        scope = spot.scope.below(f"{spot.path}/", spot.top_index)
        output = await walk.part(node.backup, f"{spot.path}/{node.backup.name}", scope, spot.value)
    await walk.join(spot, output, scope.fields)
