"""The fields that are typed as text: words, numbers, secrets, JSON."""

from __future__ import annotations

import math
import re
from typing import Any

from runs.forms import json_text
from runs.forms.field import Leaf, as_posted
from runs.forms.refused import Refused
from runs.forms.spec import MISSING, Schema

_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")
_LONG = 200
_FORMAT_HELP = {"duration": "A duration such as PT15M (15 minutes) or P3D (3 days)."}
_FORMAT_KEYBOARD = {"email": "email", "uri": "url"}


class Text(Leaf):
    """Words, kept exactly as typed, spaces included."""

    template = "forms/_text.html"

    def read(self) -> Any:
        if self.raw is not None and "\0" in self.raw:
            raise Refused("Take out the NUL character.")
        return super().read()

    def parse(self, raw: str) -> str:
        return as_posted(raw)

    def blank(self) -> Any:
        if self.raw:
            return as_posted(self.raw)
        return "" if self.may_be_empty else super().blank()

    @property
    def may_be_empty(self) -> bool:
        """Whether no words at all is an answer: not for a required text, unless the model says so."""
        stated = not self.spec.required or self.spec.schema.get("minLength") == 0
        return stated and not self.spec.nullable and not self.left_out

    @property
    def may_be_blank(self) -> bool:
        return self.may_be_empty or super().may_be_blank

    @property
    def multiline(self) -> bool:
        schema = self.spec.schema
        long = schema.get("format") == "textarea" or schema.get("maxLength", 0) > _LONG
        return bool(long) or "\n" in self.text or len(self.text) > _LONG

    @property
    def area_text(self) -> str:
        """The text for a textarea, whose first line break a browser drops."""
        return "\n" + self.text

    @property
    def help_lines(self) -> list[str]:
        least, most = self.spec.schema.get("minLength", 0), self.spec.schema.get("maxLength")
        if least and most:
            size = f"{least} to {most} characters." if least != most else f"Exactly {most} characters."
        else:
            size = f"At least {least} characters." if least > 1 else f"At most {most} characters." if most else ""
        form = _FORMAT_HELP.get(self.spec.schema.get("format", ""), "")
        return [*super().help_lines, *(line for line in (size, form) if line)]

    def attributes(self) -> dict[str, Any]:
        keyboard = _FORMAT_KEYBOARD.get(self.spec.schema.get("format", ""))
        return {**super().attributes(), "inputmode": keyboard, "rows": "4" if self.multiline else None}


class Number(Leaf):
    """A number, read with Python's exactness rather than a browser's."""

    template = "forms/_text.html"
    ask = "Enter a number, such as 12.50."
    multiline = False

    def parse(self, raw: str) -> Any:
        text = raw.strip()
        if not _NUMBER.match(text):
            raise Refused(self.ask)
        number = float(text)
        if math.isinf(number):
            raise Refused("The number is too large.")
        return number

    @property
    def help_lines(self) -> list[str]:
        return [*super().help_lines, *_bounds(self.spec.schema)]

    def attributes(self) -> dict[str, Any]:
        return {**super().attributes(), "inputmode": "decimal", "autocomplete": "off"}


class Integer(Number):
    """A whole number of any size."""

    ask = "Enter a whole number, such as 12."

    def parse(self, raw: str) -> int:
        text = raw.strip()
        if not _INTEGER.match(text):
            raise Refused(self.ask)
        if len(text) > json_text.MAX_DIGITS:
            raise Refused(f"The number has more than {json_text.MAX_DIGITS} digits.")
        return int(text)

    def attributes(self) -> dict[str, Any]:
        # the numeric keyboard of some phones has no minus sign
        signless = _least(self.spec.schema) >= 0
        return {**super().attributes(), "inputmode": "numeric" if signless else "text"}


class DecimalNumber(Number):
    """A decimal number, which travels as the text that was typed: 0.10 stays 0.10.

    pydantic writes `float | str` the same way as `Decimal`, so text that is no number is left for the model to judge.
    """

    def parse(self, raw: str) -> str:
        return raw.strip() if _NUMBER.match(raw.strip()) else raw

    @property
    def help_lines(self) -> list[str]:
        number: Schema = next((part for part in self.spec.schema.get("anyOf", []) if part.get("type") == "number"), {})
        return [*super().help_lines, *_bounds(number)]


class Secret(Leaf):
    """Something that is written and never shown again."""

    template = "forms/_text.html"
    multiline = False

    def read(self) -> Any:
        if not self.raw and self.given is not MISSING:
            return self.given
        return super().read()

    def unchanged(self, raw: str) -> bool:
        return False

    def blank(self) -> Any:
        return self.raw or super().blank()

    def parse(self, raw: str) -> str:
        return raw

    @property
    def text(self) -> str:
        return ""

    @property
    def help_lines(self) -> list[str]:
        if self.scene.disabled:
            return [*super().help_lines, "Secret: not shown."]
        if self.given is not MISSING and self.given is not None:
            return [*super().help_lines, "Leave empty to keep the stored value, which is not shown."]
        return [*super().help_lines, *(["Not shown again: enter it once more."] if self.raw else [])]

    def attributes(self) -> dict[str, Any]:
        return {**super().attributes(), "type": "password", "autocomplete": "new-password", "spellcheck": "false"}


class Json(Text):
    """A value with no form of its own, written as JSON."""

    ask = "Enter a JSON value."
    multiline = True

    def __init__(self, *args: Any, secret: bool = False, note: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.secret = secret
        self.note = note

    def read(self) -> Any:
        if self.secret and not (self.raw or "").strip() and self.given is not MISSING:
            return self.given
        return Leaf.read(self)

    def unchanged(self, raw: str) -> bool:
        return not self.secret and super().unchanged(raw)

    def parse(self, raw: str) -> Any:
        return json_text.read(raw)

    def blank(self) -> Any:
        return Leaf.blank(self)

    @property
    def may_be_empty(self) -> bool:
        return False

    def text_of(self, value: Any) -> str:
        return "" if value is MISSING or (value is None and self.spec.nullable) else json_text.shown(value)

    @property
    def text(self) -> str:
        return "" if self.secret else super().text

    @property
    def help_lines(self) -> list[str]:
        hidden = "May hold secrets: not shown. Leave empty to keep the stored value." if self.secret else ""
        lines = [self.spec.help, "Written as JSON.", self.note, hidden]
        return [line for line in lines if line]

    def attributes(self) -> dict[str, Any]:
        code = {"spellcheck": "false", "autocomplete": "off", "autocapitalize": "off", "class": "field__code"}
        return {**super().attributes(), **code, "rows": str(min(12, max(3, self.text.count("\n") + 1)))}


def _least(schema: Schema) -> float:
    return max(float(schema.get(word, -math.inf)) for word in ("minimum", "exclusiveMinimum"))


def _bounds(schema: Schema) -> list[str]:
    """The limits in words, each as the schema wrote it."""
    words = (
        ("minimum", "At least"),
        ("exclusiveMinimum", "More than"),
        ("maximum", "At most"),
        ("exclusiveMaximum", "Less than"),
        ("multipleOf", "A multiple of"),
    )
    found = [f"{word} {_plain(schema[key])}" for key, word in words if key in schema]
    return [", ".join([found[0], *(part[0].lower() + part[1:] for part in found[1:])]) + "."] if found else []


def _plain(number: Any) -> str:
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)
