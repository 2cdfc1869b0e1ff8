"""One field of a form: what was stored, what was typed, what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from django.forms.utils import flatatt
from django.http import QueryDict
from django.utils.datastructures import MultiValueDict

from runs.forms.refused import Refused
from runs.forms.spec import MISSING, Spec
from runs.uploads import User

Files = MultiValueDict[str, Any]
MAX_INPUTS = 800
"""How many inputs one form may have: Django refuses a post of more than 1,000 values."""


@dataclass
class Scene:
    """What all fields of one form share."""

    data: QueryDict | None = None
    files: Files | None = None
    user: User | None = None
    disabled: bool = False
    inputs: int = 0
    row_actions: bool = False
    unions: bool = False

    def texts(self, name: str) -> list[str]:
        return self.data.getlist(name) if self.data is not None else []

    def text(self, name: str) -> str | None:
        found = self.texts(name)
        return found[-1] if found else None


class Field:
    """A field, simple or composite. `name` is its control's name and its id on the page."""

    template: ClassVar[str]

    def __init__(self, spec: Spec, *, name: str, scene: Scene, initial: Any = MISSING) -> None:
        self.spec = spec
        self.name = name
        self.scene = scene
        self.given = initial
        self.initial = spec.default if initial is MISSING else initial
        self.errors: list[str] = []
        self.label = spec.label
        self.focus = False
        self.in_row = False
        self.number = 0

    def value(self) -> Any:
        """The JSON-ready value, or `MISSING` when the property is left out or could not be read (see `errors`)."""
        try:
            return self.read()
        except Refused as refusal:
            self.errors.append(str(refusal))
            return MISSING

    def read(self) -> Any:
        """Read the value from what was posted; raises `Refused`."""
        raise NotImplementedError

    def within(self) -> Iterator[tuple[str, Field]]:
        """This field and those inside it, each with the label that finds it on the page."""
        yield self.full_label, self

    def at(self, segment: str | int) -> Field | None:
        """The field inside this one at a segment of an error's location."""
        return None

    def face(self) -> Field:
        """The field that is seen in this one's place, and so carries its errors."""
        return self

    @property
    def full_label(self) -> str:
        return f"{self.label} {self.number}" if self.number else self.label

    @property
    def fieldset(self) -> bool:
        """Whether the field is several controls under one legend."""
        return False

    @property
    def id(self) -> str:
        return self.name

    @property
    def required_word(self) -> str:
        """What the label says about leaving the field empty; nothing where that cannot happen."""
        return ""

    @property
    def help_lines(self) -> list[str]:
        """What stands under the label."""
        return [self.spec.help] if self.spec.help else []

    @property
    def described_by(self) -> str:
        words = [f"{self.id}.help"] if self.help_lines else []
        return " ".join([*words, f"{self.id}.error"] if self.errors else words)

    def common_attributes(self) -> dict[str, Any]:
        """What every control of this field says to assistive technology."""
        return {
            "aria-describedby": self.described_by or None,
            "aria-invalid": "true" if self.errors else None,
            "autofocus": self.focus,
        }

    def attributes(self) -> dict[str, Any]:
        """The attributes of the field's control; those that are None are left out."""
        return self.common_attributes()

    @property
    def attrs(self) -> str:
        """The control's attributes, escaped."""
        return flatatt({key: value for key, value in self.attributes().items() if value is not None})


class Leaf(Field):
    """A field with one text: as posted, else as stored."""

    ask: ClassVar[str] = "Enter a value."

    def __init__(self, spec: Spec, *, name: str, scene: Scene, initial: Any = MISSING) -> None:
        super().__init__(spec, name=name, scene=scene, initial=initial)
        scene.inputs += 1
        self.raw = scene.text(name)

    def read(self) -> Any:
        if self.raw is None:
            return self.blank() if self.spec.required else MISSING
        if self.initial is not MISSING and self.unchanged(self.raw):
            return self.initial
        if not self.raw.strip():
            return self.blank()
        return self.parse(self.raw)

    def parse(self, raw: str) -> Any:
        """The JSON-ready value of a text that is not blank; raises `Refused`."""
        raise NotImplementedError

    def blank(self) -> Any:
        """What an empty control means: null where null is allowed, never an empty string instead."""
        if not self.may_be_blank:
            raise Refused(self.ask)
        return None if self.spec.nullable and not self.left_out else MISSING

    @property
    def left_out(self) -> bool:
        """Whether an empty control leaves the property to the model."""
        return self.spec.may_be_absent and self.given is MISSING

    @property
    def may_be_blank(self) -> bool:
        return self.spec.nullable or self.left_out

    @property
    def required_word(self) -> str:
        return "optional" if self.may_be_blank else "required"

    def unchanged(self, raw: str) -> bool:
        """Whether the text is what the page showed, so that the stored value stands byte for byte."""
        return as_posted(raw) == as_posted(self.text_of(self.initial))

    def text_of(self, value: Any) -> str:
        """The value as the control shows it."""
        if value is None or value is MISSING:
            return ""
        return value if isinstance(value, str) else str(value)

    @property
    def text(self) -> str:
        """What the control shows."""
        text = self.raw if self.raw is not None else "" if self.scene.data is not None else self.text_of(self.initial)
        return as_posted(text)

    def attributes(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "aria-required": "true" if self.required_word == "required" else None,
            "readonly": self.scene.disabled,
            "placeholder": f"e.g. {self.spec.example}" if self.spec.example and not self.scene.disabled else None,
            **self.common_attributes(),
        }


_BREAK = re.compile(r"\r\n?")


def as_posted(text: str) -> str:
    """The text as a browser that was shown it sends it back, line breaks written as `\\n`."""
    text = _BREAK.sub("\n", text).replace("\0", "\ufffd")
    return text.encode(errors="replace").decode()
