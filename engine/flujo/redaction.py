"""What is marked secret in a run's values, and its hiding wherever values are shown; steps get them as they are."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from flujo import canonical
from flujo.document import RunDocument
from flujo.human import HumanStep
from flujo.paths import bare
from flujo.pipeline import Construct, Node, Pipeline
from flujo.step import Step
from flujo.stored_type import external, is_secret

HIDDEN = "hidden (marked secret)"
_MARK = "flujo_secret"
_IN_ORDER = ("pipeline", "map", "loop")
_SHORTEST = 4
"""A text shorter than this is not looked for in messages: it would be found everywhere."""


class Secret:
    """Marks a type as secret: `Annotated[str, Secret()]`. Pydantic's `SecretStr` and its kin are so by themselves."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        marked_schema: Any = {**schema, "metadata": {**schema.get("metadata", {}), _MARK: True}}
        return cast(CoreSchema, marked_schema)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "format": "password", "writeOnly": True}


@dataclass(frozen=True, slots=True)
class Secrets:
    """What is hidden: each value under one of these `keys`, at any depth, and all that the nodes at `paths` give.

    Keys count anywhere in a run, since values travel from step to step. The path "" is the run's input, and
    `given(path)` what a node gets.
    """

    keys: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()

    def __or__(self, other: Secrets) -> Secrets:
        return Secrets(self.keys | other.keys, self.paths | other.paths)

    def to_text(self) -> str:
        """As a run keeps it: canonical JSON, "" for nothing."""
        if not self.keys and not self.paths:
            return ""
        return canonical.dump({"keys": sorted(self.keys), "paths": sorted(self.paths)})

    @classmethod
    def of_text(cls, text: str) -> Secrets:
        """What a run keeps."""
        plain = json.loads(text) if text else {}
        return cls(frozenset(plain.get("keys", ())), frozenset(plain.get("paths", ())))

    def hides(self, path: str | None) -> bool:
        """Whether all that the node at this path gives is hidden."""
        return path is not None and bool(self.paths) and bare(path) in self.paths

    def mark(self, schema: Any) -> Any:
        """A JSON Schema in which the properties under the keys are said to be secret, so that forms hide them."""
        if isinstance(schema, list):
            return [self.mark(part) for part in schema]
        if not isinstance(schema, dict):
            return schema
        copy = {name: self.mark(part) for name, part in schema.items()}
        if isinstance(properties := copy.get("properties"), dict):
            for name in self.keys & properties.keys():
                properties[name] = {**properties[name], "writeOnly": True}
        return copy

    def drop(self, value: Any, path: str | None = None) -> Any:
        """A copy of a JSON value in which nothing stands in the place of what is secret."""
        if self.hides(path):
            return None
        if isinstance(value, dict):
            return {key: self.drop(item) for key, item in value.items() if key not in self.keys}
        return [self.drop(item) for item in value] if isinstance(value, list) else value

    def hide(self, value: Any, path: str | None = None) -> Any:
        """A copy of a JSON value, given by the node at `path`, with what is secret replaced by words."""
        if self.hides(path):
            return HIDDEN
        return self._without(value) if self.keys else value

    def _without(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: HIDDEN if key in self.keys else self._without(item) for key, item in value.items()}
        return [self._without(item) for item in value] if isinstance(value, list) else value

    def texts(self, value: Any, path: str | None = None) -> Iterator[str]:
        """The secret texts and numbers in a JSON value."""
        if self.hides(path):
            yield from _leaves(value)
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from _leaves(item) if key in self.keys else self.texts(item)
        elif isinstance(value, list):
            for item in value:
                yield from self.texts(item)


