"""The pipeline context: what a run carries from step to step, stored as changes and folded again."""

from __future__ import annotations

import json
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from flujo import canonical
from flujo.errors import InvalidInput
from flujo.stored_type import SECRETS, said, stored_type


class PipelineContext(BaseModel):
    """A run's own fields. Subclass it; fields that are not declared are refused, and so are values of another type.

    `run_id` is unique in a store: 1 to 128 letters, digits, dots, dashes and underscores.
    """

    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True)

    run_id: str = ""


Fields = dict[str, Any]


def initial(model: type[PipelineContext], data: dict[str, Any]) -> PipelineContext:
    """The context of a new run. Raises `InvalidInput` naming each field that does not fit `model`."""
    given = {name: value.get_secret_value() if isinstance(value, SECRETS) else value for name, value in data.items()}
    try:
        return model.model_validate_json(canonical.encode(given, where="context"), by_alias=True, by_name=True)
    except ValidationError as error:
        raise _misfit(model, error) from error


def restore(model: type[PipelineContext], fields: Fields) -> PipelineContext:
    """The context of a stored run. Raises `InvalidInput` when the stored fields no longer fit `model`."""
    return _loaded(model, canonical.dump(fields, where="context"))


def restore_stored(model: type[PipelineContext], fields: Fields) -> PipelineContext:
    """As `restore`, of fields that come from a store and nowhere else: nothing in them is outside the value domain."""
    return _loaded(model, to_json(fields))


def _loaded(model: type[PipelineContext], text: str | bytes) -> PipelineContext:
    try:
        return cast(PipelineContext, stored_type(model).load(text))
    except ValidationError as error:
        raise _misfit(model, error) from error


def _misfit(model: type[PipelineContext], error: ValidationError) -> InvalidInput:
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    return InvalidInput(f"The context does not fit {model.__name__}: {said(error, 'value')}", errors=errors)


def fields_of(context: PipelineContext) -> Fields:
    """The context's fields as JSON values, each checked against the value domain."""
    text = canonical.encode(context, type(context), where="context")
    fields: Fields = json.loads(text)
    return fields


def changes(before: Fields, after: Fields) -> Fields:
    """What turns `before` into `after`: fields set or dropped, keys added to dicts, items appended to lists."""
    delta: Fields = {"set": {}, "add": {}, "append": {}, "drop": sorted(before.keys() - after.keys())}
    for name, value in after.items():
        old: Any = before.get(name)
        if name in before and _same(old, value):
            continue
        if name in before and _grew_dict(old, value):
            delta["add"][name] = {key: value[key] for key in value.keys() - old.keys()}
        elif name in before and _grew_list(old, value):
            delta["append"][name] = value[len(old) :]
        else:
            delta["set"][name] = value
    return {kind: part for kind, part in delta.items() if part}


def fold(fields: Fields, delta: Fields) -> Fields:
    """`fields` with the changes of one checkpoint applied; the argument is left as it was."""
    after = {name: value for name, value in fields.items() if name not in delta.get("drop", [])}
    after |= delta.get("set", {})
    for name, added in delta.get("add", {}).items():
        after[name] = {**after[name], **added}
    for name, items in delta.get("append", {}).items():
        after[name] = [*after[name], *items]
    return after


def _grew_dict(old: Any, new: Any) -> bool:
    return (
        isinstance(old, dict)
        and isinstance(new, dict)
        and len(old) > 0
        and old.keys() <= new.keys()
        and all(_same(new[key], value) for key, value in old.items())
    )


def _grew_list(old: Any, new: Any) -> bool:
    return isinstance(old, list) and isinstance(new, list) and 0 < len(old) < len(new) and _same(new[: len(old)], old)


def _same(left: Any, right: Any) -> bool:
    """Equality that tells 1 from True and 1.0, as the stored bytes do."""
    if type(left) is str and type(right) is str:  # which may be long
        return left == right
    return canonical.dump(left) == canonical.dump(right)
