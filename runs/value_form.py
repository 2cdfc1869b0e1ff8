"""The form for one value: fields where a JSON Schema describes it, a text of JSON where none does."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest
from flujo.errors import FlujoError

from runs.forms import SchemaForm


class ValueForm:
    """`schema` None means any JSON value, typed as `text`; `taken` is false where there is nothing to give at all;
    `initial` is the value shown first.
    """

    def __init__(
        self, schema: dict[str, Any] | None, request: HttpRequest, *, taken: bool = True, initial: Any = None
    ) -> None:
        posted = request.POST if request.method == "POST" else None
        self.taken = taken
        shown = "" if initial is None else json.dumps(initial, indent=2, ensure_ascii=False)
        self.text = shown if posted is None else posted.get("input", "")
        self.problem = ""
        self.data: Any = None
        self.schema_form = (
            SchemaForm(
                schema,
                data=posted,
                files=request.FILES if posted is not None else None,
                initial=initial,
                user=request.user,
            )
            if schema is not None
            else None
        )

    @property
    def is_row_action(self) -> bool:
        """Whether a button inside the form was pressed: show it again, do nothing."""
        return self.schema_form is not None and self.schema_form.is_row_action

    @property
    def failed(self) -> bool:
        """Whether something is to be corrected."""
        return bool(self.problem or (self.schema_form is not None and self.schema_form.errors_summary))

    def is_valid(self) -> bool:
        """Read what was typed into `data`."""
        if self.schema_form is not None:
            if not self.schema_form.is_valid():
                return False
            self.data = self.schema_form.value
        elif self.taken and self.text.strip():
            self._read_json()
        return not self.problem

    def _read_json(self) -> None:
        try:
            self.data = json.loads(self.text)
        except json.JSONDecodeError as error:
            self.problem = f"This is not JSON: line {error.lineno}, column {error.colno}: {error.msg}."
        except RecursionError:
            self.problem = "This is not JSON: nested too deeply."
        except ValueError:
            self.problem = "This is no JSON for us: a number in it has thousands of digits."

    def refuse(self, error: FlujoError) -> bool:
        """Show what the service refused at the fields it names; False when it names none of them."""
        errors = error.details.get("errors")
        if errors and self.schema_form is not None:
            self.schema_form.add_errors(errors)
        elif errors and self.taken:
            self.problem = error.message
        else:
            return False
        return True
