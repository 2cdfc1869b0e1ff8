"""The registry: versions in their order, one shape under one name and version, and refusals that say what there is."""

from __future__ import annotations

import random
from typing import Any

import pytest
from flujo import Pipeline, PipelineRegistry, Step, step
from flujo.errors import PipelineConflict, PipelineDefinitionError, PipelineNotFound


@step
async def first(value: int) -> int:
    return value


@step
async def second(value: int) -> int:
    return value


# The example of https://semver.org, item 11, and what lies around it.
IN_ORDER = [
    "0.9.9",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0-1",
    "2.0.0",
    "10.0.0",
]


def registry_of(*versions: str) -> PipelineRegistry:
    registry = PipelineRegistry()
    for version in versions:
        registry.register(first, name="demo", version=version)
    return registry


@pytest.mark.parametrize("seed", range(5))
def test_versions_are_newest_first_by_semantic_version(seed: int) -> None:
    shuffled = random.Random(seed).sample(IN_ORDER, len(IN_ORDER))
    assert registry_of(*shuffled).versions("demo") == IN_ORDER[::-1]


@pytest.mark.parametrize("latest", [None, "latest"])
def test_latest_is_the_newest_version(latest: str | None) -> None:
    assert registry_of("1.9.0", "1.10.0", "1.10.0-rc.1").get("demo", latest).version == "1.10.0"
    assert registry_of("1.0.0", "2.0.0-beta").get("demo", latest).version == "2.0.0-beta"


@pytest.mark.parametrize("version", ["", "one", "1.0.0.0", "v1", "1.0-", "1..0", " 1.0.0", "latest"])
def test_version_that_is_none_is_refused(version: str) -> None:
    with pytest.raises(PipelineDefinitionError, match="no semantic version such as"):
        registry_of(version)


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a\n", "ä", "a" * 201])
def test_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(PipelineDefinitionError, match="no pipeline name"):
        PipelineRegistry().register(first, name=name, version="1.0.0")


def test_same_name_and_version_with_another_shape_is_refused() -> None:
    registry = registry_of("1.0.0")
    with pytest.raises(PipelineConflict, match=r"demo 1\.0\.0 is registered with a different shape"):
        registry.register(first >> second, name="demo", version="1.0.0")
    assert len(registry.get("demo").pipeline) == 1, "the first one stays"


def test_same_shape_again_is_welcome() -> None:
    registry = registry_of("1.0.0")
    again = registry.register(Pipeline([first]), name="demo", version="1.0.0", description="reloaded")
    assert registry.get("demo", "1.0.0") is again
    assert registry.versions("demo") == ["1.0.0"]


def test_same_shape_under_two_versions_is_welcome() -> None:
    assert registry_of("1.0.0", "1.1.0").versions("demo") == ["1.1.0", "1.0.0"]


def test_bare_step_is_a_pipeline_of_one() -> None:
    entry = PipelineRegistry().register(first, name="demo", version="1.0.0")
    assert [node.name for node in entry.pipeline.nodes] == ["first"]
    assert entry.fingerprint == Pipeline([first]).fingerprint


def test_plain_function_and_empty_pipeline_are_refused() -> None:
    plain: Any = len
    with pytest.raises(PipelineDefinitionError, match="decorate the function with @step"):
        PipelineRegistry().register(plain, name="demo", version="1.0.0")
    with pytest.raises(PipelineDefinitionError, match="has no steps"):
        PipelineRegistry().register(Pipeline([]), name="demo", version="1.0.0")


def test_unknown_name_and_version_say_what_there_is() -> None:
    registry = registry_of("1.0.0", "1.1.0")
    registry.register(second, name="another", version="1.0.0")
    with pytest.raises(PipelineNotFound, match=r"No pipeline is named 'demon'\. Registered: another, demo\."):
        registry.get("demon")
    with pytest.raises(PipelineNotFound, match=r"demo has no version 2\.0\.0\. Registered: 1\.1\.0, 1\.0\.0\."):
        registry.get("demo", "2.0.0")
    with pytest.raises(PipelineNotFound, match="Registered: none"):
        PipelineRegistry().get("demo")
    assert registry.names() == ["another", "demo"]
    assert registry.versions("demon") == []


class Unknown:
    """No pydantic type."""


def test_type_that_pydantic_does_not_know_is_refused_when_registering() -> None:
    @step
    async def makes(value: int) -> dict[str, Unknown]:
        return {}

    @step
    async def takes(value: list[range]) -> int:
        return 1

    registry = PipelineRegistry()
    with pytest.raises(PipelineDefinitionError, match=r"'makes' names a type that is not stored: .*Unknown"):
        registry.register(makes, name="p", version="1.0.0")
    with pytest.raises(PipelineDefinitionError, match=r"'takes' names a type that is not stored: .*range"):
        registry.register(Step.map_over("each", takes), name="p", version="1.0.0")
    assert registry.names() == []
