"""The pipelines that a process knows, by name and version."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from pydantic import PydanticUserError, ValidationError

from flujo import canonical
from flujo.admission import check_bound, checked_priority, key_in_bounds
from flujo.context import PipelineContext
from flujo.errors import (
    InvalidInput,
    PipelineConflict,
    PipelineDefinitionError,
    PipelineNotFound,
    SignalUnknown,
    UnstorableValue,
)
from flujo.migration import Migrate
from flujo.paths import MAX_PATH
from flujo.pipeline import Node, Pipeline
from flujo.records import RunHead
from flujo.redaction import Secrets, secrets_of
from flujo.status import OnChange
from flujo.step import Step
from flujo.stored_type import external
from flujo.waits import SignalStep

_VERSION = re.compile(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,199}")
LATEST = "latest"


@dataclass(frozen=True, slots=True)
class RegisteredPipeline:
    """A pipeline under its name and version."""

    name: str
    version: str
    pipeline: Pipeline
    context_model: type[PipelineContext]
    description: str = ""
    priority: int = 0
    on_change: OnChange = OnChange.REFUSE
    max_concurrency: int | None = None
    concurrency_key: Callable[[Any], str] | None = None
    secret_keys: frozenset[str] = frozenset()

    @property
    def secrets(self) -> Secrets:
        """What its annotations and `secret_keys` mark as secret."""
        return secrets_of(self.pipeline, self.context_model, self.secret_keys)

    @property
    def fingerprint(self) -> str:
        """The digest of its shape: names, kinds and order of its steps."""
        return self.pipeline.fingerprint

    @property
    def input_type(self) -> Any:
        """The annotation of the first step's input: `Any` without one, None when it takes none."""
        return self.pipeline.input_type

    def input_schema(self) -> dict[str, Any] | None:
        """The JSON Schema of the input; None when the first step takes none or does not annotate it."""
        if self.input_type is None or self.input_type is Any:
            return None
        schema: dict[str, Any] = Secrets(self.secret_keys).mark(
            external(self.input_type).json_schema(mode="validation")
        )
        return schema

    def key_for(self, encoded_input: str) -> str:
        """Among which runs one on this input is counted; "" where any number may run. Raises `InvalidInput`."""
        if self.max_concurrency is None:
            return ""
        if self.concurrency_key is None:
            return self.name
        annotation = Any if self.input_type is None else self.input_type
        try:
            key = self.concurrency_key(canonical.decode(encoded_input, annotation))
        except Exception as error:  # the seam to user code
            raise InvalidInput(f"The concurrency key of {self.name} failed: {error!r}", errors=[]) from error
        return key_in_bounds(self.name, key)

    def encode_input(self, value: Any) -> str:
        """The canonical JSON of a valid input. Raises `InvalidInput` with pydantic's `errors` in its details."""
        annotation = Any if self.input_type is None else self.input_type
        try:
            return canonical.take(value, annotation, where="input")
        except ValidationError as error:
            errors = json.loads(error.json(include_url=False, include_input=False, include_context=False))
            said = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'input'}: {item['msg']}" for item in errors)
            raise InvalidInput(f"The input does not fit {self.name}: {said}", errors=errors) from error
        except UnstorableValue as error:
            raise InvalidInput(error.message, errors=[{"loc": [], "msg": error.message, "type": error.code}]) from error

    def signal_step(self, name: str) -> SignalStep:
        """The step that waits for the signal `name`. Raises `SignalUnknown`."""
        for node in self.pipeline.every_node():
            if isinstance(node, SignalStep) and node.name == name:
                return node
        raise SignalUnknown(f"{self.name} {self.version} waits for no signal named {name!r}.")


