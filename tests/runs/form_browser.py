"""A browser as far as forms go: reads the controls of a page and posts what a person would."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from django.http import QueryDict

from runs.forms import SchemaForm

VOID = {"input", "br", "hr", "img", "meta", "link"}


@dataclass
class Control:
    """One input, select, textarea or button."""

    tag: str
    attrs: dict[str, str | None]
    text: str = ""
    options: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.attrs.get("name") or ""

    @property
    def type(self) -> str:
        return self.attrs.get("type") or "text"


class Page(HTMLParser):
    """The controls, elements and words of a rendered page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.controls: list[Control] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self._templates = 0
        self.feed(re.sub(r"\r\n?", "\n", html).replace("\0", "\ufffd"))
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute twice in {attrs}"
        if tag not in VOID:
            self._open.append(tag)
        self._templates += tag == "template"
        self.tags.append((tag, given))
        if self._templates:
            return
        if tag in ("input", "select", "textarea", "button"):
            self.controls.append(Control(tag, given))
        if tag == "option":
            self.controls[-1].options.append((given.get("value") or "", "selected" in given))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"
        self._templates -= tag == "template"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "textarea" and not self._templates:
            self.controls[-1].text += data
        else:
            self.words += data

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _tag, attrs in self.tags if "id" in attrs]

    def control(self, name: str) -> Control:
        return next(control for control in self.controls if control.name == name)

    def names(self) -> list[str]:
        return [control.name for control in self.controls]

    def posted(self, *, press: str | None = None, **typed: Any) -> QueryDict:
        """What a browser sends, with some fields typed over (`__` stands for the dash) and a button pressed."""
        data = QueryDict(mutable=True)
        over = {name.replace("__", "-"): text for name, text in typed.items()}
        for control in self.controls:
            if "disabled" in control.attrs or not control.name or control.type == "file":
                continue
            for text in _sent(control):
                data.appendlist(control.name, text)
        for name, text in over.items():
            assert name in self.names(), f"{name} is not among {self.names()}"
            data.pop(name, None)
            if text is not None:
                data[name] = text
        if press is not None:
            name, _, value = press.partition("=")
            assert any(c.tag == "button" and c.name == name and c.attrs.get("value") == value for c in self.controls)
            data.appendlist(name, value)
        return data


def _sent(control: Control) -> list[str]:
    if control.tag == "button":
        return []
    if control.tag == "select":
        chosen = [value for value, selected in control.options if selected]
        return chosen[-1:] or [value for value, _selected in control.options[:1]]
    if control.tag == "textarea":
        return [control.text.removeprefix("\n").replace("\n", "\r\n")]
    value = control.attrs.get("value") or ""
    if control.type in ("checkbox", "radio"):
        return [value] if "checked" in control.attrs else []
    if control.type in ("datetime-local", "time"):
        return [re.sub(r"(T?\d\d:\d\d):00(\.0+)?\Z", r"\1", value)]
    return [value.replace("\n", "")]


def page(form: SchemaForm) -> Page:
    return Page(form.render())


def touch_nothing(schema: dict[str, Any], initial: Any = None, **options: Any) -> SchemaForm:
    """The form as it comes back when it is submitted as it was shown."""
    shown = page(SchemaForm(schema, initial=initial, **options))
    return SchemaForm(schema, data=shown.posted(), initial=initial, **options)
