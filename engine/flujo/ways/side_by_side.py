"""How parallel branches and the items of a map are walked at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from flujo import canonical
from flujo.branches import all_of, merge
from flujo.constructs import Map, Parallel, Reducers
from flujo.context import Fields, restore
from flujo.errors import FlujoError
from flujo.pipeline import Node
from flujo.typing import item_of
from flujo.walk import Scope, Spot, Walk


class MapInputError(FlujoError):
    """A map runs over a list. Let the step before it return one."""

    code = "map_input"


async def parallel(walk: Walk, spot: Spot) -> None:
    """Every branch on the same input; their outputs by name."""
    node = spot.node
    assert isinstance(node, Parallel)  # what this way is for

    def branch(name: str, part: Node) -> Callable[[Scope], Awaitable[str]]:
        return lambda scope: walk.part(part, f"{spot.path}/{name}", scope, spot.value)

    places = [f"{spot.path}/{name}" for name in node.branches]
    works = [branch(name, part) for name, part in node.branches.items()]
    scopes = _scopes(spot, [f"{spot.path}/"] * len(works), collects=node.collects)
    outputs, fields = await _side_by_side(walk, spot, list(zip(places, works, scopes, strict=True)))
    joined = canonical.dump(dict(zip(node.branches, outputs, strict=True)))
    await walk.join(spot, joined, fields)


async def map_over(walk: Walk, spot: Spot) -> None:
    """The body on every item of the input; their outputs in order."""
    node, items = spot.node, json.loads(spot.value)
    assert isinstance(node, Map)  # what this way is for
    if not isinstance(items, list):
        await walk.fail(spot, MapInputError(f"{spot.path!r} maps over a list, but got {type(items).__name__}."))

    def item(text: str) -> Callable[[Scope], Awaitable[str]]:
        return lambda scope: walk.sequence(node.body.nodes, scope, text)

    places = [f"{spot.path}[{number}]" for number in range(len(items))]
    works = [item(canonical.dump(each)) for each in items]
    scopes = _scopes(spot, [f"{place}/" for place in places], collects=node.collects)
    for scope in scopes:
        scope.given = item_of(spot.scope.given)
    outputs, fields = await _side_by_side(walk, spot, list(zip(places, works, scopes, strict=True)))
    await walk.join(spot, canonical.dump(outputs), fields)


def _scopes(spot: Spot, prefixes: Sequence[str], *, collects: bool) -> list[Scope]:
    contained = collects or spot.scope.contained
    return [spot.scope.below(prefix, spot.top_index, contained=contained, concurrent=True) for prefix in prefixes]


async def _side_by_side(
    walk: Walk, spot: Spot, branches: Sequence[tuple[str, Callable[[Scope], Awaitable[str]], Scope]]
) -> tuple[list[Any], Fields]:
    """Branches at once, each on a copy of the context; their outputs in order, and the context at the join."""
    node = spot.node
    assert isinstance(node, Parallel | Map)  # what has branches
    slots = asyncio.Semaphore(node.max_parallel)

    scopes = [scope for _, _, scope in branches]

    async def one(number: int) -> Any:
        place, work, begins = branches[number]
        scope = scopes[number] = replace(begins)
        async with slots:
            if not node.collects:
                return json.loads(await work(scope))
            output = await walk.catch(spot, place, lambda: work(scope))
            if isinstance(output, str):
                return {"output": json.loads(output)}
            scope.fields = spot.scope.fields
            return {"error": output}

    walk.hold.branches += 1
    try:
        outputs = await all_of([partial(one, number) for number in range(len(branches))], walk.hold)
    finally:
        walk.hold.branches -= 1
    fields = [scope.fields for scope in scopes]
    return outputs, await walk.ask(spot, _merged, walk, spot.scope.fields, fields, node.reducers)


def _merged(walk: Walk, base: Fields, branches: Sequence[Fields], reducers: Reducers) -> Fields:
    """The context at a join, which must fit its class: what a reducer gives is no step's, and checked by none."""
    fields = merge(base, branches, reducers)
    if reducers and fields is not base:
        restore(walk.hold.entry.context_model, fields)
    return fields