class PipelineRegistry:
    """Pipelines by name and semantic version."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, RegisteredPipeline]] = {}
        self._migrations: dict[tuple[str, str], dict[str, Migrate]] = {}

    def copy(self) -> PipelineRegistry:
        """Another registry of the same pipelines and migrations; what is registered in one is not in the other."""
        other = PipelineRegistry()
        other._known = {name: dict(versions) for name, versions in self._known.items()}
        other._migrations = {start: dict(found) for start, found in self._migrations.items()}
        return other

    def register(
        self,
        pipeline: Node | Pipeline,
        *,
        name: str,
        version: str,
        context_model: type[PipelineContext] | None = None,
        description: str = "",
        priority: int = 0,
        on_change: OnChange | str = OnChange.REFUSE,
        max_concurrency: int | None = None,
        concurrency_key: Callable[[Any], str] | None = None,
        secret_keys: Collection[str] = (),
    ) -> RegisteredPipeline:
        """Register a pipeline, or a bare step as a pipeline of one, under a name and a semantic version.

        `context_model` is that of its steps unless given; `description` is what the console shows.
        `priority`, from -1000 to 1000, is that of its runs where a start gives none: workers take higher ones first.
        `on_change` of the newest version says what happens to unfinished runs whose own code is not registered:
        "refuse" parks them for an operator, "pin" leaves them to a process that has their version, "migrate" moves them
        by a registered `migration` to the newest version that has one.
        At most `max_concurrency` of its runs hold a lease at once, in all processes together; with `concurrency_key`, a
        function of the input that gives a text, so many for each key. The others stay queued.
        Values under one of the `secret_keys`, at any depth, are hidden wherever values are shown, like those whose
        annotations say so.

        Raises `PipelineConflict` when the name and version are taken by a pipeline of another shape, and
        `PipelineDefinitionError` for a name, a version, a bound or a policy that is none, and for a step annotated with
        a type that pydantic does not know.
        """
        if not _NAME.fullmatch(name):
            raise PipelineDefinitionError(f"{name!r} is no pipeline name: use letters, digits, dots and dashes.")
        _order(version)
        built = Pipeline.of(pipeline)
        if not built.nodes:
            raise PipelineDefinitionError(f"Pipeline {name!r} has no steps.")
        if not _paths_fit(built):
            raise PipelineDefinitionError(
                f"Pipeline {name!r} is nested so deeply that a path would be longer than {MAX_PATH} characters. "
                "Give its steps shorter names."
            )
        check_bound(name, max_concurrency, concurrency_key)
        for node in built.every_node():
            _check_types(node)
        entry = RegisteredPipeline(
            name,
            version,
            built,
            context_model or built.context_model,
            description,
            checked_priority(priority),
            _policy(on_change),
            max_concurrency,
            concurrency_key,
            frozenset(secret_keys),
        )
        known = self._known.setdefault(name, {})
        if version in known and known[version].fingerprint != entry.fingerprint:
            raise PipelineConflict(
                f"{name} {version} is registered with a different shape. Give the changed pipeline a new version."
            )
        known[version] = entry
        return entry

    def get(self, name: str, version: str | None = None) -> RegisteredPipeline:
        """The pipeline of this name and version; without a version, or with "latest", the newest."""
        versions = self._known.get(name)
        if not versions:
            known = ", ".join(self.names()) or "none"
            raise PipelineNotFound(f"No pipeline is named {name!r}. Registered: {known}.")
        if version is None or version == LATEST:
            version = self.versions(name)[0]
        if version not in versions:
            raise PipelineNotFound(f"{name} has no version {version}. Registered: {', '.join(self.versions(name))}.")
        return versions[version]

    def migration(self, name: str, from_version: str, to_version: str) -> Callable[[Migrate], Migrate]:
        """Decorate the function that says where a run of `from_version` stands in `to_version`.

        It is given a `StoredRun` and gives `Migrated`, or None when only the version changes. It writes nothing itself
        and may be called several times. Raises `PipelineConflict` when there is one already.
        """
        for version in (from_version, to_version):
            _order(version)

        def register(function: Migrate) -> Migrate:
            known = self._migrations.setdefault((name, from_version), {})
            if to_version in known:
                raise PipelineConflict(f"{name} has a migration from {from_version} to {to_version} already.")
            known[to_version] = function
            return function

        return register

    def migrations(self, name: str, from_version: str) -> list[tuple[RegisteredPipeline, Migrate]]:
        """The registered versions to which runs of a version can be migrated, newest first."""
        found = self._migrations.get((name, from_version), {})
        return [(self.get(name, version), found[version]) for version in self.versions(name) if version in found]

    def has(self, head: RunHead) -> bool:
        """Whether the code that a run was started with is registered: its name, its version, its fingerprint."""
        entry = self._known.get(head.pipeline, {}).get(head.version)
        return entry is not None and entry.fingerprint == head.fingerprint

    def names(self) -> list[str]:
        """The registered names, in alphabetical order."""
        return sorted(self._known)

    def versions(self, name: str) -> list[str]:
        """The registered versions of a name, newest first by semantic version."""
        return sorted(self._known.get(name, {}), key=_order, reverse=True)


def _paths_fit(pipeline: Pipeline) -> bool:
    try:
        return pipeline.longest_path() <= MAX_PATH
    except RecursionError:
        return False


def _check_types(node: Node) -> None:
    """Raise `PipelineDefinitionError` for an annotation whose values nobody could store."""
    taken = [node.signature.input] if isinstance(node, Step) else []
    for annotation in [*taken, node.output]:
        try:
            external(annotation)
        except PydanticUserError as error:
            if error.code == "class-not-fully-defined":
                continue  # it may be by the time a run starts
            why = error.message.partition(". ")[0]
            raise PipelineDefinitionError(f"{node.name!r} names a type that is not stored: {why}.") from error


def _policy(word: OnChange | str) -> OnChange:
    try:
        return OnChange(word)
    except ValueError as error:
        raise PipelineDefinitionError(f"on_change is {', '.join(OnChange)}, not {word!r}.") from error


def _order(version: str) -> tuple[Any, ...]:
    match = _VERSION.fullmatch(version)
    if match is None:
        raise PipelineDefinitionError(f"{version!r} is no semantic version such as 1.0.0 or 2.1.0-beta.1.")
    numbers = tuple(int(part or 0) for part in match.groups()[:3])
    pre = match.group(4)
    if pre is None:
        return (*numbers, 1, ())
    parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in pre.split("."))
    return (*numbers, 0, parts)
