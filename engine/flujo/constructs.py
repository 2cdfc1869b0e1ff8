"""The nodes that run other nodes in their own way: parallel, map, branch, loop and fallback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from flujo.definition import no_coroutine
from flujo.errors import PipelineDefinitionError
from flujo.pipeline import Construct, Node, Pipeline, as_node

OnError = Literal["fail_fast", "collect"]
Reducers = Mapping[str, Callable[[list[Any]], Any]]


class Parallel(Construct):
    """Branches that run side by side on the same input; the output is a dictionary of theirs."""

    kind = "parallel"

    def __init__(
        self,
        name: str,
        branches: Mapping[str, Node | Pipeline] | Sequence[Node],
        *,
        max_parallel: int | None,
        on_error: OnError,
        reducers: Reducers | None,
    ) -> None:
        super().__init__(name)
        self.branches = _branches(name, branches)
        self.max_parallel = _bound(name, max_parallel) or len(self.branches)
        self.collects = _collects(name, on_error)
        self.reducers = _reducers(name, reducers)

    def parts(self) -> Iterable[tuple[str, Node]]:
        return self.branches.items()


class Map(Construct):
    """One body for each item of a list, in order; the output is the list of outputs."""

    kind = "map"

    def __init__(
        self,
        name: str,
        body: Node | Pipeline,
        *,
        max_parallel: int,
        on_error: OnError,
        reducers: Reducers | None,
    ) -> None:
        super().__init__(name)
        self.body = Pipeline.of(body)
        self.max_parallel = _bound(name, max_parallel) or 1
        self.collects = _collects(name, on_error)
        self.reducers = _reducers(name, reducers)

    def parts(self) -> Iterable[tuple[str, Node]]:
        return [(node.name, node) for node in self.body.nodes]


class Branch(Construct):
    """One of several ways on, chosen by a function of the input; the choice is recorded before the way is taken."""

    kind = "branch"

    def __init__(
        self,
        name: str,
        choose: Callable[[Any], str],
        branches: Mapping[str, Node | Pipeline],
        *,
        default: str | None,
    ) -> None:
        super().__init__(name)
        no_coroutine(choose, f"{name!r}: choose")
        self.choose = choose
        self.branches = _branches(name, branches)
        if default is not None and default not in self.branches:
            raise PipelineDefinitionError(f"Branch {name!r}: the default {default!r} is none of its branches.")
        self.default = default

    def choice(self, value: Any) -> str:
        """The branch for this input; a name that is none when there is no default."""
        chosen = str(self.choose(value))
        return chosen if chosen in self.branches else self.default or chosen

    def parts(self) -> Iterable[tuple[str, Node]]:
        return self.branches.items()


class Loop(Construct):
    """A body that runs again on its own output until a function of it is true; each verdict is recorded."""

    kind = "loop"

    def __init__(self, name: str, body: Node | Pipeline, *, until: Callable[[Any], bool], max_iterations: int) -> None:
        super().__init__(name)
        self.body = Pipeline.of(body)
        no_coroutine(until, f"{name!r}: until")
        self.until = until
        self.max_iterations = _bound(name, max_iterations) or 1

    def parts(self) -> Iterable[tuple[str, Node]]:
        return [(node.name, node) for node in self.body.nodes]

    @property
    def output(self) -> Any:
        return self.body.output


class Fallback(Construct):
    """A step and the one that takes its place when it has failed for good; both get the same input."""

    kind = "fallback"

    def __init__(self, name: str, primary: Node, backup: Node) -> None:
        super().__init__(name)
        if primary.name == backup.name:
            raise PipelineDefinitionError(f"Fallback {name!r}: both steps are named {primary.name!r}.")
        self.primary = primary
        self.backup = backup

    def parts(self) -> Iterable[tuple[str, Node]]:
        return [(self.primary.name, self.primary), (self.backup.name, self.backup)]


def _branches(name: str, branches: Mapping[str, Node | Pipeline] | Sequence[Node]) -> dict[str, Node]:
    if not isinstance(branches, Mapping):
        names = [node.name for node in branches]
        if len(set(names)) != len(names):
            raise PipelineDefinitionError(f"{name!r}: two branches have the same name. Give them as a dictionary.")
        branches = {node.name: node for node in branches}
    if not branches:
        raise PipelineDefinitionError(f"{name!r} has no branches.")
    named = {key: as_node(key, part) for key, part in branches.items()}
    for key in named:
        Node.check_name(key)
    return named


def _bound(name: str, number: Any) -> int | None:
    if number is not None and (not isinstance(number, int) or number < 1):
        raise PipelineDefinitionError(f"{name!r}: a bound is a whole number of at least 1, not {number!r}.")
    return number


def _reducers(name: str, reducers: Reducers | None) -> dict[str, Callable[[list[Any]], Any]]:
    for field, reduce in (reducers or {}).items():
        no_coroutine(reduce, f"{name!r}: the reducer of {field!r}")
    return dict(reducers or {})


def _collects(name: str, on_error: OnError) -> bool:
    if on_error not in ("fail_fast", "collect"):
        raise PipelineDefinitionError(f"{name!r}: on_error is 'fail_fast' or 'collect', not {on_error!r}.")
    return on_error == "collect"
