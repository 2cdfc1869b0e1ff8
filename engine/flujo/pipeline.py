"""A pipeline and the nodes that it is made of, as code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

from flujo import canonical
from flujo.context import PipelineContext
from flujo.errors import PipelineDefinitionError
from flujo.paths import POSITION_ROOM, name_in
from flujo.typing import Signature, fits

MAX_NAME = 200


class Node:
    """What `>>` chains: it has a name, unique among its siblings, and a shape that the fingerprint covers."""

    kind: ClassVar[str]
    signature: Signature | None = None
    """How the node's function is called; None for a node without one."""

    def __init__(self, name: str, *, description: str = "") -> None:
        self.check_name(name)
        self.name = name
        self.description = description

    @staticmethod
    def check_name(name: str) -> None:
        """Raise `PipelineDefinitionError` unless `name` can be part of a path."""
        if not name or len(name) > MAX_NAME or name != name.strip() or not name.isprintable():
            raise PipelineDefinitionError(f"A step's name is 1 to {MAX_NAME} printable characters, not {name!r}.")
        if any(letter in name for letter in "[]#/"):
            raise PipelineDefinitionError(f"The step name {name!r} holds one of [ ] # /, which paths are made of.")

    @property
    def output(self) -> Any:
        """The annotation of what the node gives; `Any` when unknown."""
        return Any

    @property
    def routes(self) -> Sequence[Pipeline]:
        """The steps that may run instead of all that follows the node."""
        return ()

    def inside(self) -> Iterable[Node]:
        """The nodes that this one holds: those of its parts or of its routes."""
        return (node for route in self.routes for node in route.nodes)

    def inner(self, path: str) -> Node | None:
        """The node at `path` inside this one; None for a node that holds no others."""
        return None

    def reach(self) -> int:
        """How much longer than the node's own path the paths inside it can get."""
        return 0

    def shape(self) -> dict[str, Any]:
        """What the fingerprint covers of this node."""
        return {"name": self.name, "kind": self.kind}

    def __rshift__(self, other: Node | Pipeline) -> Pipeline:
        return Pipeline([self]) >> other

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"


class Construct(Node):
    """A node with nodes inside; its checkpoint joins what they made."""

    def parts(self) -> Iterable[tuple[str, Node]]:
        """The nodes inside, each with the segment that addresses it behind this node's own path."""
        raise NotImplementedError  # every construct has parts

    def inside(self) -> Iterable[Node]:
        return (part for _, part in self.parts())

    def shape(self) -> dict[str, Any]:
        return {**super().shape(), "parts": [[segment, part.shape()] for segment, part in self.parts()]}

    def reach(self) -> int:
        return POSITION_ROOM + max((1 + len(segment) + part.reach() for segment, part in self.parts()), default=0)

    def inner(self, path: str) -> Node | None:
        segment, _, rest = path.partition("/")
        wanted = name_in(segment)
        part = next((part for name, part in self.parts() if name == wanted), None)
        if part is None or not rest:
            return part if wanted == segment else None
        return part.inner(rest)


class SubPipeline(Construct):
    """A pipeline as one step of another."""

    kind = "pipeline"

    def __init__(self, name: str, pipeline: Pipeline) -> None:
        super().__init__(name)
        self.pipeline = pipeline

    def parts(self) -> Iterable[tuple[str, Node]]:
        return [(node.name, node) for node in self.pipeline.nodes]

    @property
    def output(self) -> Any:
        return self.pipeline.output


class Pipeline:
    """Steps that run one after the other; the output of each is the input of the next."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self._check_names()
        try:
            self._check_neighbours()
        except RecursionError:
            raise PipelineDefinitionError("The steps are nested too deeply: no store could hold their paths.") from None

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
        signature = self.nodes[0].signature if self.nodes else None
        return Any if signature is None else signature.input

    @property
    def output(self) -> Any:
        """The annotation of the last step's output; `Any` when steps that run instead may give another."""
        last = self.nodes[-1].output if self.nodes else Any
        others = [route.output for node in self.nodes for route in node.routes]
        return last if all(output == last for output in others) else Any

    def signatures(self) -> Iterator[Signature]:
        """The signatures of all steps, those inside other nodes included."""
        return (node.signature for node in self.every_node() if node.signature is not None)

    def _check_names(self) -> None:
        names = [node.name for node in self.nodes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PipelineDefinitionError(f"Two steps are named {twice[0]!r}. Give one another name: @step(name=…).")

    def _check_neighbours(self) -> None:
        for before, after in zip(self.nodes, self.nodes[1:], strict=False):
            signature = after.signature
            if signature is None or not signature.takes_input:
                continue
            given = before.output
            if not fits(given, signature.input):
                raise PipelineDefinitionError(
                    f"Step {after.name!r} takes {_name(signature.input)}, but {before.name!r} before it gives "
                    f"{_name(given)}."
                )


def as_node(name: str, part: Node | Pipeline) -> Node:
    """A node as it is, a pipeline as a sub-pipeline of this name."""
    return part if isinstance(part, Node) else SubPipeline(name, Pipeline.of(part))


def _every(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from _every(node.inside())


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
