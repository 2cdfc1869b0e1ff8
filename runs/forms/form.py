"""A form made from a stored JSON Schema, so that an old question still renders when its model is gone or changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.http import QueryDict
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from runs.forms import names
from runs.forms.build import Builder
from runs.forms.field import Field, Files, Scene
from runs.forms.groups import Composite, Group
from runs.forms.spec import MISSING, Definitions, Missing
from runs.uploads import User


class Problem(NamedTuple):
    """One line of the error summary; `id` is empty when no field is to blame."""

    id: str
    label: str
    message: str


class SchemaForm:
    """A server-rendered form for the values a stored JSON Schema describes.

    Bound to `data`, `is_valid()` turns the posted texts into the JSON-ready `value`, which the engine validates with
    the pydantic model; what it refuses comes back through `add_errors()`. Give the same `initial` when rendering and
    when reading: a control that was not touched then gives back the stored value itself. `user` owns the uploads.
    """

    def __init__(
        self,
        schema: Mapping[str, Any],
        *,
        data: QueryDict | None = None,
        files: Files | None = None,
        initial: Any = None,
        prefix: str = "f",
        disabled: bool = False,
        user: User | None = None,
    ) -> None:
        self.prefix = prefix
        self.disabled = disabled
        self.scene = Scene(data=data, files=files, user=user, disabled=disabled)
        self.definitions = Definitions(schema)
        self.general_errors: list[str] = []
        self._value: Any = MISSING
        self._read = False
        self.root = self._root(schema, MISSING if initial is None else initial)

    def _root(self, schema: Mapping[str, Any], initial: Any) -> Field:
        builder = Builder(definitions=self.definitions, scene=self.scene)
        spec = self.definitions.spec(schema, name="")
        if spec.kind == "object" and not spec.nullable:
            return builder.from_spec(spec, name=self.prefix, initial=initial)
        return builder.from_spec(spec, name=names.child(self.prefix, "value"), initial=initial)

    @property
    def is_bound(self) -> bool:
        return self.scene.data is not None

    @property
    def is_multipart(self) -> bool:
        """Whether the page's form needs `enctype="multipart/form-data"`."""
        return self.definitions.holds_upload()

    @property
    def is_row_action(self) -> bool:
        """Whether a button of the form itself was pressed (add, remove): render again, decide nothing."""
        words = (names.ADD, names.REMOVE, names.REFRESH)
        return self.scene.data is not None and any(
            name.startswith((f"{self.prefix}-", f"{self.prefix}.")) and name.rpartition(".")[2] in words
            for name in self.scene.data
        )

    def is_valid(self) -> bool:
        """Read what was posted. False for an unbound form, for a row action, and when a text cannot be read."""
        if not self.is_bound or self.disabled or self.is_row_action:
            return False
        if not self._read:
            self._read = True
            self._value = self.root.value()
        return not any(field.errors for _label, field in self._fields())

    @property
    def value(self) -> Any:
        """The JSON-ready answer of a valid form."""
        if not self._read or isinstance(self._value, Missing):
            raise ValueError("Only a form for which is_valid() gave True has a value.")
        return self._value

    def add_errors(self, errors: Iterable[Mapping[str, Any]]) -> None:
        """Show pydantic's errors at the fields their locations name; what no field answers for goes to the summary."""
        for error in errors:
            field, rest = self._locate(error.get("loc") or ())
            message = _message(error)
            if field is None:
                self.general_errors.append(message)
                continue
            if rest and not isinstance(field, Composite):
                message = f"{message} (at {'.'.join(str(part) for part in rest)})"
            if message not in field.errors:
                field.errors.append(message)

    def _locate(self, location: Sequence[str | int]) -> tuple[Field | None, Sequence[str | int]]:
        """The innermost field on the way of a location, and what of the location lies beyond it."""
        field, rest = self.root.face(), list(location)
        while rest and (inner := field.at(rest[0])) is not None:
            field, rest = inner.face(), rest[1:]
        return (None if field is self.root and isinstance(field, Group) else field), rest

    @property
    def errors_summary(self) -> list[Problem]:
        """Every error, in the order of the page, with the id of the control it belongs to."""
        general = [Problem("", "", message) for message in self.general_errors]
        return general + [
            Problem(field.id, label, message) for label, field in self._fields() for message in field.errors
        ]

    @property
    def has_row_actions(self) -> bool:
        """Whether the form has buttons of its own, which Enter in a field must not press."""
        return self.scene.row_actions and not self.disabled

    @property
    def has_script(self) -> bool:
        """Whether a script makes the form nicer."""
        return self.has_row_actions or self.scene.unions

    @property
    def refresh_name(self) -> str:
        return names.control(self.prefix, names.REFRESH)

    @property
    def fields(self) -> list[Field]:
        """The fields of the page's top level."""
        return self.root.parts() if isinstance(self.root, Group) else [self.root]

    def _fields(self) -> list[tuple[str, Field]]:
        return [found for field in self.fields for found in field.within()]

    def render(self) -> SafeString:
        """The form's fields as HTML, without the `<form>` element around them."""
        return render_to_string("forms/_form.html", {"form": self})


def _message(error: Mapping[str, Any]) -> str:
    """pydantic's sentence, without the prefix it puts before a validator's own."""
    message = str(error.get("msg", "")).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message or "This value is not accepted."
