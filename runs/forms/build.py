"""The step from a schema to fields: which class asks for which kind of value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from runs.forms.choices import Checkbox, Choice, Constant, YesNo
from runs.forms.field import MAX_INPUTS, Field, Leaf, Scene
from runs.forms.files import FileField
from runs.forms.groups import Composite, Group, Tuple, Union
from runs.forms.moments import Date, DateTime, Time
from runs.forms.rows import MAX_ROWS, Presence, Rows
from runs.forms.spec import MISSING, Definitions, Spec
from runs.forms.texts import DecimalNumber, Integer, Json, Number, Secret, Text

MAX_DEPTH = 8
_LEAVES: Final[dict[str, type[Leaf | FileField]]] = {
    "text": Text,
    "integer": Integer,
    "number": Number,
    "decimal": DecimalNumber,
    "secret": Secret,
    "choice": Choice,
    "constant": Constant,
    "date": Date,
    "datetime": DateTime,
    "time": Time,
    "upload": FileField,
}
_COMPOSITES: Final[dict[str, type[Group | Rows | Tuple | Union]]] = {
    "object": Group,
    "rows": Rows,
    "tuple": Tuple,
    "union": Union,
}


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Makes the fields of one form, from a place in it."""

    definitions: Definitions
    scene: Scene
    depth: int = 0
    blank_depth: int = 0
    inside_union: bool = False

    def fresh(self, *, more_blank: int = 0) -> Builder:
        """A builder for a row that nothing was posted for yet."""
        scene = replace(self.scene, data=None, files=None, inputs=0)
        return replace(self, scene=scene, blank_depth=self.blank_depth + more_blank)

    def in_union(self) -> Builder:
        """A builder for a union's model: unions in it show the chosen model only."""
        return replace(self, inside_union=True)

    def field(self, schema: Any, *, label: str, name: str, required: bool, initial: Any = MISSING) -> Field:
        """The field for a schema as it stands in its parent."""
        return self.from_spec(self.definitions.spec(schema, name=label, required=required), name=name, initial=initial)

    def from_spec(self, spec: Spec, *, name: str, initial: Any = MISSING) -> Field:
        """The field for a described schema."""
        if spec.kind in _COMPOSITES:
            return self._composite(spec, name, initial)
        if spec.kind == "boolean":
            stated = spec.nullable or spec.default is MISSING
            return (YesNo if stated else Checkbox)(spec, name=name, scene=self.scene, initial=initial)
        if spec.kind in _LEAVES:
            return _LEAVES[spec.kind](spec, name=name, scene=self.scene, initial=initial)
        return self._json(spec, name, initial)

    def _composite(self, spec: Spec, name: str, initial: Any) -> Field:
        if self.depth >= MAX_DEPTH:
            return self._json(spec, name, initial, f"It is nested more than {MAX_DEPTH} levels deep.")
        if self.scene.text(name) is not None or (isinstance(initial, list) and len(initial) > MAX_ROWS):
            return self._json(spec, name, initial, f"It has more than {MAX_ROWS} rows, too many for single fields.")
        before = self.scene.inputs
        field = self._fields(spec, name, initial)
        if self.scene.data is None and self.scene.inputs > MAX_INPUTS and spec.kind == "rows":
            self.scene.inputs = before
            return self._json(spec, name, initial, "It has too many values for single fields.")
        return field

    def _fields(self, spec: Spec, name: str, initial: Any) -> Composite:
        if spec.nullable or (spec.may_be_absent and spec.kind != "rows"):
            return Presence(spec, name=name, scene=self.scene, initial=initial, builder=self)
        deeper = replace(self, depth=self.depth + 1)
        return _COMPOSITES[spec.kind](spec, name=name, scene=self.scene, initial=initial, builder=deeper)

    def _json(self, spec: Spec, name: str, initial: Any, note: str = "") -> Json:
        secret = self.definitions.holds_secret(spec.schema)
        return Json(spec, name=name, scene=self.scene, initial=initial, secret=secret, note=note)
