"""The fields made of a fixed set of fields: a nested model, a tuple, a discriminated union."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runs.forms import names
from runs.forms.choices import Choice
from runs.forms.field import Field, Scene
from runs.forms.spec import MISSING, Spec, Variant
from runs.forms.texts import Json

if TYPE_CHECKING:
    from runs.forms.build import Builder


class Composite(Field):
    """A field made of fields."""

    template = "forms/_fieldset.html"
    body_template = "forms/_group.html"

    def parts(self) -> list[Field]:
        """The fields inside, in the order of the page."""
        raise NotImplementedError

    @property
    def fields(self) -> list[Field]:
        return self.parts()

    @property
    def fieldset(self) -> bool:
        return True

    @property
    def help_lines(self) -> list[str]:
        return [] if self.in_row else super().help_lines  # the list says it once for all rows

    def within(self) -> Iterator[tuple[str, Field]]:
        yield self.full_label, self
        for part in self.parts():
            for label, field in part.within():
                yield f"{self.full_label}: {label}", field


class Group(Composite):
    """A nested model: one field for each property."""

    def __init__(
        self, spec: Spec, *, name: str, scene: Scene, initial: Any, builder: Builder, without: str | None = None
    ) -> None:
        super().__init__(spec, name=name, scene=scene, initial=initial)
        values: Mapping[str, Any] = self.initial if isinstance(self.initial, Mapping) else {}
        required = spec.schema.get("required", [])
        self.properties: dict[str, Field] = {
            key: builder.field(
                part, label=key, name=names.child(name, key), required=key in required, initial=values.get(key, MISSING)
            )
            for key, part in spec.schema["properties"].items()
            if key != without
        }
        self.named = {*self.properties, without}
        self.others = self._others(builder, values) if spec.schema.get("additionalProperties") else None

    def _others(self, builder: Builder, values: Mapping[str, Any]) -> Json:
        more = self.spec.schema["additionalProperties"]
        others = {key: value for key, value in values.items() if key not in self.named}
        spec = Spec(
            schema={},
            kind="json",
            label="Other values",
            help="An object with values under other names.",
            required=False,
            nullable=True,
        )
        return Json(
            spec,
            name=names.control(self.name, "others"),
            scene=builder.scene,
            initial=others or MISSING,
            secret=builder.definitions.holds_secret(more),
        )

    def parts(self) -> list[Field]:
        return [*self.properties.values(), *([self.others] if self.others else [])]

    def read(self) -> dict[str, Any]:
        found = {key: field.value() for key, field in self.properties.items()}
        return {**self._read_others(), **{key: value for key, value in found.items() if value is not MISSING}}

    def _read_others(self) -> dict[str, Any]:
        more = self.others.value() if self.others else None
        if self.others is None or more is None or more is MISSING:
            return {}
        if not isinstance(more, dict):
            self.others.errors.append('Write a JSON object, such as {"name": "value"}.')
            return {}
        if doubled := sorted(key for key in more if key in self.named):
            self.others.errors.append(f"{doubled[0]} has a field of its own.")
        return more

    def at(self, segment: str | int) -> Field | None:
        return self.properties.get(str(segment), self.others)


class Tuple(Composite):
    """A list of fixed length, each place with its own type."""

    def __init__(self, spec: Spec, *, name: str, scene: Scene, initial: Any, builder: Builder) -> None:
        super().__init__(spec, name=name, scene=scene, initial=initial)
        values = self.initial if isinstance(self.initial, list) else []
        self.places = [
            builder.field(
                part,
                label=f"Item {index + 1}",
                name=names.child(name, index),
                required=True,
                initial=values[index] if index < len(values) else MISSING,
            )
            for index, part in enumerate(spec.schema["prefixItems"])
        ]

    def parts(self) -> list[Field]:
        return self.places

    def read(self) -> list[Any]:
        return [value for field in self.places if (value := field.value()) is not MISSING]

    def at(self, segment: str | int) -> Field | None:
        return self.places[segment] if isinstance(segment, int) and segment < len(self.places) else None


class Union(Composite):
    """One of several models, told apart by one property: a choice, then the fields of each model.

    Outside any other union all models are on the page, so that no script is needed to change the choice; inside one
    only the chosen model is, since unions may contain themselves.
    """

    body_template = "forms/_union.html"

    def __init__(self, spec: Spec, *, name: str, scene: Scene, initial: Any, builder: Builder) -> None:
        super().__init__(spec, name=name, scene=scene, initial=initial)
        self.property = str(spec.schema["discriminator"]["propertyName"])
        values: Mapping[str, Any] = self.initial if isinstance(self.initial, Mapping) else {}
        variants = builder.definitions.variants(spec.schema)
        options = {"enum": [value for variant in variants for value in variant.values]}
        choice_spec = builder.definitions.spec(options, name=self.property)
        self.choice = Choice(
            choice_spec, name=names.child(name, self.property), scene=scene, initial=values.get(self.property, MISSING)
        )
        picked = self.choice.picked
        self.lazy = builder.inside_union
        scene.row_actions |= self.lazy
        scene.unions = True
        self.groups = [
            self._group(builder.in_union(), variant, names.control(name, str(index)), values)
            for index, variant in enumerate(variants)
            if variant.has(picked) or not self.lazy
        ]
        for group in self.groups:
            group.tokens = json.dumps([self.choice.token_of(value) for value in group.variant.values])

    def _group(self, builder: Builder, variant: Variant, name: str, values: Mapping[str, Any]) -> VariantGroup:
        if self.lazy and self.scene.text(names.control(name, names.SHOWN)) is None:
            builder = builder.fresh()  # nothing was posted for fields that were not on the page
        mine = variant.has(self.choice.picked) and values
        return VariantGroup(
            variant.spec,
            name=name,
            scene=builder.scene,
            initial=values if mine else MISSING,
            builder=builder,
            variant=variant,
        )

    @property
    def picked(self) -> VariantGroup | None:
        """The fields of the chosen model."""
        return next((group for group in self.groups if group.variant.has(self.choice.picked)), None)

    @property
    def shown_groups(self) -> list[VariantGroup]:
        """The models on the page: all that may still be chosen."""
        return [group for group in self.groups if group is self.picked or not self.scene.disabled]

    @property
    def refresh_name(self) -> str:
        return names.control(self.name, names.REFRESH)

    def parts(self) -> list[Field]:
        picked = self.picked
        return [self.choice, *(picked.parts() if picked else [])]

    def read(self) -> dict[str, Any]:
        tag = self.choice.value()
        if tag is MISSING or (picked := self.picked) is None:
            return {}
        return {**picked.read(), self.property: tag}

    def at(self, segment: str | int) -> Field | None:
        picked = self.picked
        if segment == self.property or picked is None:
            return self.choice
        return picked if segment == str(self.choice.picked) else picked.at(segment)


class VariantGroup(Group):
    """One model of a union, its discriminator left to the choice."""

    def __init__(self, spec: Spec, *, variant: Variant, builder: Builder, **options: Any) -> None:
        self.variant = variant
        self.tokens = ""  # the choice's tokens that show this group, as the script compares them
        super().__init__(spec, builder=builder, without=variant.name, **options)

    @property
    def shown_name(self) -> str:
        return names.control(self.name, names.SHOWN)
