"""The fields where one of few values is picked: yes or no, options, a constant."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.forms.utils import flatatt

from runs.forms.field import Leaf
from runs.forms.refused import Refused
from runs.forms.spec import MISSING, same

_RADIOS = 4


@dataclass(frozen=True)
class Option:
    """One value to pick: the token that travels, and its word."""

    token: str
    label: str
    id: str
    selected: bool
    attrs: str


class Choice(Leaf):
    """One of the schema's values, given back with its own type."""

    template = "forms/_choice.html"
    ask = "Choose one of the options."

    @property
    def fieldset(self) -> bool:
        return self.radios

    @property
    def radios(self) -> bool:
        return len(self.values()) <= _RADIOS

    @property
    def group_attrs(self) -> str:
        """The attributes of the radio buttons' group."""
        attributes = {
            "role": "radiogroup",
            "aria-required": "true" if self.required_word == "required" else None,
            **self.common_attributes(),
        }
        return flatatt({key: value for key, value in attributes.items() if value not in (None, True, False)})

    def values(self) -> list[tuple[str, Any]]:
        """Labels and values as the schema lists them."""
        if "enum" in self.spec.schema:
            listed = self.spec.schema["enum"]
            words = [label_of(value) for value in listed]
            if len(set(words)) < len(words):
                words = [json.dumps(value, ensure_ascii=False) for value in listed]
            return list(zip(words, listed, strict=True))
        parts = self.spec.schema["anyOf"]
        return [(str(part.get("title") or label_of(part["const"])), part["const"]) for part in parts]

    @property
    def options(self) -> list[Option]:
        values = self.values()
        tokens = tokens_of([value for _label, value in values])
        words = [(token, label) for token, (label, _value) in zip(tokens, values, strict=True)]
        if self.may_be_blank:
            words.append(("", "Not set"))
        return [self._option(index, token, label) for index, (token, label) in enumerate(words)]

    def _option(self, index: int, token: str, label: str) -> Option:
        identity = f"{self.id}.{index}" if index else self.id  # the summary's link leads to the first
        selected = token == self.token
        attributes = {
            "type": "radio",
            "id": identity,
            "name": self.name,
            "value": token,
            "checked": selected,
            "disabled": self.scene.disabled,
            "autofocus": self.focus and not index,
        }
        return Option(token=token, label=label, id=identity, selected=selected, attrs=flatatt(attributes))

    @property
    def undecided(self) -> bool:
        """Whether none of the options is picked."""
        return not any(option.selected for option in self.options)

    @property
    def token(self) -> str | None:
        """The token that is picked; `None` while nothing is."""
        if self.scene.data is not None:
            return self.raw
        return self.token_of(self.initial)

    def token_of(self, value: Any) -> str | None:
        if value is None or value is MISSING:
            return "" if self.may_be_blank else None
        values = [found for _label, found in self.values()]
        for token, found in zip(tokens_of(values), values, strict=True):
            if same(found, value):
                return token
        return None

    @property
    def picked(self) -> Any:
        """The value that is picked; `MISSING` while none is."""
        values = [value for _label, value in self.values()]
        found = dict(zip(tokens_of(values), values, strict=True))
        return found.get(self.token, MISSING) if self.token else MISSING

    def read(self) -> Any:
        if not self.raw:
            return self.blank() if self.raw == "" or self.spec.required else MISSING
        picked = self.picked
        if picked is MISSING:
            raise Refused(self.ask)
        return picked

    def attributes(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "aria-required": "true" if self.required_word == "required" else None,
            "disabled": self.scene.disabled,
            **self.common_attributes(),
        }


class YesNo(Choice):
    """A truth value that must be stated, or may be left open."""

    ask = "Choose yes or no."

    def values(self) -> list[tuple[str, Any]]:
        return [("Yes", True), ("No", False)]


class Checkbox(Leaf):
    """A truth value with a default."""

    template = "forms/_checkbox.html"

    def read(self) -> Any:
        return self.raw is not None

    @property
    def checked(self) -> bool:
        return self.raw is not None if self.scene.data is not None else self.initial is True

    @property
    def required_word(self) -> str:
        return ""

    def attributes(self) -> dict[str, Any]:
        return {
            "type": "checkbox",
            "id": self.id,
            "name": self.name,
            "value": "true",
            "checked": self.checked,
            "disabled": self.scene.disabled,
            **self.common_attributes(),
        }


class Constant(Leaf):
    """A value the schema fixes: shown, not asked."""

    template = "forms/_constant.html"

    def read(self) -> Any:
        return self.spec.schema["const"]

    @property
    def required_word(self) -> str:
        return ""

    @property
    def text(self) -> str:
        return label_of(self.spec.schema["const"])


def label_of(value: Any) -> str:
    """The word for an option's value."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def tokens_of(values: list[Any]) -> list[str]:
    """One text per value: the value itself where that is clear, its JSON where `1` and `"1"` would meet."""
    plain = [value if isinstance(value, str) else json.dumps(value) for value in values]
    if len(set(plain)) == len(plain) and "" not in plain:
        return plain
    return [json.dumps(value) for value in values]
