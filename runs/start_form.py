"""The form that starts a run: the pipeline's input, a title, and a key that makes sending it twice start one run."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from django.core import signing
from django.http import HttpRequest, QueryDict
from flujo.errors import FlujoError
from flujo.registry import RegisteredPipeline

from runs.forms import SchemaForm

MAX_TITLE = 200
_SALT = "flujo.start"


class StartForm:
    """`schema_form` is None where the input has no schema: then `input_text` is JSON, if the first step takes any."""

    def __init__(self, entry: RegisteredPipeline, request: HttpRequest) -> None:
        posted = request.POST if request.method == "POST" else None
        typed = posted or QueryDict()
        self.entry = entry
        self.takes_input = entry.input_type is not None
        self.title = typed.get("title", "").strip()
        self.input_text = typed.get("input", "")
        self.run_id = _read_key(typed.get("key", "")) or uuid4().hex
        self.key = signing.Signer(salt=_SALT).sign(self.run_id)
        self.problems: list[str] = []
        self.input_problem = self.title_problem = ""
        schema = entry.input_schema()
        self.schema_form = (
            SchemaForm(schema, data=posted, files=request.FILES if posted is not None else None, user=request.user)
            if schema is not None
            else None
        )
        self.data: Any = None

    @property
    def is_row_action(self) -> bool:
        """Whether a button inside the form was pressed: show it again, start nothing."""
        return self.schema_form is not None and self.schema_form.is_row_action

    @property
    def failed(self) -> bool:
        """Whether something is to be corrected."""
        found = self.schema_form.errors_summary if self.schema_form is not None else []
        return bool(found or self.problems or self.input_problem or self.title_problem)

    def is_valid(self) -> bool:
        """Read what was typed into `data`."""
        if len(self.title) > MAX_TITLE:
            self.title_problem = f"A title has at most {MAX_TITLE} characters; this one has {len(self.title)}."
        if self.schema_form is not None:
            if self.schema_form.is_valid():
                self.data = self.schema_form.value
                return not self.title_problem
            return False
        if self.takes_input and self.input_text.strip():
            self._read_json()
        return not (self.title_problem or self.input_problem)

    def _read_json(self) -> None:
        try:
            self.data = json.loads(self.input_text)
        except json.JSONDecodeError as error:
            self.input_problem = f"This is not JSON: line {error.lineno}, column {error.colno}: {error.msg}."
        except RecursionError:
            self.input_problem = "This is not JSON: nested too deeply."
        except ValueError:
            self.input_problem = "This is no JSON for us: a number in it has thousands of digits."

    def refuse(self, error: FlujoError) -> None:
        """Show what the service refused at the fields it names."""
        errors = error.details.get("errors")
        if self.schema_form is not None and errors:
            self.schema_form.add_errors(errors)
        elif errors and self.takes_input:
            self.input_problem = error.message
        else:
            self.problems.append(error.message)


def _read_key(text: str) -> str:
    """The run id minted when the form was shown; empty for a key that this site did not sign."""
    try:
        return signing.Signer(salt=_SALT).unsign(text) if text else ""
    except signing.BadSignature:
        return ""
