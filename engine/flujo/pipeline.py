"""A pipeline: an ordered set of steps, as code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flujo import canonical
from flujo.constructs import Construct, as_node
from flujo.context import PipelineContext
from flujo.errors import PipelineDefinitionError
from flujo.human import HumanStep
from flujo.node import Node
from flujo.paths import name_in
from flujo.step import Step
from flujo.typing import fits

if TYPE_CHECKING:
    from flujo.typing import Signature


class Pipeline:
    """Steps that run one after the other; the output of each is the input of the next."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self._check_names()
        self._check_neighbours()

    @classmethod
    def of(cls, part: object) -> Pipeline:
        """A pipeline as it is, a bare step as a pipeline of one."""
        if isinstance(part, Pipeline):
            return part
        if isinstance(part, Node):
            return cls([part])
        # a plain function is the mistake that type checkers don't see in untyped code
        raise PipelineDefinitionError(f"{part!r} is no step: decorate the function with @step.")

    def __rshift__(self, other: Node | Pipeline) -> Pipeline:
        return Pipeline([*self.nodes, *Pipeline.of(other).nodes])

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def every_node(self) -> Iterator[Node]:
        """All nodes, those inside others included."""
        return _every(self.nodes)

    def find(self, path: str) -> Node | None:
        """The node that a path addresses, if the pipeline has it; positions in maps and loops are passed over."""
        segment, _, rest = path.partition("/")
        name = name_in(segment)
        node = self._by_name.get(name)
        if node is None or not rest:
            return node if name == segment else None
        return node.inner(rest)

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def longest_path(self) -> int:
        """The length of the longest path that a run of the pipeline can have."""
        return max((len(node.name) + node.reach() for node in self.nodes), default=0)

    def as_step(self, name: str) -> Node:
        """The pipeline as one step of another; its steps' paths begin with `name/`."""
        return as_node(name, self)

    def shape(self) -> list[dict[str, Any]]:
        """What the fingerprint covers: names, kinds and order."""
        return [node.shape() for node in self.nodes]

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the pipeline's shape; a run resumes only under the fingerprint it was started with."""
        return canonical.digest(self.shape_text)

    @cached_property
    def shape_text(self) -> str:
        """The shape as canonical JSON, as each run stores it."""
        return canonical.dump(self.shape())

    @cached_property
    def context_model(self) -> type[PipelineContext]:
        """The most derived context that the steps annotate. Raises when two of them don't derive from one another."""
        model: type[PipelineContext] = PipelineContext
        for signature in self.signatures():
            asked: type[PipelineContext] = signature.context_model or PipelineContext
            if issubclass(asked, model):
                model = asked
            elif not issubclass(model, asked):
                raise PipelineDefinitionError(f"The steps ask for both {model.__name__} and {asked.__name__}.")
        return model

    @property
    def input_type(self) -> Any:
        """The annotation of the first step's input: `Any` without one, None when it takes none."""
        first = self.nodes[0] if self.nodes else None
        return first.signature.input if isinstance(first, Step) else Any

    @property
    def output(self) -> Any:
        """The annotation of the last step's output; `Any` when steps that run instead may give another."""
        last = self.nodes[-1].output if self.nodes else Any
        others = [route for node in self.nodes if isinstance(node, HumanStep) for route in node.routes]
        return last if all(route.output == last for route in others) else Any

    def signatures(self) -> Iterator[Signature]:
        """The signatures of all steps, those inside other nodes included."""
        return (node.signature for node in self.every_node() if isinstance(node, Step))

    def _check_names(self) -> None:
        names = [node.name for node in self.nodes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PipelineDefinitionError(f"Two steps are named {twice[0]!r}. Give one another name: @step(name=…).")

    def _check_neighbours(self) -> None:
        for before, after in zip(self.nodes, self.nodes[1:], strict=False):
            if not isinstance(after, Step) or not after.signature.takes_input:
                continue
            given = before.output
            if not fits(given, after.signature.input):
                raise PipelineDefinitionError(
                    f"Step {after.name!r} takes {_name(after.signature.input)}, but {before.name!r} before it gives "
                    f"{_name(given)}."
                )


def _every(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if isinstance(node, Construct):
            yield from _every(part for _, part in node.parts())
        elif isinstance(node, HumanStep):
            yield from _every(inner for route in node.routes for inner in route.nodes)


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