def given(path: str) -> str:
    """Stands for what the node at a path gets, where its own path stands for what it gives."""
    return f"{path}<"


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """A message without the secret texts that it quotes."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        for quoted in {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}:
            text = text.replace(quoted, HIDDEN)
    return text


def cleaned(value: Any, secrets: Secrets, texts: Collection[str]) -> Any:
    """A JSON value of a log line: without what is under a secret key, and without the secret texts and numbers."""
    if isinstance(value, dict):
        hidden = secrets.keys
        return {key: HIDDEN if key in hidden else cleaned(item, secrets, texts) for key, item in value.items()}
    if isinstance(value, list):
        return [cleaned(item, secrets, texts) for item in value]
    if isinstance(value, str):
        return scrubbed(value, texts)
    return HIDDEN if str(value) in texts else value


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    elif value is not None and not isinstance(value, bool) and len(str(value)) >= _SHORTEST:
        yield str(value)


@lru_cache(maxsize=1024)
def marked(annotation: Any) -> Secrets:
    """What an annotation marks: the names of its secret fields; the path "" when it is a secret without a name."""
    if annotation is Any or annotation is None:
        return Secrets()
    keys: set[str] = set()
    _Search(keys).visit(external(annotation).core_schema, frozenset())
    return Secrets(frozenset(keys - {""}), frozenset(keys & {""}))


class _Search:
    """Goes through a schema; `keys` gets the names of what is secret, "" for what has none."""

    def __init__(self, keys: set[str]) -> None:
        self._keys = keys
        self._known: set[tuple[str, frozenset[str]]] = set()
        self._definitions: dict[str, Any] = {}

    def visit(self, schema: Any, names: frozenset[str]) -> None:
        if isinstance(schema, list | tuple):
            for part in schema:
                self.visit(part, names)
        elif isinstance(schema, Mapping):
            self._visit_mapping(schema, names)

    def _visit_mapping(self, schema: Mapping[str, Any], names: frozenset[str]) -> None:
        if is_secret(schema) or schema.get("metadata", {}).get(_MARK):
            self._keys |= names or {""}
            return
        for definition in schema.get("definitions", ()):
            self._definitions[definition.get("ref", "")] = definition
        reference = schema.get("schema_ref") if schema.get("type") == "definition-ref" else None
        if reference and (reference, names) not in self._known:
            self._known.add((reference, names))
            self.visit(self._definitions.get(reference), names)
        for key, part in schema.items():
            if key == "fields" and isinstance(part, Mapping):  # of a model or a typed dictionary
                for name, field in part.items():
                    self.visit(field, _names(field, name))
            elif key == "schema" and isinstance(schema.get("name"), str):  # of a dataclass or a named tuple
                self.visit(part, _names(schema, schema["name"]))
            elif key not in ("metadata", "serialization", "definitions"):
                self.visit(part, names)


def _names(field: Mapping[str, Any], name: str) -> frozenset[str]:
    """The name a field is stored under, and those under which it comes from outside."""
    alias = field.get("validation_alias", field.get("alias"))
    return frozenset({name, alias} if isinstance(alias, str) else {name})


@lru_cache(maxsize=1024)
def secrets_of(pipeline: Pipeline, context_model: Any, declared: frozenset[str] = frozenset()) -> Secrets:
    """All that a pipeline marks: in the annotations of its steps, answers, signals and context, and as declared."""
    found = marked(pipeline.input_type) | marked(context_model) | Secrets(declared)
    return found | _sequence([(node.name, node) for node in pipeline.nodes], "", gets_secret=bool(found.paths))


def _sequence(parts: Iterable[tuple[str, Node]], prefix: str, *, gets_secret: bool) -> Secrets:
    """What nodes mark that follow one another; `gets_secret`: the first one gets a secret without a name."""
    found, before = Secrets(), ""
    for segment, node in parts:
        path = prefix + segment
        here = _node(node, path, gets_secret=gets_secret)
        if gets_secret or here.hides(given(path)):
            here |= Secrets(paths=frozenset({given(path), before} - {""}))
        found, before, gets_secret = found | here, path, here.hides(path)
    return found


def _node(node: Node, path: str, *, gets_secret: bool) -> Secrets:
    found = _named(marked(node.output), path)
    if isinstance(node, Step):
        return found | _named(marked(node.signature.input), given(path))
    if isinstance(node, HumanStep):
        found |= _named(marked(node.answer_type), path)
        rejected = node.on_reject.nodes if node.on_reject is not None else ()
        found |= _sequence([(part.name, part) for part in rejected], f"{path}/", gets_secret=gets_secret)
    elif isinstance(node, Construct) and node.kind in _IN_ORDER:
        found |= _sequence(node.parts(), f"{path}/", gets_secret=gets_secret)
    elif isinstance(node, Construct):
        for part in node.parts():
            found |= _sequence([part], f"{path}/", gets_secret=gets_secret)
    inside = any(place.startswith(f"{path}/") and not place.endswith("<") for place in found.paths)
    return found | Secrets(paths=frozenset({path} if inside or gets_secret else ()))


def secret_texts(document: RunDocument, secrets: Secrets) -> set[str]:
    """The secret texts in all values of a run."""
    start = document.start
    values: list[tuple[str | None, str]] = [("", start.input), (None, start.context)]
    for checkpoint in document.checkpoints():
        values += [(checkpoint.path, checkpoint.output), (None, checkpoint.context_changes or "null")]
    values += [(signal.taken_by or None, signal.data) for signal in document.waiting_signals()]
    return {found for path, text in values for found in secrets.texts(json.loads(text), path)}


def _named(found: Secrets, path: str) -> Secrets:
    """A secret without a name, by the path of the node that gives or gets it."""
    return Secrets(found.keys, frozenset({path} if found.paths else ()))
