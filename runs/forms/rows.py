"""The fields that repeat or may be missing: rows that are added and removed, with or without a script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runs.forms import names
from runs.forms.field import MAX_INPUTS, Field, Scene
from runs.forms.groups import Composite
from runs.forms.refused import Refused
from runs.forms.spec import MISSING, Spec

if TYPE_CHECKING:
    from runs.forms.build import Builder

MAX_ROWS = 200
_MAX_PREPARED = 20


@dataclass(frozen=True)
class Row:
    """One row: the key in its controls' names, which it keeps while others come and go, and its field."""

    key: str
    field: Field


class Rows(Composite):
    """A list: one row for each item."""

    template = "forms/_rows.html"
    most = MAX_ROWS

    def __init__(self, spec: Spec, *, name: str, scene: Scene, initial: Any, builder: Builder) -> None:
        super().__init__(spec, name=name, scene=scene, initial=initial)
        scene.row_actions = True
        self.builder = builder
        self.stored: list[Any] = self.stored_rows()
        self.rows: list[Row] = []
        keys = self.kept_keys()
        self.too_many = len(keys) > self.most
        for key in keys[: self.most]:
            self.append(key, self.row_field(builder, key))
        if scene.text(self.add_name) is not None:
            self.add()

    def append(self, key: str, field: Field) -> None:
        self.rows.append(Row(key, field))
        field.number = len(self.rows)

    def stored_rows(self) -> list[Any]:
        if isinstance(self.initial, list):
            return self.initial
        return [MISSING] * min(int(self.spec.schema.get("minItems", 0)), _MAX_PREPARED)

    def kept_keys(self) -> list[str]:
        """The keys of the rows on the page, without the one whose Remove button was pressed."""
        if self.scene.data is None:
            return [str(index) for index in range(len(self.stored))]
        posted = dict.fromkeys(key for key in self.scene.texts(self.row_name) if key.isdecimal() and len(key) < 7)
        posted.pop(self.scene.text(self.remove_name) or "", None)
        return list(posted)

    def row_field(self, builder: Builder, key: str) -> Field:
        index = int(key) if key.isdecimal() else len(self.stored)
        field = builder.field(
            self.spec.schema["items"],
            label=self.label,
            name=names.child(self.name, key),
            required=True,
            initial=self.stored[index] if index < len(self.stored) else MISSING,
        )
        field.in_row = True
        field.label = self.label
        return field

    def add(self) -> None:
        """Append the row an Add button asked for, unless the form is full."""
        if len(self.rows) >= self.most or self.scene.inputs >= MAX_INPUTS:
            self.errors.append(f"No more rows fit in this form: at most {self.most}.")
            return
        key = max([len(self.stored) - 1, *(int(row.key) for row in self.rows)]) + 1
        fresh = self.builder.fresh()
        field = self.row_field(fresh, str(key))
        self.scene.inputs += fresh.scene.inputs
        for inner in [inner for _label, inner in field.within() if not isinstance(inner, Composite)][:1]:
            inner.focus = True
        self.append(str(key), field)

    def parts(self) -> list[Field]:
        return [row.field for row in self.rows]

    def within(self) -> Iterator[tuple[str, Field]]:
        yield self.full_label, self
        for row in self.rows:
            yield from row.field.within()

    def read(self) -> Any:
        if self.too_many:
            raise Refused(f"At most {self.most} rows fit in this form.")
        if not self.rows and self.spec.may_be_absent and self.given is MISSING:
            return MISSING
        return [value for row in self.rows if (value := row.field.value()) is not MISSING]

    def at(self, segment: str | int) -> Field | None:
        return self.rows[segment].field if isinstance(segment, int) and segment < len(self.rows) else None

    @cached_property
    def blank_row(self) -> Row | None:
        """The row that the script clones; none inside rows that are themselves deeply cloned."""
        if self.scene.disabled or self.builder.blank_depth >= 2:
            return None
        fresh = self.builder.fresh(more_blank=1)
        key = f"__row{fresh.blank_depth}__"
        return Row(key, self.row_field(fresh, key))

    @property
    def help_lines(self) -> list[str]:
        least, most = self.spec.schema.get("minItems"), self.spec.schema.get("maxItems")
        size = f"At least {least}. " if least else ""
        size += f"At most {most}." if most is not None else ""
        about = self.spec.help or self.builder.definitions.resolve(self.spec.schema["items"]).get("description", "")
        return [line for line in (about, size.strip()) if line]

    @property
    def none_words(self) -> str:
        return "None yet." if not self.scene.disabled else "None."

    @property
    def full(self) -> bool:
        return len(self.rows) >= self.most

    @property
    def add_label(self) -> str:
        return f"Add to {self.label}"

    @property
    def row_name(self) -> str:
        return names.control(self.name, names.ROW)

    @property
    def add_name(self) -> str:
        return names.control(self.name, names.ADD)

    @property
    def remove_name(self) -> str:
        return names.control(self.name, names.REMOVE)


class Presence(Rows):
    """A model, list or union that may be null or left out: no row or one."""

    template = "forms/_presence.html"
    most = 1

    def stored_rows(self) -> list[Any]:
        return [] if self.initial is MISSING or self.initial is None else [self.initial]

    def row_field(self, builder: Builder, key: str) -> Field:
        inner = replace(self.spec, nullable=False, required=True, default=MISSING)
        stored = self.stored[0] if self.stored and key == "0" else MISSING
        return builder.from_spec(inner, name=names.child(self.name, key), initial=stored)

    def append(self, key: str, field: Field) -> None:
        self.rows.append(Row(key, field))

    def read(self) -> Any:
        if self.rows:
            return self.rows[0].field.value()
        if self.spec.nullable and not (self.spec.may_be_absent and self.given is MISSING):
            return None
        return MISSING

    def face(self) -> Field:
        return self.rows[0].field.face() if self.rows else self

    def within(self) -> Iterator[tuple[str, Field]]:
        return self.rows[0].field.within() if self.rows else super().within()

    def at(self, segment: str | int) -> Field | None:
        return self.rows[0].field.at(segment) if self.rows else None

    @property
    def required_word(self) -> str:
        return "optional"

    @property
    def help_lines(self) -> list[str]:
        return [self.spec.help] if self.spec.help else []

    @property
    def none_words(self) -> str:
        return "Not set."

    @property
    def add_label(self) -> str:
        return f"Add {self.label}"
