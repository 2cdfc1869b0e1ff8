"""The annotations of a step function: what it takes, what it gives, and whether two neighbours fit."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Union

from pydantic import BaseModel

from flujo.context import PipelineContext
from flujo.errors import PipelineDefinitionError
from flujo.step_context import StepContext


@dataclass(frozen=True, slots=True)
class Signature:
    """How to call a step function. `input` is None when it takes no input; `Any` when it is not annotated."""

    takes_input: bool
    input: Any
    output: Any
    context_parameter: str | None
    context_model: type[PipelineContext] | None
    step_context_parameter: str | None


def signature_of(function: Callable[..., Any], namespace: dict[str, Any]) -> Signature:
    """Read a step function's signature; `namespace` holds the names visible where it was defined.

    A parameter annotated with a `PipelineContext` or named `context` takes the context, one annotated with
    `StepContext` or named `ctx` the step context, the first other one the input.
    """
    try:
        hints = typing.get_type_hints(function, localns=namespace, include_extras=True)
    except NameError as error:
        raise PipelineDefinitionError(
            f"Step {function.__name__!r}: its annotations name {error.name!r}, which is not defined there."
        ) from error
    context = step_context = None
    model: type[PipelineContext] | None = None
    inputs: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name, Any)
        if hint is StepContext or (hint is Any and parameter.name == "ctx"):
            step_context = parameter.name
        elif inspect.isclass(hint) and issubclass(hint, PipelineContext):
            context, model = parameter.name, hint
        elif hint is Any and parameter.name == "context":
            context = parameter.name
        else:
            inputs.append(parameter.name)
    _check_inputs(function, inputs)
    return Signature(
        takes_input=bool(inputs),
        input=hints.get(inputs[0], Any) if inputs else None,
        output=hints.get("return", Any),
        context_parameter=context,
        context_model=model,
        step_context_parameter=step_context,
    )


def _check_inputs(function: Callable[..., Any], names: list[str]) -> None:
    parameters = inspect.signature(function).parameters
    surplus = [name for name in names[1:] if parameters[name].default is inspect.Parameter.empty]
    if surplus:
        raise PipelineDefinitionError(
            f"Step {function.__name__!r} takes {', '.join(names)}. A step takes one input, besides its context "
            "(annotate it with your PipelineContext) and its step context (annotate it with StepContext)."
        )


def fits(output: Any, wanted: Any) -> bool:
    """Whether a value annotated `output` can be the input annotated `wanted`; True where annotations don't tell."""
    output, wanted = _bare(output), _bare(wanted)
    if Any in (output, wanted) or wanted is object or output == wanted:
        return True
    if _is_union(output):
        return all(fits(member, wanted) for member in typing.get_args(output))
    if _is_union(wanted):
        return any(fits(output, member) for member in typing.get_args(wanted))
    origins = (_class_of(output), _class_of(wanted))
    if not all(inspect.isclass(origin) for origin in origins):
        return True
    return _classes_fit(*origins) and _arguments_fit(output, wanted)


def _class_of(annotation: Any) -> Any:
    """The class behind an annotation; that of a TypedDict, which cannot be asked for its subclasses, is dict."""
    return dict if typing.is_typeddict(annotation) else typing.get_origin(annotation) or annotation


def _classes_fit(output: type, wanted: type) -> bool:
    if getattr(wanted, "_is_protocol", False) or issubclass(output, wanted):  # a protocol's methods are not looked at
        return True
    if issubclass(output, int) and wanted in (float, Decimal):
        return True
    sequences = (list, tuple, set, frozenset)
    if issubclass(output, sequences):
        return issubclass(wanted, sequences) or wanted.__module__ in ("collections.abc", "typing")
    return issubclass(output, dict) and (issubclass(wanted, BaseModel) or hasattr(wanted, "__annotations__"))


def _arguments_fit(output: Any, wanted: Any) -> bool:
    given, asked = typing.get_args(output), typing.get_args(wanted)
    if typing.get_origin(output) is not typing.get_origin(wanted) or len(given) != len(asked):
        return True
    return all(fits(left, right) for left, right in zip(given, asked, strict=True))


def _bare(annotation: Any) -> Any:
    if annotation is None:
        return type(None)
    return _bare(typing.get_args(annotation)[0]) if typing.get_origin(annotation) is typing.Annotated else annotation


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType)


def item_of(annotation: Any) -> Any:
    """The annotation of a list's items; `Any` when unknown."""
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is list else Any
